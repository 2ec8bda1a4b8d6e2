"""What each case should reach. The numbers stand here and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Unit = Literal["rows/s", "batches/s", "ms", "MiB", "MB/s", "files", "times"]


@dataclass(frozen=True, slots=True)
class AtLeast:
    """A rate: at least this share of the floor's."""

    share: float

    def holds(self, floor: float, measured: float) -> bool:
        return measured >= self.share * floor

    def __str__(self) -> str:
        return f">= {self.share:g} x"


@dataclass(frozen=True, slots=True)
class AtMost:
    """A time: at most this many times the floor's, and some milliseconds for HTTP and the catalog."""

    times: float
    plus_ms: float = 0.0

    def holds(self, floor: float, measured: float) -> bool:
        return measured <= self.times * floor + self.plus_ms

    def __str__(self) -> str:
        return f"<= {self.times:g} x" + (f" + {self.plus_ms:g} ms" if self.plus_ms else "")


Goal = AtLeast | AtMost

BATCH_ROWS = (100, 1_000, 10_000)
CLIENTS = (1, 8)
PARTITIONS = (1, 10, 100, 1_000)
ROWS_PER_PARTITION = 1_000

# Smaller batches are for information: their cost is HTTP, fsync and commit, whoever writes them.
INGEST: dict[int, Goal] = {10_000: AtLeast(0.6)}
# As CSV, Arrow and line protocol, whose floor is Arrow's (that of nobody who reads lines by hand).
FORMAT_BATCH_ROWS = 100_000
FORMATS: Goal = AtLeast(0.7)
WARM_QUERY: Goal = AtMost(1.3, plus_ms=3)
# Small batches in the catalog beside files, and a thousand of them beside one file.
INLINE_INGEST: Goal = AtLeast(4)
INLINE_QUERY: Goal = AtMost(1.3, plus_ms=3)
JSON_ANSWER: Goal = AtMost(2)
COMPACTED_QUERY: Goal = AtMost(1.5, plus_ms=3)
CACHED_QUERY: Goal = AtMost(1.2)
# Sorting, verifying and publishing beside plain copying; and the engine's limit beside the process around it.
COMPACTION_RATE: Goal = AtLeast(0.3)
COMPACTION_MEMORY: Goal = AtMost(1.5)


@dataclass(frozen=True, slots=True)
class Result:
    """One line of the table. Without a floor or a goal it is for information."""

    case: str
    unit: Unit
    floor: float | None
    measured: float
    goal: Goal | None = None

    @property
    def ratio(self) -> float | None:
        return self.measured / self.floor if self.floor else None

    @property
    def met(self) -> bool | None:
        if self.goal is None or self.floor is None:
            return None
        return self.goal.holds(self.floor, self.measured)
