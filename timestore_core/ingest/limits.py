"""What a batch may take up, and the names that its columns may have: checked before anything is allocated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from timestore_core.errors import InvalidRequest, Problem
from timestore_core.ingest.envelope import check_schema
from timestore_core.model import Field
from timestore_core.settings import Settings

# A body may grow so many times when what is compressed inside it is decoded.
DECODED_PER_BODY = 8
_BYTES_PER_CELL = 8


@dataclass(frozen=True, slots=True)
class Limits:
    """The settings that bound a batch, under the names that decoders use."""

    settings: Settings

    @property
    def decoded_bytes(self) -> int:
        """How many bytes the columns may take."""
        return DECODED_PER_BODY * self.settings.ingest_max_body_bytes

    def check_rows(self, rows: int, columns: int = 1) -> None:
        """Raise InvalidRequest for too many rows, or for too many cells where even empty ones take room."""
        limit = self.settings.ingest_max_rows
        if rows > limit:
            raise InvalidRequest.at("rows", f"has {rows} rows; TIMESTORE_INGEST_MAX_ROWS is {limit}")
        if rows * columns > self.decoded_bytes // _BYTES_PER_CELL:
            raise InvalidRequest.at("rows", f"has {rows} rows of {columns} columns; send it in smaller parts")


def check_names(names: Sequence[str], limits: Limits) -> None:
    """Raise InvalidRequest for too many columns, a bad name, or two that are one to the engine."""
    problems: list[Problem] = []
    check_schema([Field(name, "string") for name in names], limits.settings, problems, "columns")
    if problems:
        raise InvalidRequest.of(problems[:50])
