"""A long answer in slices of time, each small enough to be sorted by itself, together the whole in order.

Sorting five million rows at once needs them all in memory; since time comes first in the order of rows, slices that
follow one another in time give the same rows in the same order. Where to cut is counted: one pass over the times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from timestore_core.model import TimeRange
from timestore_core.names import quote_identifier
from timestore_core.query.plan import PlannedPartition, QueryPlan

_SLICE_CELLS = 1_000_000
_MIN_ROWS, _MAX_ROWS = 4_096, 200_000
_MIN_BINS, _MAX_BINS = 1_024, 65_536

# How many rows each of the equally wide bins has, by number; (range, width in microseconds) → counts.
Counted = Callable[[TimeRange, int], Mapping[int, int]]


@dataclass(frozen=True, slots=True)
class _Bin:
    range: TimeRange
    rows: int


def slice_rows(plan: QueryPlan) -> int:
    """How many rows a slice should have at most: fewer where rows are wide."""
    return max(_MIN_ROWS, min(_MAX_ROWS, _SLICE_CELLS // max(1, len(plan.columns))))


def can_be_sliced(plan: QueryPlan) -> bool:
    """Whether slices of the plan's answer, one after the other, are the answer: it has plain rows."""
    # Rows of which the last written counts are only found together where they have this time in common.
    whole = plan.dedupe is None or plan.timestamp_column in plan.dedupe.key
    return plan.is_raw and not plan.latest and whole


def is_sliced(plan: QueryPlan) -> bool:
    """Whether the plan's answer comes in slices: it has more rows than one slice should have."""
    return can_be_sliced(plan) and min(plan.row_limit, plan.rows_at_most) > slice_rows(plan)


def first_count(plan: QueryPlan) -> tuple[TimeRange, int]:
    """What `slices` has counted first: over all of the plan's range, in bins of this width."""
    range_ = _span(plan)
    return range_, _width(range_, plan.rows_at_most, slice_rows(plan))


def slices(plan: QueryPlan, counted: Counted, target: int) -> Iterator[QueryPlan]:
    """The plan for each slice of up to `target` rows, in the plan's order; rows of one time stay together.

    Each is over its part of the range, with the partitions that can have rows there.
    """
    taken: list[_Bin] = []
    rows = 0
    bins = _bins(_span(plan), plan.rows_at_most, target, counted, descending=plan.descending)
    for one in bins:
        if taken and rows + one.rows > target:
            yield replace(narrowed(plan, _over(taken)), counted=rows)
            taken, rows = [], 0
        taken.append(one)
        rows += one.rows
    if taken:
        yield replace(narrowed(plan, _over(taken)), counted=rows)


def histogram_sql(plan: QueryPlan, rows: str, range_: TimeRange, width_us: int) -> str:
    """How many of the rows fall into each bin of this width, from the range's start on; empty bins are left out."""
    time = quote_identifier(plan.timestamp_column)
    number = f"(epoch_us({time}) - ({range_.start_us:d})) // {width_us:d}"
    return f"SELECT {number} AS bin, count(*) FROM ({rows}) GROUP BY 1"


def narrowed(plan: QueryPlan, range_: TimeRange) -> QueryPlan:
    """The plan over this part of its time range, without the partitions that have no rows there."""
    kept = tuple(_reached(partition, range_) for partition in plan.partitions if _touches(partition, range_))
    return replace(plan, partitions=kept, time_range=range_)


def _over(bins: list[_Bin]) -> TimeRange:
    return TimeRange(min(one.range.start_us for one in bins), max(one.range.end_us for one in bins))


def _bins(range_: TimeRange, rows: int, target: int, counted: Counted, *, descending: bool) -> Iterator[_Bin]:
    """The range's bins that have rows, in order; one that has too many is counted again, more finely."""
    width = _width(range_, rows, target)
    for number, found in sorted(counted(range_, width).items(), reverse=descending):
        start = range_.start_us + number * width
        bin_ = _Bin(TimeRange(start, min(start + width - 1, range_.end_us)), found)
        if found > target and width > 1:
            yield from _bins(bin_.range, found, target, counted, descending=descending)
        else:
            yield bin_


def _width(range_: TimeRange, rows: int, target: int) -> int:
    wanted = max(_MIN_BINS, min(_MAX_BINS, 8 * rows // target))
    return -(-(range_.end_us - range_.start_us + 1) // wanted)


def _span(plan: QueryPlan) -> TimeRange:
    """The part of the plan's range in which its partitions can have rows."""
    known = [partition.bounds or plan.time_range for partition in plan.partitions]
    return TimeRange(
        max(plan.time_range.start_us, min(one.start_us for one in known)),
        min(plan.time_range.end_us, max(one.end_us for one in known)),
    )


def _touches(partition: PlannedPartition, range_: TimeRange) -> bool:
    known = partition.bounds
    return known is None or (known.start_us <= range_.end_us and known.end_us >= range_.start_us)


def _reached(partition: PlannedPartition, range_: TimeRange) -> PlannedPartition:
    known = partition.bounds
    inside = known is not None and known.start_us >= range_.start_us and known.end_us <= range_.end_us
    return replace(partition, within_range=partition.within_range and inside)
