"""Which partitions can hold a row of the answer, by what the catalog knows of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from timestore_core.dedupe import Dedupe, is_unique
from timestore_core.model import ColumnStatistics, Partition, TimeRange
from timestore_core.query.filters import Condition, key_meets, rules_out
from timestore_core.query.request import QueryRequest


@dataclass(frozen=True, slots=True)
class Selection:
    """The partitions to read, True beside one wholly inside the time range, and how many were ruled out by what."""

    chosen: tuple[tuple[Partition, bool], ...]
    ruled_out: Mapping[str, int]


def select_partitions(
    partitions: Iterable[Partition],
    request: QueryRequest,
    conditions: Sequence[Condition] = (),
    dedupe: Dedupe | None = None,
) -> Selection:
    """The partitions that can hold a row that is in range and meets the conditions.

    With a `dedupe` also those that can hold what such a row was before, or is since: they have its key.
    """
    if dedupe is not None:
        conditions = [one for one in conditions if one.column in dedupe.key]
    chosen, ruled_out = [], Counter[str]()
    for partition in partitions:
        known = partition.statistics.get(request.timestamp_column)
        reason = _reason(partition, known, request, conditions, dedupe)
        if reason is not None:
            ruled_out[reason] += _count(partition)
        else:
            chosen.append((partition, known is not None and _inside(known, request.time_range)))
    if request.mode == "raw" and request.limit is not None and not conditions and dedupe is None:
        wanted = request.limit + 1 + (request.position.skip if request.position else 0)
        enough = _first_enough(chosen, request.timestamp_column, wanted, descending=request.descending)
        if len(enough) < len(chosen):
            ruled_out["limit"] = partition_count(chosen) - partition_count(enough)
        chosen = enough
    return Selection(tuple(chosen), dict(ruled_out))


def partition_count(chosen: Iterable[tuple[Partition, bool]]) -> int:
    """How many partitions these are, those that stand for several counted as such."""
    return sum(_count(partition) for partition, _ in chosen)


def _count(partition: Partition) -> int:
    return len(partition.members) or 1


def _reason(
    partition: Partition,
    known: ColumnStatistics | None,
    request: QueryRequest,
    conditions: Sequence[Condition],
    dedupe: Dedupe | None,
) -> str | None:
    """Why the partition has no row of the answer, or None where it may have one."""
    if partition.row_count == 0:
        return "rows"
    if not _key_matches(partition, request):
        return "partitionKey"
    if dedupe is not None and dedupe.time_column != request.timestamp_column:
        return None
    if partition.schema.type_of(request.timestamp_column) != "timestamp":
        return "timestampColumn"
    if known is not None and not _overlaps(known, request.time_range):
        return "timeRange"
    for condition in conditions:
        has_column = partition.schema.type_of(condition.column) is not None
        found = partition.statistics.get(condition.column)
        if rules_out(condition, found, partition.row_count, has_column=has_column):
            return f"columns.{condition.column}"
    return None


def _key_matches(partition: Partition, request: QueryRequest) -> bool:
    key = partition.partition_key
    return all(key.get(name) in accepted for name, accepted in request.partition_key) and all(
        key_meets(condition, key.get(condition.column)) for condition in request.key_conditions
    )


def _overlaps(known: ColumnStatistics, wanted: TimeRange) -> bool:
    low, high = known.minimum, known.maximum
    if not isinstance(low, int) or not isinstance(high, int):
        return False
    return low <= wanted.end_us and high >= wanted.start_us


def _inside(known: ColumnStatistics, wanted: TimeRange) -> bool:
    low, high = known.minimum, known.maximum
    if known.nulls or not isinstance(low, int) or not isinstance(high, int):
        return False
    return low >= wanted.start_us and high <= wanted.end_us


def _first_enough(
    chosen: Sequence[tuple[Partition, bool]], timestamp_column: str, limit: int, *, descending: bool
) -> list[tuple[Partition, bool]]:
    """Without those that begin after `limit` rows are certain to have come: they cannot be among the first."""
    ends = ("minimum", "maximum") if descending else ("maximum", "minimum")
    sign = -1 if descending else 1
    certain = sorted(
        (sign * _bound(partition, timestamp_column, ends[0]), partition.row_count)
        for partition, inside in chosen
        if inside
    )
    rows = 0
    for last, count in certain:
        rows += count
        if rows >= limit:
            return [
                (partition, inside)
                for partition, inside in chosen
                if timestamp_column not in partition.statistics
                or sign * _bound(partition, timestamp_column, ends[1]) <= last
            ]
    return list(chosen)


def _bound(partition: Partition, column: str, which: str) -> int:
    value = getattr(partition.statistics[column], which)
    assert isinstance(value, int)
    return value


def overlapping(partitions: Sequence[Partition], dedupe: Dedupe) -> frozenset[str]:
    """The ids of those of which a row may be in another one, or in the same one, again: their times overlap."""
    found, timeless = set[str](), set[str]()
    spans = []
    for partition in partitions:
        known = partition.statistics.get(dedupe.time_column)
        low, high = (None, None) if known is None else (known.minimum, known.maximum)
        if not isinstance(low, int) or not isinstance(high, int):
            return frozenset(one.id for one in partitions)
        if not is_unique(partition, dedupe) or len(partition.members) > 1:
            found.add(partition.id)
        spans.append((low, high, partition.id))
        if known is not None and known.nulls:
            timeless.add(partition.id)
    spans.sort()
    if len(timeless) > 1:
        found |= timeless
    last_high, last_id = None, ""
    for low, high, id_ in spans:
        if last_high is not None and low <= last_high:
            found |= {last_id, id_}
        if last_high is None or high >= last_high:
            last_high, last_id = high, id_
    return frozenset(found)
