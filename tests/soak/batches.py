"""What the writers send: batches whose every row says which batch, row and dataset it is of.

The values follow from these numbers alone, so an answer is held against what was sent without storing it twice. No
two batches of a dataset share a moment: a range of time always means certain rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from tests.integration.model import iso

TYPES = {
    "timestamp": "timestamp",
    "batch": "integer",
    "row": "integer",
    "dataset": "string",
    "value": "double",
    "note": "string",
}
COLUMNS = tuple(TYPES)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Key = tuple[tuple[str, str], ...]
# Which rows of a batch: bit r stands for row r.
Bits = int


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch, its rows evenly apart. `notes` says whether it has the column `note` at all."""

    number: int
    slug: str
    key: Key
    start_us: int
    step_us: int
    count: int
    notes: bool = True

    @property
    def idempotency_key(self) -> str:
        return f"batch-{self.number}"

    @property
    def end_us(self) -> int:
        """The last row's time."""
        return self.start_us + (self.count - 1) * self.step_us

    def last_us(self, bits: Bits) -> int:
        """The time of the last of these rows."""
        return self.start_us + (bits.bit_length() - 1) * self.step_us

    @property
    def all_rows(self) -> Bits:
        return (1 << self.count) - 1

    def within(self, start_us: int, end_us: int) -> Bits:
        """The rows from the one time to the other, both inclusive."""
        first = max(0, -((self.start_us - start_us) // self.step_us))
        last = min(self.count - 1, (end_us - self.start_us) // self.step_us)
        return 0 if last < first else (1 << (last + 1)) - (1 << first)

    def rows(self, bits: Bits) -> list[dict[str, Any]]:
        """These rows as an answer has them, by time."""
        whole = _rows(self)
        return whole if bits == self.all_rows else [row for row in whole if bits >> row["row"] & 1]

    def body(self) -> dict[str, Any]:
        """The body of the request that sends it."""
        fields = [{"name": name, "type": kind} for name, kind in TYPES.items() if self.notes or name != "note"]
        names = [field["name"] for field in fields]
        return {
            "schema": {"fields": fields},
            "partition": {
                "key": dict(self.key),
                "timeRange": {"start": moment(self.start_us), "end": moment(self.end_us)},
            },
            "rows": [{name: row[name] for name in names} for row in _rows(self)],
        }


def moment(microseconds: int) -> str:
    """The time as it stands on the wire."""
    return iso(_EPOCH + timedelta(microseconds=microseconds))


def selected(key: Key, wanted: Mapping[str, tuple[str, ...]]) -> bool:
    """Whether a filter by partition key means this one."""
    mine = dict(key)
    return all(mine.get(name) in values for name, values in wanted.items())


@lru_cache(maxsize=4096)
def _rows(batch: Batch) -> list[dict[str, Any]]:
    return [_row(batch, number) for number in range(batch.count)]


def _row(batch: Batch, number: int) -> dict[str, Any]:
    # Eighths add up exactly, so that a wrong sum cannot hide in a tolerance.
    value = None if (batch.number + number) % 11 == 0 else ((batch.number * 31 + number * 17) % 8001 - 4000) / 8
    return {
        "timestamp": moment(batch.start_us + number * batch.step_us),
        "batch": batch.number,
        "row": number,
        "dataset": batch.slug,
        "value": value,
        "note": f"{batch.number}/{number}" if batch.notes and number % 3 else None,
    }
