"""Where the next page begins. A cursor pins the version, so that pages fit together whatever is written meanwhile."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Annotated

import msgspec
from msgspec import Meta

from timestore_core.errors import Problem

_MAX_US = 2**62


@dataclass(frozen=True, slots=True)
class Position:
    """A page's begin in the answer of one version.

    Of stored rows: those from `time_us` on (or down from it, in descending order), without the first `skip`.
    Of all others: without the first `skip`.
    """

    version: int
    time_us: int | None
    skip: int


class _WireCursor(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    question: str
    version: Annotated[int, Meta(ge=1, lt=2**31)]
    time_us: Annotated[int, Meta(ge=-_MAX_US, le=_MAX_US)] | None
    skip: Annotated[int, Meta(ge=0, lt=2**48)]


def write_cursor(question: str, position: Position) -> str:
    """The position as text that a client sends back with the same question."""
    wire = _WireCursor(question, position.version, position.time_us, position.skip)
    return base64.urlsafe_b64encode(msgspec.json.encode(wire)).decode().rstrip("=")


def read_cursor(text: str, question: str, problems: list[Problem]) -> Position | None:
    """The position; what is wrong with it is added to the problems."""
    try:
        padded = text.encode("ascii") + b"=" * (-len(text) % 4)
        wire = msgspec.json.decode(base64.b64decode(padded, altchars=b"-_", validate=True), type=_WireCursor)
    except (ValueError, binascii.Error, msgspec.DecodeError):
        problems.append(Problem("cursor", "is not a nextCursor that this service gave"))
        return None
    if wire.question != question:
        problems.append(Problem("cursor", "belongs to another question; only limit may differ from page to page"))
        return None
    return Position(wire.version, wire.time_us, wire.skip)
