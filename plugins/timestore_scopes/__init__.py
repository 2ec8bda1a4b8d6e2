"""Who may do what, by the scope headers of a gateway: `x-iam-scopes`, `x-iam-user`. One matching scope is enough."""

from __future__ import annotations

import hmac
from collections.abc import Collection, Mapping
from typing import Any

from timestore_core.errors import Unauthenticated
from timestore_core.hookspecs import Action, hookimpl
from timestore_core.model import Actor, Dataset
from timestore_core.settings import Settings

_USER_HEADERS = ("x-iam-user", "x-user-id", "x-actor-id")


@hookimpl(trylast=True)
def timestore_principal(headers: Mapping[str, str], settings: Settings) -> Actor:
    """The actor that the gateway names. Where a gateway secret is set, only the gateway may name one."""
    if settings.gateway_secret is not None:
        given = headers.get("x-gateway-secret")
        if given is None:
            return Actor(None, frozenset(), authenticated=False)
        if not hmac.compare_digest(given.encode(), settings.gateway_secret.get_secret_value().encode()):
            raise Unauthenticated("x-gateway-secret: is not the one that this service expects")
    scopes = frozenset(part.strip() for part in headers.get("x-iam-scopes", "").split(",") if part.strip())
    user = next((headers[name].strip() for name in _USER_HEADERS if headers.get(name, "").strip()), None)
    return Actor(user, scopes)


@hookimpl(trylast=True)
def timestore_authorize(actor: Actor, action: Action, dataset: Dataset | None, settings: Settings) -> bool:
    required = _required(action, dataset, settings)
    return not required or not actor.scopes.isdisjoint(required)


def _required(action: Action, dataset: Dataset | None, settings: Settings) -> Collection[str]:
    """The scopes of which one is needed; none means open to all."""
    if action == "admin":
        return _first(settings.admin_scope, settings.require_scope)
    own = _own_scopes(dataset, "readScopes" if action == "read" else "writeScopes")
    if own is not None:
        return own
    if action == "read":
        return _first(settings.require_scope)
    return _first(settings.require_write_scope, settings.admin_scope, settings.require_scope)


def _own_scopes(dataset: Dataset | None, key: str) -> Collection[str] | None:
    """The dataset's own list where it has one; an empty list means open to all."""
    iam: Any = dataset.metadata.get("iam") if dataset is not None else None
    scopes = iam.get(key) if isinstance(iam, Mapping) else None
    return [one for one in scopes if isinstance(one, str)] if isinstance(scopes, list) else None


def _first(*candidates: str | None) -> Collection[str]:
    return next(([one] for one in candidates if one), ())
