"""A plan is data: what to read and how to combine it, with no open handle. Any engine can run it."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from timestore_core.aggregations import Aggregation, Scale
from timestore_core.errors import InvalidRequest, Problem
from timestore_core.model import ColumnStatistics, Field, FieldType, Partition, Schema, TimeRange
from timestore_core.query.request import AskedAggregation, Bucket, QueryRequest

# Scaled values are below 2**62, so that they fit into 64 bits with a sign and room to be rounded up.
_SCALED_BITS = 62
# Columns that reach further are added up plainly. A larger value, such as 1e20 or 3.4e38, mostly stands for "none",
# and beside it what was measured would lose its digits; below the smallest, doubles run out of digits themselves.
_SMALLEST, _LARGEST = 2.0**-900, 2.0**64


@dataclass(frozen=True, slots=True)
class PlannedPartition:
    """One file to read. `within_range` says that all its rows are in the plan's time range.

    `members` are the ids of the partitions that stand together in one relation (see `partitions.inline`), where this
    is no file: one of them, or many.
    """

    id: str
    target_id: str
    location: str
    file_path: str
    format: str
    table_name: str
    schema: Schema
    size_bytes: int
    rows: int
    within_range: bool
    members: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class QueryPlan:
    """What a query reads and gives.

    `output` are the result's columns with their types, in order. Without a bucket the rows come as they are;
    `row_limit` is what the client asked for or, with `limit_is_guard`, one more than an answer may have.
    `scales` are those of the double columns whose aggregations have an exact form.
    """

    dataset_id: str
    dataset_slug: str
    version: int
    partitions: tuple[PlannedPartition, ...]
    considered: int
    time_range: TimeRange
    timestamp_column: str
    columns: tuple[Field, ...]
    bucket: Bucket | None
    aggregations: tuple[AskedAggregation, ...]
    output: tuple[Field, ...]
    row_limit: int
    limit_is_guard: bool
    timeout_ms: int
    scales: tuple[tuple[str, Scale], ...] = ()


def resolve_columns(
    request: QueryRequest, schema: Schema, functions: Mapping[str, Aggregation]
) -> tuple[tuple[Field, ...], tuple[Field, ...]]:
    """The columns to read and those of the result. Raises InvalidRequest naming what the schema lacks."""
    problems: list[Problem] = []
    _check_time_column(request, schema, problems)
    if request.bucket is None:
        names = schema.names if request.columns is None else request.columns
        read = tuple(_known(schema, name, "columns", problems) for name in names)
        output = read
    else:
        asked = [one.column for one in request.aggregations if one.column is not None]
        read = tuple(_known(schema, name, "downsample.aggregations", problems) for name in dict.fromkeys(asked))
        results = [
            _result(one, index, schema, functions[one.fn], problems) for index, one in enumerate(request.aggregations)
        ]
        output = (Field(request.timestamp_column, "timestamp"), *results)
    if problems:
        raise InvalidRequest.of(problems)
    return read, output


def select_partitions(partitions: Iterable[Partition], request: QueryRequest) -> list[tuple[Partition, bool]]:
    """The partitions that can hold a row of the answer; True beside one wholly inside the time range."""
    chosen = []
    for partition in partitions:
        if partition.row_count == 0 or not _key_matches(partition, request):
            continue
        if partition.schema.type_of(request.timestamp_column) != "timestamp":
            continue
        known = partition.statistics.get(request.timestamp_column)
        if known is None:
            chosen.append((partition, False))
        elif _overlaps(known, request.time_range):
            chosen.append((partition, _inside(known, request.time_range)))
    if request.bucket is None and request.limit is not None:
        return _first_enough(chosen, request.timestamp_column, request.limit)
    return chosen


def column_scales(
    aggregations: Iterable[AskedAggregation],
    columns: Iterable[Field],
    functions: Mapping[str, Aggregation],
    partitions: Collection[Partition],
) -> tuple[tuple[str, Scale], ...]:
    """The scales of the double columns of aggregations that have an exact form, where they are known.

    `partitions` are all those of the snapshot, also the ones that the query does not read.
    """
    exact = {one.column for one in aggregations if functions[one.fn].exact is not None}
    doubles = [field.name for field in columns if field.type == "double" and field.name in exact]
    scales = ((name, _scale(name, partitions)) for name in doubles)
    return tuple((name, scale) for name, scale in scales if scale is not None)


def _scale(name: str, partitions: Iterable[Partition]) -> Scale | None:
    """The column's scale, or None where a partition's values are not known to be within useful bounds."""
    largest, guarded = 0.0, False
    for partition in partitions:
        known = partition.statistics.get(name)
        if known is None:
            if partition.row_count and partition.schema.type_of(name) is not None:
                return None
        elif known.nulls < partition.row_count:
            low, high = known.minimum, known.maximum
            if not isinstance(low, int | float) or not isinstance(high, int | float):
                return None
            # Integers of before the column was widened are read as doubles too.
            largest = max(largest, abs(float(low)), abs(float(high)))
            guarded = guarded or not known.exact
    if largest and not _SMALLEST <= largest < _LARGEST:
        return None
    return Scale(_SCALED_BITS - math.frexp(largest)[1], guarded)


def _key_matches(partition: Partition, request: QueryRequest) -> bool:
    return all(partition.partition_key.get(key) in accepted for key, accepted in request.partition_key)


def _overlaps(known: ColumnStatistics, wanted: TimeRange) -> bool:
    low, high = known.minimum, known.maximum
    if not isinstance(low, int) or not isinstance(high, int):
        return False
    return low <= wanted.end_us and high >= wanted.start_us


def _inside(known: ColumnStatistics, wanted: TimeRange) -> bool:
    low, high = known.minimum, known.maximum
    assert isinstance(low, int)
    assert isinstance(high, int)
    return known.nulls == 0 and low >= wanted.start_us and high <= wanted.end_us


def _first_enough(
    chosen: Sequence[tuple[Partition, bool]], timestamp_column: str, limit: int
) -> list[tuple[Partition, bool]]:
    """Without those that begin after `limit` rows are certain to have come: they cannot be among the first."""
    certain = sorted(
        (_bound(partition, timestamp_column, "maximum"), partition.row_count) for partition, inside in chosen if inside
    )
    rows = 0
    for last, count in certain:
        rows += count
        if rows >= limit:
            return [
                (partition, inside)
                for partition, inside in chosen
                if timestamp_column not in partition.statistics
                or _bound(partition, timestamp_column, "minimum") <= last
            ]
    return list(chosen)


def _bound(partition: Partition, column: str, which: str) -> int:
    value = getattr(partition.statistics[column], which)
    assert isinstance(value, int)
    return value


def _check_time_column(request: QueryRequest, schema: Schema, problems: list[Problem]) -> None:
    if not schema.fields:
        return
    found = schema.type_of(request.timestamp_column)
    if found is None:
        problems.append(Problem("timestampColumn", f"{request.timestamp_column!r} is no column of this dataset"))
    elif found != "timestamp":
        problems.append(Problem("timestampColumn", f"{request.timestamp_column!r} is of type {found}, not timestamp"))


def _known(schema: Schema, name: str, path: str, problems: list[Problem]) -> Field:
    found = schema.type_of(name)
    if found is None:
        problems.append(Problem(path, f"{name!r} is no column of this dataset"))
        return Field(name, "string")
    return Field(name, found)


def _result(
    asked: AskedAggregation, index: int, schema: Schema, function: Aggregation, problems: list[Problem]
) -> Field:
    found: FieldType | None = None
    if asked.column is not None:
        found = schema.type_of(asked.column)
        if found is not None and found not in function.column_types:
            problems.append(
                Problem(
                    f"downsample.aggregations[{index}].column",
                    f"{asked.column!r} is of type {found}; {asked.fn} takes {', '.join(sorted(function.column_types))}",
                )
            )
            return Field(asked.alias, "double")
    return Field(asked.alias, function.result(found))
