"""Who asks, and whether they may."""

from __future__ import annotations

from collections.abc import Mapping

import falcon

from timestore_core.errors import Forbidden, Unauthenticated
from timestore_core.hookspecs import Action
from timestore_core.model import Actor, Dataset
from timestore_core.runtime import Runtime


def headers_of(req: falcon.Request) -> dict[str, str]:
    """The request's headers under lower-case names, as plugins read them."""
    return {name.lower(): value for name, value in req.headers.items()}


def identify(runtime: Runtime, req: falcon.Request, headers: Mapping[str, str] | None = None) -> Actor:
    """The actor of the request, also for its line in the log; by other headers than its own where they are given."""
    headers = headers_of(req) if headers is None else headers
    actor = runtime.plugins.principal(headers, runtime.settings)
    req.context.log["actor"] = actor.id
    return actor


def require(runtime: Runtime, actor: Actor, action: Action, dataset: Dataset | None) -> None:
    """Raise Forbidden unless the actor may, Unauthenticated where no credentials came that could be judged."""
    if not runtime.plugins.may(actor, action, dataset, runtime.settings):
        if not actor.authenticated:
            raise Unauthenticated(f"credentials are required to {action} here")
        raise Forbidden(f"the scopes of this request do not allow to {action} here")
