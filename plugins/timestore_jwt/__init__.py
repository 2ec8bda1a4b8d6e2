"""Who asks, by `Authorization: Bearer <JWT>`. Active when a secret or a key set is configured."""

from __future__ import annotations

from collections.abc import Mapping

from timestore_core.errors import Unauthenticated
from timestore_core.hookspecs import hookimpl
from timestore_core.model import Actor
from timestore_core.settings import Settings
from timestore_jwt.tokens import verified


@hookimpl
def timestore_principal(headers: Mapping[str, str], settings: Settings) -> Actor | None:
    """The token's actor. While this is configured, scope headers alone count only behind a gateway's secret."""
    if not _configured(settings):
        return None
    authorization = headers.get("authorization")
    if authorization is None:
        behind_gateway = settings.gateway_secret is not None and "x-gateway-secret" in headers
        return None if behind_gateway else Actor(None, frozenset(), authenticated=False)
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthenticated("Authorization: must be `Bearer` and a token")
    return verified(token.strip(), settings)


def _configured(settings: Settings) -> bool:
    return any((settings.jwt_secret, settings.jwt_jwks, settings.jwt_jwks_url))
