"""What each case should reach. The numbers stand here and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Unit = Literal["rows/s", "batches/s", "ms", "MiB", "MB/s", "files", "times", "answers", "answers/s"]


@dataclass(frozen=True, slots=True)
class AtLeast:
    """A rate: at least this share of the floor's, and at least so much of its unit whatever the machine."""

    share: float = 0.0
    absolute: float = 0.0

    def holds(self, floor: float | None, measured: float) -> bool | None:
        if floor is None and self.share:
            return None
        return measured >= self.share * (floor or 0.0) and measured >= self.absolute

    def __str__(self) -> str:
        return _both(f">= {self.share:g} x" if self.share else "", f">= {self.absolute:,.0f}" if self.absolute else "")


@dataclass(frozen=True, slots=True)
class AtMost:
    """At most this many times the floor's, and so much more of its unit: of a time, for HTTP and the catalog."""

    times: float = 0.0
    plus: float = 0.0

    def holds(self, floor: float | None, measured: float) -> bool | None:
        if floor is None and self.times:
            return None
        return measured <= self.times * (floor or 0.0) + self.plus

    def __str__(self) -> str:
        if not self.times:
            return f"<= {self.plus:g}"
        return f"<= {self.times:g} x" + (f" + {self.plus:g}" if self.plus else "")


def _both(one: str, other: str) -> str:
    return ", ".join(text for text in (one, other) if text)


Goal = AtLeast | AtMost

BATCH_ROWS = (100, 1_000, 10_000)
CLIENTS = (1, 8)
PARTITIONS = (1, 10, 100, 1_000)
ROWS_PER_PARTITION = 1_000

# By the rows of a batch and the clients, on two cores. Smaller batches are for information: their cost is HTTP, fsync
# and commit, whoever writes them.
INGEST: dict[tuple[int, int], Goal] = {(10_000, 1): AtLeast(0.7), (10_000, 8): AtLeast(0.7, 300_000)}
WARM_QUERY: Goal = AtMost(1.3, plus=3)
# Batches of 100,000 rows on two cores.
FORMAT_INGEST: dict[str, Goal] = {
    "CSV": AtLeast(0.7, 800_000),
    "Arrow": AtLeast(0.7, 1_500_000),
    "Arrow into Parquet": AtLeast(0.7, 3_000_000),
    "line protocol": AtLeast(0.7, 400_000),
}
# Small batches in the catalog beside files, and a thousand of them beside one file.
INLINE_INGEST: Goal = AtLeast(4)
INLINE_QUERY: Goal = AtMost(1.3, plus=3)
JSON_ANSWER: Goal = AtMost(2)
COMPACTED_QUERY: Goal = AtMost(1.3, plus=3)
COUNT_OF_ALL: Goal = AtMost(plus=3)
ARROW_MILLION: Goal = AtLeast(absolute=3_000_000)
JSON_MILLION: Goal = AtLeast(absolute=1_000_000)
# With 64 clients the slowest of a hundred answers beside the middle one; and no failure but 429.
CROWD_P99: Goal = AtMost(5)
NONE_OF_THEM: Goal = AtMost()
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
        return None if self.goal is None else self.goal.holds(self.floor, self.measured)
