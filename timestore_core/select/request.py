"""A SELECT as a client sends it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import msgspec
from msgspec import Meta

from timestore_core.errors import InvalidRequest, Problem
from timestore_core.model import TimeRange
from timestore_core.names import name_problem
from timestore_core.query.request import MAX_VERSION
from timestore_core.settings import Settings
from timestore_core.wire import WireTimeRange, checked_range, decode

MAX_SQL_LENGTH = 65_536


class WireSelect(msgspec.Struct, frozen=True, rename="camel"):
    """The body of `POST /datasets/:slug/sql`."""

    sql: Annotated[str, Meta(min_length=1, max_length=MAX_SQL_LENGTH)]
    time_range: WireTimeRange | None = None
    timestamp_column: str = "timestamp"
    as_of: Annotated[int, Meta(ge=1, le=MAX_VERSION)] | Annotated[str, Meta(min_length=1, max_length=255)] | None = None


@dataclass(frozen=True, slots=True)
class SelectRequest:
    """A statement that is not yet held against the rules, and which rows its tables have."""

    sql: str
    time_range: TimeRange | None
    timestamp_column: str
    as_of: int | str | None


def parse_select(body: bytes, settings: Settings) -> SelectRequest:
    """The request in the body. Raises InvalidRequest naming every field at fault."""
    wire = decode(body, WireSelect)
    problems: list[Problem] = []
    time_range = None if wire.time_range is None else checked_range(wire.time_range, "timeRange", problems)
    wrong = name_problem(wire.timestamp_column, settings.max_name_length)
    if wrong:
        problems.append(Problem("timestampColumn", wrong))
    for path, text in (("sql", wire.sql), ("asOf", wire.as_of)):
        if isinstance(text, str) and "\0" in text:
            problems.append(Problem(path, "holds a NUL character"))
    if problems:
        raise InvalidRequest.of(problems)
    # What ends a statement elsewhere may stand here too.
    return SelectRequest(wire.sql.rstrip("; \t\r\n"), time_range, wire.timestamp_column, wire.as_of)
