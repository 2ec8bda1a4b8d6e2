"""Cursors: opaque to clients, keyset positions to us."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

import msgspec

from timestore_core.errors import InvalidRequest

MAX_LIMIT = 100
DEFAULT_LIMIT = 20


def encode_cursor(position: Mapping[str, Any]) -> str:
    """The position as base64url of its JSON, without padding."""
    return base64.urlsafe_b64encode(msgspec.json.encode(dict(position))).decode().rstrip("=")


def decode_cursor(cursor: str, required: tuple[str, ...]) -> dict[str, Any]:
    """The position. Raises InvalidRequest (`invalid cursor`) for what no earlier answer gave."""
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        position = msgspec.json.decode(raw)
    except (binascii.Error, ValueError, msgspec.DecodeError, RecursionError):
        raise InvalidRequest("invalid cursor") from None
    if not isinstance(position, dict) or not all(_is_text(position.get(name)) for name in required):
        raise InvalidRequest("invalid cursor")
    return position


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and "\0" not in value
