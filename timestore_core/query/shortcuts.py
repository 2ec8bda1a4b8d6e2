"""What the catalog's statistics answer by themselves: whole aggregates, and where the newest rows cannot be."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

from timestore_core.model import ColumnStatistics, FieldType, Partition, Schema
from timestore_core.query.asked import AskedAggregation
from timestore_core.query.filters import Condition, Value, meets
from timestore_core.query.plan import Constant, Resolved
from timestore_core.query.request import QueryRequest

_MAX_GROUPS = 1024
Chosen = Sequence[tuple[Partition, bool]]


def constants(request: QueryRequest, resolved: Resolved, schema: Schema, chosen: Chosen) -> tuple[Constant, ...] | None:
    """The one row of aggregates over everything chosen, or None where files have to be read for it.

    Counts and extremes of whole partitions are known; nothing else is.
    """
    if request.mode != "aggregated" or resolved.groups or resolved.conditions:
        return None
    if not all(inside for _, inside in chosen):
        return None
    partitions = [partition for partition, _ in chosen]
    found = [_constant(one, request, schema, partitions) for one in request.aggregations]
    return None if None in found else tuple(one for one in found if one is not None)


def without_older(request: QueryRequest, resolved: Resolved, chosen: Chosen) -> Chosen:
    """Those that can have the newest row of a group, by the groups that each is known to have.

    A partition wholly in range that has a group has a row of it no older than the partition's first. Any partition
    that ends before that, for all the groups that it has, can be left out.
    """
    time = request.timestamp_column
    names = [field.name for field in resolved.groups or ()]
    if any(condition.column not in names for condition in resolved.conditions):
        return chosen
    known = {partition.id: _groups(partition, names, resolved.conditions) for partition, _ in chosen}
    newest: dict[tuple[Value | None, ...], int] = {}
    for partition, inside in chosen:
        groups, bound = known[partition.id], partition.statistics.get(time)
        if groups is None or not inside or bound is None or not isinstance(bound.minimum, int):
            continue
        for group in groups if names else [()]:
            # Where there is one group its newest row is the partition's last.
            alone = len(groups) == 1 and not resolved.conditions and not _nullable(partition, names)
            sure = bound.maximum if alone else bound.minimum
            if isinstance(sure, int):
                newest[group] = max(newest.get(group, sure), sure)
    return [one for one in chosen if _can_be_newest(one[0], known[one[0].id], newest, time)]


def _can_be_newest(
    partition: Partition,
    groups: frozenset[tuple[Value | None, ...]] | None,
    newest: Mapping[tuple[Value | None, ...], int],
    time: str,
) -> bool:
    bound = partition.statistics.get(time)
    if groups is None or bound is None or not isinstance(bound.maximum, int):
        return True
    return any(group not in newest or bound.maximum >= newest[group] for group in groups)


def _groups(
    partition: Partition, names: Sequence[str], conditions: Sequence[Condition]
) -> frozenset[tuple[Value | None, ...]] | None:
    """The groups that the partition has, or None where they are not known."""
    columns = [_values(partition, name, conditions) for name in names]
    known = [one for one in columns if one is not None]
    if len(known) < len(columns) or math.prod(len(one) for one in known) > _MAX_GROUPS:
        return None
    # Of several columns with several values each it is not known which combinations there are.
    if sum(len(one) > 1 for one in known) > 1:
        return None
    return frozenset(itertools.product(*known))


def _values(partition: Partition, name: str, conditions: Sequence[Condition]) -> list[Value | None] | None:
    """All values of a group's column that meet the conditions. NULL is none of them where one must hold."""
    known, held = partition.statistics.get(name), [one for one in conditions if one.column == name]
    if partition.schema.type_of(name) is None:
        return [None] if not held else None
    if known is None:
        return None
    values = _all(known)
    if values is None or any(one.operator == "isNull" for one in held):
        return None
    kept: list[Value | None] = [one for one in values if all(meets(one, condition) for condition in held)]
    return [*kept, None] if known.nulls and not held else kept


def _all(known: ColumnStatistics) -> list[Value] | None:
    if known.values is not None:
        return sorted(known.values)
    if known.exact and known.minimum is not None and known.minimum == known.maximum:
        return [known.minimum]
    return None


def _nullable(partition: Partition, names: Sequence[str]) -> bool:
    found = (partition.statistics.get(name) for name in names)
    return any(one is None or one.nulls for one in found)


def _constant(
    asked: AskedAggregation, request: QueryRequest, schema: Schema, partitions: Sequence[Partition]
) -> Constant | None:
    column = asked.column
    if asked.fn == "count":
        counts = [_count(one, column) for one in partitions]
        return None if None in counts else Constant("integer", sum(one or 0 for one in counts))
    which = {"min": "minimum", "max": "maximum", "first_time": "minimum", "last_time": "maximum"}.get(asked.fn)
    if which is None or (asked.fn.endswith("_time") and column is not None):
        return None
    column = request.timestamp_column if column is None else column
    type_ = schema.type_of(column)
    ends = list(_ends(partitions, column, which))
    if type_ is None or None in ends:
        return None
    values = [value for one in ends if one is not None for value in one]
    return Constant(type_, _extreme(which, type_, values))


def _count(partition: Partition, column: str | None) -> int | None:
    if column is None:
        return partition.row_count
    known = partition.statistics.get(column)
    if partition.schema.type_of(column) is None:
        return 0
    return None if known is None else partition.row_count - known.nulls


def _ends(partitions: Sequence[Partition], column: str, which: str) -> Iterator[list[Value] | None]:
    """Each partition's end of the column's values: none where all are NULL, None where it is not known."""
    for partition in partitions:
        known = partition.statistics.get(column)
        if partition.schema.type_of(column) is None or (known is not None and known.nulls >= partition.row_count):
            yield []
        elif known is None or not known.exact:
            yield None
        else:
            value = getattr(known, which)
            yield None if value is None else [value]


def _extreme(which: str, type_: FieldType, values: Sequence[Value]) -> Value | None:
    if not values:
        return None
    numbers = [float(one) if type_ == "double" else one for one in values]
    return min(numbers) if which == "minimum" else max(numbers)
