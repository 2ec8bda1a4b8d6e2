"""What lines become: pieces of columns for each measurement, and the lines that are bad."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from timestore_core.model import FieldType

MAX_LINE_BYTES = 256 * 1024
MAX_MEASUREMENTS = 500
# So many bad lines are named; all are counted.
MAX_NAMED_LINES = 200
_SHOWN_CHARACTERS = 200
TIME_COLUMN = "timestamp"

Lines = npt.NDArray[np.int64]


class LineError(Exception):
    """What is wrong with a line."""


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that was left out: its number from 1, what is wrong, and how it begins."""

    number: int
    reason: str
    text: str


@dataclass(frozen=True, slots=True)
class FieldColumn:
    """The values of one field, of the type that its lines write."""

    type: FieldType
    values: pa.Array


@dataclass(frozen=True, slots=True)
class Piece:
    """Lines of one measurement as columns. `lines` has their numbers from 1; a NULL is a tag or field not there."""

    lines: Lines
    times_us: pa.Array
    tags: Mapping[str, pa.Array]
    fields: Mapping[str, FieldColumn]

    def without(self, bad: npt.NDArray[np.bool_]) -> Piece:
        """The piece without the lines where the mask is true."""
        kept = pa.array(~bad)
        return Piece(
            self.lines[~bad],
            self.times_us.filter(kept),
            {name: values.filter(kept) for name, values in self.tags.items()},
            {name: FieldColumn(one.type, one.values.filter(kept)) for name, one in self.fields.items()},
        )


@dataclass(slots=True)
class BadLines:
    """The bad lines of a body: all are counted, the first are named."""

    count: int = 0
    named: list[BadLine] = field(default_factory=list)

    def add(self, number: int, reason: str, line: bytes) -> None:
        """Note one; when there are many, those that were noted first stay."""
        self.count += 1
        if self.has_room:
            text = line[: 4 * _SHOWN_CHARACTERS].decode("utf-8", "replace")
            self.named.append(BadLine(number, reason, text[:_SHOWN_CHARACTERS]))

    def take(self, other: BadLines) -> None:
        """Note all of the other's."""
        self.count += other.count
        self.named += other.named[: MAX_NAMED_LINES - len(self.named)]

    @property
    def has_room(self) -> bool:
        """Whether one more would be named."""
        return len(self.named) < MAX_NAMED_LINES

    def in_order(self) -> list[BadLine]:
        """The named ones by their number."""
        return sorted(self.named, key=lambda one: one.number)
