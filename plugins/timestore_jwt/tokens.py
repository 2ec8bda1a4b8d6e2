"""Verifying a token: HS256 by a shared secret, RS256 and ES256 by a key set. Nothing else is ever accepted."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import jwt

from timestore_core.errors import ConfigurationError, Unauthenticated, Unavailable
from timestore_core.model import Actor
from timestore_core.settings import Settings

FETCH_TIMEOUT_S = 5
KEYS_LIFETIME_S = 300
_BY_KEY_SET = {"RS256": "RSA", "ES256": "EC"}


def verified(token: str, settings: Settings) -> Actor:
    """The actor of a good token. Raises Unauthenticated for any other, without repeating it."""
    try:
        key, algorithm = _key(token, settings)
        claims: dict[str, Any] = jwt.decode(
            token,
            key,
            algorithms=[algorithm],
            audience=settings.jwt_audience,
            issuer=settings.jwt_issuer,
            leeway=settings.jwt_leeway_seconds,
            options={"require": ["exp"], "verify_aud": settings.jwt_audience is not None},
        )
    except jwt.PyJWKClientConnectionError as error:
        raise Unavailable("the key set of TIMESTORE_JWT_JWKS_URL cannot be fetched; try again shortly") from error
    except jwt.PyJWTError as error:
        raise Unauthenticated(f"Authorization: the token is not accepted ({type(error).__name__})") from None
    subject = claims.get("sub")
    return Actor(subject if isinstance(subject, str) else None, _scopes(claims))


def _key(token: str, settings: Settings) -> tuple[Any, str]:
    """The key that this token must be signed with, and the one algorithm that goes with it."""
    header = jwt.get_unverified_header(token)
    algorithm = header.get("alg")
    if algorithm == "HS256" and settings.jwt_secret is not None:
        return settings.jwt_secret.get_secret_value(), "HS256"
    if algorithm in _BY_KEY_SET and settings.jwt_jwks_url is not None:
        found = _client(settings.jwt_jwks_url).get_signing_key_from_jwt(token)
        return _of_type(found, algorithm).key, algorithm
    if algorithm in _BY_KEY_SET and settings.jwt_jwks is not None:
        keys = [one for one in _key_set(settings.jwt_jwks).keys if one.key_id == header.get("kid")]
        if keys:
            return _of_type(keys[0], algorithm).key, algorithm
    raise jwt.InvalidKeyError


def _of_type(key: jwt.PyJWK, algorithm: str) -> jwt.PyJWK:
    if key.key_type != _BY_KEY_SET[algorithm]:
        raise jwt.InvalidKeyError
    return key


def _scopes(claims: dict[str, Any]) -> frozenset[str]:
    """`scope` as one text with spaces, or `scp` as a list (or a text), as issuers write them."""
    found: set[str] = set()
    for value in (claims.get("scope"), claims.get("scp")):
        words = value.split() if isinstance(value, str) else value if isinstance(value, list) else []
        found.update(word for word in words if isinstance(word, str))
    return frozenset(found)


@lru_cache(maxsize=4)
def _client(url: str) -> jwt.PyJWKClient:
    return jwt.PyJWKClient(url, cache_jwk_set=True, lifespan=KEYS_LIFETIME_S, timeout=FETCH_TIMEOUT_S)


@lru_cache(maxsize=4)
def _key_set(text: str) -> jwt.PyJWKSet:
    try:
        return jwt.PyJWKSet.from_json(text)
    except (jwt.PyJWTError, ValueError) as error:
        raise ConfigurationError("TIMESTORE_JWT_JWKS: is not a JSON Web Key Set") from error
