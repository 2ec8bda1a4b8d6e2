"""Who writes: a token as InfluxDB's clients send it becomes the bearer's."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping

import falcon

from timestore_http.access import headers_of


def credentials(req: falcon.Request, parameters: Mapping[str, str]) -> Mapping[str, str]:
    """The request's headers, with `Authorization: Bearer` for what is a token by another way.

    These are `Authorization: Token …` of version 2, and of version 1 the password of `Authorization: Basic …` or of
    the parameter `p`, where a password that looks like a token (three parts with dots between) is one.
    """
    headers = headers_of(req)
    scheme, _, given = headers.get("authorization", "").partition(" ")
    token = None
    if scheme.lower() == "token":
        # Some clients put the user before it.
        token = given.strip().rpartition(":")[2]
    elif scheme.lower() == "basic":
        token = _password(given.strip())
    elif not scheme:
        token = parameters.get("p")
    if token is not None and (scheme.lower() == "token" or token.count(".") == 2):
        headers["authorization"] = f"Bearer {token}"
    return headers


def _password(encoded: str) -> str | None:
    try:
        return base64.b64decode(encoded, validate=True).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        return None
