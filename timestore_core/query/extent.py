"""How much a snapshot holds, told by what the catalog knows of its partitions; no file is opened."""

from __future__ import annotations

from dataclasses import dataclass

from timestore_core.catalog.snapshots import Head, read_head
from timestore_core.errors import Gone
from timestore_core.model import Partition, TimeRange
from timestore_core.runtime import Runtime
from timestore_core.times import to_us

_TIME = "timestamp"


@dataclass(frozen=True, slots=True)
class Extent:
    """Rows, and the first and last time of the column `timestamp`; None where there are no rows."""

    rows: int
    time_range: TimeRange | None


def read_extent(runtime: Runtime, head: Head) -> tuple[Head, Extent]:
    """The head's extent; a newer head's where this one was collected meanwhile."""
    try:
        partitions = [one for one in runtime.snapshots.partitions(head) if one.row_count] if head.version else []
    except Gone:
        newer = read_head(runtime.database, head.dataset.slug)
        if newer is None or newer.version == head.version:
            raise
        return read_extent(runtime, newer)
    ranges = [_range(partition) for partition in partitions]
    rows = sum(partition.row_count for partition in partitions)
    if not ranges:
        return head, Extent(rows, None)
    return head, Extent(rows, TimeRange(min(one.start_us for one in ranges), max(one.end_us for one in ranges)))


def _range(partition: Partition) -> TimeRange:
    """What its statistics say; else, for a partition of before there were any, what its batch said."""
    known = partition.statistics.get(_TIME)
    low, high = (None, None) if known is None else (known.minimum, known.maximum)
    if isinstance(low, int) and isinstance(high, int):
        return TimeRange(low, high)
    return TimeRange(to_us(partition.start_time), to_us(partition.end_time))
