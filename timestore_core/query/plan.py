"""A plan is data: what to read and how to combine it, with no open handle. Any engine can run it."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from timestore_core.aggregations import Aggregation, Scale
from timestore_core.dedupe import Dedupe
from timestore_core.errors import InvalidRequest, Problem
from timestore_core.model import Field, FieldType, Partition, ResultField, Schema, TimeRange
from timestore_core.partitions.statistics import common_decimals
from timestore_core.query.asked import AskedAggregation
from timestore_core.query.buckets import Bucket
from timestore_core.query.downsampling import Fill
from timestore_core.query.filters import Condition, Value, column_conditions
from timestore_core.query.request import QueryRequest
from timestore_core.query.zones import UTC_ZONE, Zone

# Scaled values are below 2**62, so that they fit into 64 bits with a sign and room to be rounded up.
_SCALED_BITS = 62
# Columns that reach further are added up plainly: the scaled values, or their factors, would be no doubles.
_SMALLEST, _LARGEST = 2.0**-900, 2.0**900
# Of values with few digits after the point, the largest sum in units of the last one that is added up compensated: it
# is off by 2**-50 of the values' magnitudes at most, their own rounding included.
_MOST_SUMMED = 2.0**48


@dataclass(frozen=True, slots=True)
class PlannedPartition:
    """One file to read. `within_range` says that all its rows are in the plan's time range.

    `bounds` are the first and the last time in the file, where they are known. `members` are the ids of the partitions
    that stand together in one relation (see `partitions.inline`), where this is no file: one of them, or many.
    Where the plan has a `dedupe`, `overlaps` says that a row may be in another partition, or in this one, again;
    `version` is that of the rows, which `is_versioned` files have beside each.
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
    bounds: TimeRange | None = None
    version: int = 0
    is_versioned: bool = False
    overlaps: bool = False
    members: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Constant:
    """A result that the catalog knew; times as microseconds."""

    type: FieldType
    value: Value | None


@dataclass(frozen=True, slots=True)
class QueryPlan:
    """What a query reads and gives.

    `output` are the result's columns with their types, in order. Without a bucket, groups and aggregations the rows
    come as they are. Where `groups` is None there are none; an empty one is a single group of everything.
    `row_limit` is what the client asked for or, with `limit_is_guard`, one more than an answer may have.
    `scales` are those of the double columns whose aggregations have an exact form. `skip` rows that met everything
    are left out before the first. `zone` is the bucket's, over the rows' times or, where gaps are filled, over
    `fill_range`. Where there are `constants` they are the answer's one row, and no file is read. `ruled_out` says how
    many partitions were left out, and why. `counted` is how many rows there are, where they were counted.
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
    output: tuple[ResultField, ...]
    row_limit: int
    limit_is_guard: bool
    timeout_ms: int
    scales: tuple[tuple[str, Scale], ...] = ()
    conditions: tuple[Condition, ...] = ()
    groups: tuple[Field, ...] | None = None
    latest: bool = False
    fill: Fill | None = None
    fill_range: TimeRange | None = None
    zone: Zone = UTC_ZONE
    descending: bool = False
    skip: int = 0
    constants: tuple[Constant, ...] | None = None
    ruled_out: tuple[tuple[str, int], ...] = ()
    dedupe: Dedupe | None = None
    dedupe_fields: tuple[Field, ...] = ()
    counted: int | None = None

    @property
    def rows_at_most(self) -> int:
        """How many stored rows the answer is made of at most."""
        return sum(one.rows for one in self.partitions) if self.counted is None else self.counted

    @property
    def is_raw(self) -> bool:
        """Whether the answer's rows are stored ones."""
        return self.bucket is None and (self.groups is None or self.latest)

    @property
    def answers_nothing(self) -> bool:
        """Whether there is a row to answer where no row was read: the aggregates over everything."""
        return self.bucket is None and self.groups == () and not self.latest


@dataclass(frozen=True, slots=True)
class Resolved:
    """A request held against a schema: what to read, what comes out, by what to group, what must hold."""

    columns: tuple[Field, ...]
    output: tuple[ResultField, ...]
    groups: tuple[Field, ...] | None
    conditions: tuple[Condition, ...]


def resolve(request: QueryRequest, schema: Schema, functions: Mapping[str, Aggregation]) -> Resolved:
    """The request's columns and conditions as the schema has them. Raises InvalidRequest naming what it lacks."""
    problems: list[Problem] = []
    _check_time_column(request, schema, problems)
    conditions = column_conditions(dict(request.column_filters), schema, "filters.columns", problems)
    named = request.group_by
    groups = None if named is None else tuple(_known(schema, name, "groupBy", problems) for name in named)
    if request.mode in ("raw", "latest"):
        names = schema.names if request.columns is None else request.columns
        read = tuple(_known(schema, name, "columns", problems) for name in names)
        output = tuple(ResultField(one.name, one.type) for one in read)
        if request.latest:
            groups = groups or ()
            read = tuple(dict.fromkeys((*read, *groups)))
    else:
        path = "aggregations" if request.bucket is None else "downsample.aggregations"
        asked = [one.column for one in request.aggregations if one.column is not None]
        read = tuple(_known(schema, name, path, problems) for name in dict.fromkeys(asked))
        results = tuple(
            _result(one, f"{path}[{index}].column", request, schema, functions[one.fn], problems)
            for index, one in enumerate(request.aggregations)
        )
        groups = () if groups is None and request.bucket is None else groups
        read = tuple(dict.fromkeys((*read, *(groups or ()))))
        time = () if request.bucket is None else (ResultField(request.timestamp_column, "timestamp"),)
        output = (*time, *(ResultField(one.name, one.type) for one in groups or ()), *results)
    if problems:
        raise InvalidRequest.of(problems)
    return Resolved(read, output, groups, conditions)


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


def _scale(name: str, partitions: Collection[Partition]) -> Scale | None:
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
    rows = sum(one.row_count for one in partitions)
    decimals = common_decimals(name, partitions)
    exponent = _SCALED_BITS - math.frexp(largest)[1]
    if decimals is None or largest * 10.0**decimals >= 2.0**_SCALED_BITS:
        return Scale(exponent, guarded)
    return Scale(exponent, guarded, decimals, compensated=rows * largest * 10.0**decimals <= _MOST_SUMMED)


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
    asked: AskedAggregation,
    path: str,
    request: QueryRequest,
    schema: Schema,
    function: Aggregation,
    problems: list[Problem],
) -> ResultField:
    found: FieldType | None = None
    if asked.column is not None:
        found = schema.type_of(asked.column)
        if found is not None and found not in function.column_types:
            takes = ", ".join(sorted(function.column_types))
            problems.append(Problem(path, f"{asked.column!r} is of type {found}; {asked.fn} takes {takes}"))
            return ResultField(asked.alias, "double")
    type_ = function.result(found)
    fill = request.fill
    if type_ == "integer" and fill is not None and (fill.how == "linear" or not float(fill.value or 0).is_integer()):
        # What is put between integers is none itself.
        type_ = "double"
    return ResultField(asked.alias, type_)
