"""An answer put together from fragments is the undivided answer, whatever the data and however it is split."""

from __future__ import annotations

import math
import runpy
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from timestore_aggregations import timestore_aggregations

from timestore_core.aggregations import Aggregation, Decomposable, Gather, Multiset
from timestore_core.model import Field, FieldType, Partition, Schema, TimeRange
from timestore_core.partitions.statistics import column_statistics
from timestore_core.query.plan import PlannedPartition, QueryPlan, column_scales
from timestore_core.query.request import AskedAggregation, Bucket, IntervalUnit
from timestore_core.query.sql import merge_sql, partial_sql, undivided_sql

EXAMPLE = runpy.run_path(
    str(Path(__file__).parents[2] / "examples/timestore-plugin-example/timestore_example/aggregations.py")
)
FUNCTIONS: Mapping[str, Aggregation] = {
    **timestore_aggregations(),
    "geomean": EXAMPLE["GEOMEAN"],
    "mad": EXAMPLE["MAD"],
}
COUNTED = {
    name for name, one in FUNCTIONS.items() if isinstance(one.combine, Multiset) and not one.combine.distinct_only
}
# What adds up doubles depends on their order in the last digits, unless it has an exact form and the plan a scale.
ADDED_UP = {"avg", "sum", "geomean", "stddev", "variance"}

UNITS: tuple[IntervalUnit, ...] = ("second", "minute", "hour", "day", "week", "month")
SIZES = st.integers(1, 40)
EPOCH = datetime(1970, 1, 1)
MICROSECOND = timedelta(microseconds=1)
FIRST = (datetime(5, 1, 1) - EPOCH) // MICROSECOND
LAST = (datetime(9999, 12, 31, 23, 59, 59, 999_999) - EPOCH) // MICROSECOND
HOUR_US = 3_600_000_000

# Names of users that are also names inside the SQL, or have to be quoted.
NAMES = ("timestamp", "bucket", "v", "r0", "r1", "s0_0", "m0", "one", "Select", "a b", 'quo"te', "ä", "$start")
ALIASES = tuple(name for name in NAMES if name != "bucket")

ARROW: Mapping[FieldType, pa.DataType] = {
    "timestamp": pa.timestamp("us"),
    "string": pa.string(),
    "double": pa.float64(),
    "integer": pa.int64(),
    "boolean": pa.bool_(),
}


def around(anchor: datetime) -> st.SearchStrategy[int]:
    """Times close enough to share buckets, on both sides of one where they are cut."""
    us = (anchor - EPOCH) // MICROSECOND
    return st.one_of(st.integers(-2, 2), st.integers(-60 * HOUR_US, 60 * HOUR_US)).map(lambda offset: us + offset)


TIMES = st.one_of(
    around(datetime(1970, 1, 1)),
    around(datetime(1969, 12, 29)),
    around(datetime(2024, 3, 1)),
    around(datetime(1583, 1, 3)),
    st.integers(FIRST, LAST),
)
DOUBLES = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, 2.5, math.inf, -math.inf, math.nan]),
    st.floats(-1e9, 1e9),
    st.floats(1e-3, 1e3),
)
INTEGERS = st.one_of(st.integers(-3, 3), st.integers(1, 1000), st.integers(-(2**63), 2**63 - 1))
VALUES: Mapping[FieldType, st.SearchStrategy[Any]] = {
    "timestamp": TIMES,
    "string": st.one_of(st.sampled_from(["", "a", "A", "ä", "\U0001f600"]), st.text("abc", max_size=3)),
    "double": DOUBLES,
    "integer": INTEGERS,
    "boolean": st.booleans(),
}


@dataclass(frozen=True)
class Case:
    """A plan, each partition's rows, and the fragment that each partition belongs to."""

    plan: QueryPlan
    rows: Mapping[str, pa.Table]
    fragments: Sequence[Sequence[PlannedPartition]]


@st.composite
def ranges(draw: st.DrawFn) -> TimeRange:
    """All of time, or two ends, which rows often stand on exactly."""
    if draw(st.booleans()):
        return TimeRange(FIRST, LAST)
    start, end = sorted(draw(st.tuples(TIMES, TIMES)))
    return TimeRange(start, draw(st.sampled_from([end, start, min(start + HOUR_US, LAST)])))


@st.composite
def pools(draw: st.DrawFn, wanted: TimeRange) -> dict[FieldType, st.SearchStrategy[Any]]:
    """A few values of each type for a whole case, so that they repeat within buckets, partitions and fragments."""
    few = {type_: draw(st.lists(values, min_size=1, max_size=5)) for type_, values in VALUES.items()}
    few["timestamp"] += [wanted.start_us, wanted.end_us]
    return {type_: st.sampled_from([*values, None]) for type_, values in few.items()}


@st.composite
def stored(
    draw: st.DrawFn,
    schema: Schema,
    time: str,
    wanted: TimeRange,
    pool: Mapping[FieldType, st.SearchStrategy[Any]],
    number: int,
) -> tuple[PlannedPartition, pa.Table]:
    """A partition of a dataset: it may lack columns, and hold integers where the dataset now has doubles."""
    fields = []
    for field in schema.fields:
        if field.name == time or draw(st.integers(0, 3)):
            older = field.type == "double" and draw(st.booleans())
            fields.append(Field(field.name, "integer" if older else field.type))
    count = draw(st.integers(0, 10))
    columns = [
        pa.array(draw(st.lists(pool[field.type], min_size=count, max_size=count)), ARROW[field.type])
        for field in fields
    ]
    table = pa.table(columns, names=[field.name for field in fields])
    inside = all(
        one is not None and wanted.start_us <= one <= wanted.end_us for one in table[time].cast("int64").to_pylist()
    )
    return planned(f"part-{number}", Schema(tuple(fields)), inside and draw(st.booleans())), table


@st.composite
def cases(draw: st.DrawFn, functions: Sequence[str] = ()) -> Case:
    """A raw query, or with functions one that downsamples by some of them."""
    types: list[FieldType] = ["timestamp", "double", "integer", "string", "boolean", "timestamp", "double"]
    names = draw(st.permutations(NAMES))
    schema = Schema(tuple(Field(name, type_) for name, type_ in zip(names, types, strict=False)))
    time = schema.names[0]
    wanted = draw(ranges())
    pool = draw(pools(wanted))
    found = [draw(stored(schema, time, wanted, pool, number)) for number in range(draw(st.integers(1, 6)))]
    partitions = [partition for partition, _ in found]
    numbers = [draw(st.integers(0, 3)) for _ in partitions]
    fragments = [[one for one, at in zip(partitions, numbers, strict=True) if at == number] for number in range(4)]
    plan = draw(downsampled_plans(schema, time, functions) if functions else raw_plans(schema, time))
    known = [catalogued(partition, table) for partition, table in found]
    scales = column_scales(plan.aggregations, plan.columns, FUNCTIONS, known)
    return Case(
        plan=replace(plan, partitions=tuple(partitions), time_range=wanted, scales=scales),
        rows={partition.id: table for partition, table in found},
        fragments=[fragment for fragment in fragments if fragment],
    )


@st.composite
def raw_plans(draw: st.DrawFn, schema: Schema, time: str) -> QueryPlan:
    columns = tuple(draw(st.lists(st.sampled_from(schema.fields), min_size=1, unique=True)))
    return plan_of(time, columns, None, (), columns, draw(st.integers(1, 30)))


@st.composite
def downsampled_plans(draw: st.DrawFn, schema: Schema, time: str, functions: Sequence[str]) -> QueryPlan:
    aliases = [name for name in draw(st.permutations(ALIASES)) if name != time]
    asked, results = [], [Field(time, "timestamp")]
    for alias in aliases[: draw(st.integers(1, 6))]:
        fn = draw(st.sampled_from(functions))
        function = FUNCTIONS[fn]
        fitting = [field for field in schema.fields if field.type in function.column_types]
        column = draw(st.sampled_from([None, *fitting] if function.column_optional else fitting))
        parameters = tuple((name, draw(st.floats(*bounds))) for name, bounds in sorted(function.parameters.items()))
        if function.takes_bounds:
            bounds = draw(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=4, unique=True))
            parameters = (("bounds", tuple(sorted(bounds))),)
        asked.append(AskedAggregation(fn, column and column.name, alias, parameters))
        results.append(Field(alias, function.result(column and column.type)))
    read = tuple(field for field in schema.fields if field.name in {one.column for one in asked})
    bucket = Bucket(draw(st.sampled_from(UNITS)), draw(SIZES))
    return plan_of(time, read, bucket, tuple(asked), tuple(results), draw(st.sampled_from([1, 3, 1_000_001])))


def plan_of(
    time: str,
    columns: tuple[Field, ...],
    bucket: Bucket | None,
    aggregations: tuple[AskedAggregation, ...],
    output: tuple[Field, ...],
    row_limit: int,
) -> QueryPlan:
    """A plan without partitions over all times."""
    return QueryPlan(
        dataset_id="ds-1",
        dataset_slug="d",
        version=1,
        partitions=(),
        considered=0,
        time_range=TimeRange(FIRST, LAST),
        timestamp_column=time,
        columns=columns,
        bucket=bucket,
        aggregations=aggregations,
        output=output,
        row_limit=row_limit,
        limit_is_guard=False,
        timeout_ms=30_000,
    )


# More rows than any case has: how many there are is not what is tested here.
MANY = 1_000_000


def planned(id_: str, schema: Schema, within_range: bool = False) -> PlannedPartition:
    return PlannedPartition(id_, "st-1", "", "", "memory", "records", schema, 0, MANY, within_range)


def catalogued(partition: PlannedPartition, table: pa.Table) -> Partition:
    """The partition as the catalog has it, with the statistics of its rows."""
    return Partition(
        id=partition.id,
        dataset_id="ds-1",
        manifest_id="dm-1",
        partition_key={},
        storage_target_id=partition.target_id,
        file_format=partition.format,
        file_path=partition.file_path,
        file_size_bytes=partition.size_bytes,
        row_count=table.num_rows,
        start_time=EPOCH,
        end_time=EPOCH,
        checksum=None,
        metadata={},
        created_at=EPOCH,
        schema=partition.schema,
        statistics=column_statistics(partition.schema, table),
    )


@pytest.fixture(scope="module")
def duck() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(":memory:") as connection:
        connection.execute("SET TimeZone = 'UTC'")
        yield connection


class Answers:
    """The two ways to one answer, each as column types and rows."""

    def __init__(self, duck: duckdb.DuckDBPyConnection, case: Case) -> None:
        self._duck, self._case = duck, case
        self._relations = {}
        for id_, table in case.rows.items():
            duck.register("arrow", table)
            duck.execute(f'CREATE OR REPLACE TABLE "{id_}" AS SELECT * FROM arrow')
            self._relations[id_] = f'"{id_}"'

    def undivided(self) -> tuple[list[str], list[tuple[Any, ...]]]:
        plan = self._case.plan
        sql = undivided_sql(plan, plan.partitions, self._relations, FUNCTIONS)
        return self._fetched(sql)

    def merged(self) -> tuple[list[str], list[tuple[Any, ...]]]:
        plan, partials = self._case.plan, []
        for number, fragment in enumerate(self._case.fragments):
            sql = partial_sql(plan, fragment, self._relations, FUNCTIONS)
            self._duck.execute(f'CREATE OR REPLACE TEMP TABLE "partial-{number}" AS {sql}')
            partials.append(f'"partial-{number}"')
        return self._fetched(merge_sql(plan, partials, FUNCTIONS))

    def _fetched(self, sql: str) -> tuple[list[str], list[tuple[Any, ...]]]:
        found = self._duck.execute(sql)
        return [f"{name} {type_}" for name, type_, *_ in found.description], found.fetchall()


def allowance(case: Case, asked: AskedAggregation) -> float:
    """How far two ways to one result may be apart: not at all where it is exact."""
    is_double = Field(asked.column or "", "double") in case.plan.columns
    has_exact_form = FUNCTIONS[asked.fn].exact is not None
    if asked.fn not in ADDED_UP or (has_exact_form and (not is_double or asked.column in dict(case.plan.scales))):
        return 0.0
    return 1e-12 * max(1.0, magnitude(case, asked.column))


def magnitude(case: Case, column: str | None) -> float:
    """The sum of all the column's absolute values: what the rounding of its sums is relative to."""
    total = 0.0
    for table in case.rows.values():
        if column in table.column_names and table.schema.field(column).type in (pa.float64(), pa.int64()):
            total += sum(abs(one) for one in table[column].to_pylist() if one is not None and math.isfinite(one))
    return total


def same(one: Any, other: Any, tolerance: float = 0.0) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        if math.isnan(one) or math.isnan(other):
            return math.isnan(one) and math.isnan(other)
        return one == other or math.isclose(one, other, rel_tol=tolerance and 1e-12, abs_tol=tolerance)
    return type(one) is type(other) and bool(one == other)


@pytest.mark.parametrize(
    "functions",
    [
        pytest.param(sorted(set(FUNCTIONS) - COUNTED), id="without-counted-values"),
        pytest.param(sorted(FUNCTIONS), id="all"),
    ],
)
@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_buckets_merged_from_fragments_are_the_undivided_buckets(
    duck: duckdb.DuckDBPyConnection, functions: list[str], data: st.DataObject
) -> None:
    case = data.draw(cases(functions))
    answers = Answers(duck, case)

    (types, whole), (merged_types, merged) = answers.undivided(), answers.merged()

    assert merged_types == types
    assert [row[0] for row in merged] == [row[0] for row in whole]
    for index, one in enumerate(case.plan.aggregations, start=1):
        for left, right in zip(whole, merged, strict=True):
            assert same(left[index], right[index], allowance(case, one)), (one, left, right)


@settings(max_examples=80, deadline=None)
@given(case=cases())
def test_raw_rows_merged_from_fragments_are_the_first_of_the_undivided_rows(
    duck: duckdb.DuckDBPyConnection, case: Case
) -> None:
    time = Field(case.plan.timestamp_column, "timestamp")
    columns = tuple(dict.fromkeys((time, *case.plan.output)))
    case = replace(case, plan=replace(case.plan, columns=columns, output=columns))
    everything = list(rows_in_range(case, columns))
    answers = Answers(duck, case)

    (types, whole), (merged_types, merged) = answers.undivided(), answers.merged()

    assert merged_types == types
    whole, merged, everything = unsigned_zeros(whole), unsigned_zeros(merged), unsigned_zeros(everything)
    # As text, where NaN is itself.
    assert repr(merged) == repr(whole)
    assert [row[0] for row in whole] == sorted(row[0] for row in everything)[: len(whole)]
    assert len(whole) == min(len(everything), case.plan.row_limit)
    last = whole[-1][0] if whole else None
    assert Counter(repr(row) for row in whole if row[0] != last) == Counter(
        repr(row) for row in everything if row[0] < last
    )
    assert Counter(map(repr, whole)) <= Counter(map(repr, everything))


def unsigned_zeros(rows: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """The rows as an answer shows them: DuckDB gives -0.0 back as either zero, so it is shown as 0.0."""
    return [tuple(value + 0.0 if isinstance(value, float) else value for value in row) for row in rows]


def rows_in_range(case: Case, columns: Sequence[Field]) -> Iterator[tuple[Any, ...]]:
    """The plain model of what is read: rows from start to end inclusive, NULL for a column that a file lacks."""
    wanted = case.plan.time_range
    for table in case.rows.values():
        for time, row in zip(table[columns[0].name].cast("int64").to_pylist(), table.to_pylist(), strict=True):
            if time is not None and wanted.start_us <= time <= wanted.end_us:
                values = [row.get(field.name) for field in columns]
                yield tuple(
                    float(value) if field.type == "double" and value is not None else value
                    for field, value in zip(columns, values, strict=True)
                )


def test_raw_rows_without_their_time_are_still_the_first_by_time(duck: duckdb.DuckDBPyConnection) -> None:
    n = Field("n", "integer")
    case = case_of(plan_of("timestamp", (n,), None, (), (n,), 2), "n", "integer", [[(3, 30), (1, 10)], [(2, 20)]])

    assert Answers(duck, case).merged()[1] == Answers(duck, case).undivided()[1] == [(10,), (20,)]


@settings(max_examples=120, deadline=None)
@given(unit=st.sampled_from(UNITS), size=SIZES, times=st.lists(TIMES, min_size=1, max_size=30))
def test_bucket_starts_are_those_of_a_plain_model(
    duck: duckdb.DuckDBPyConnection, unit: IntervalUnit, size: int, times: list[int]
) -> None:
    case = downsampled("count", "n", "integer", [[(time, 1) for time in times]], Bucket(unit, size))

    _, rows = Answers(duck, case).undivided()

    assert rows == sorted(Counter(bucket_start(EPOCH + us * MICROSECOND, unit, size) for us in times).items())


def bucket_start(time: datetime, unit: IntervalUnit, size: int) -> datetime:
    """Aligned to 1970-01-01, weeks to their Monday 1969-12-29, months to January 1970."""
    if unit == "month":
        months = ((time.year - 1970) * 12 + time.month - 1) // size * size
        return datetime(1970 + months // 12, 1 + months % 12, 1)
    origin = datetime(1969, 12, 29) if unit == "week" else EPOCH
    width = timedelta(**{f"{unit}s": size})
    return origin + (time - origin) // width * width


def test_the_model_itself_knows_its_calendar() -> None:
    assert bucket_start(datetime(1969, 12, 28, 23), "week", 1) == datetime(1969, 12, 22)
    assert bucket_start(datetime(1970, 1, 4, 23), "week", 1) == datetime(1969, 12, 29)
    assert bucket_start(datetime(1969, 12, 31, 23, 59), "month", 5) == datetime(1969, 8, 1)
    assert bucket_start(datetime(2024, 2, 29), "month", 1) == datetime(2024, 2, 1)
    assert bucket_start(datetime(1969, 12, 31, 23, 59, 59), "hour", 5) == datetime(1969, 12, 31, 19)


def test_every_way_to_combine_is_among_the_functions_tried() -> None:
    assert {type(one.combine) for one in FUNCTIONS.values()} == {Decomposable, Multiset, Gather}
    assert {one.combine.distinct_only for one in FUNCTIONS.values() if isinstance(one.combine, Multiset)} == {
        True,
        False,
    }


@pytest.mark.parametrize(
    ("fn", "values", "expected"),
    [
        ("geomean", [1.0, 4.0, 16.0], 4.0),
        ("geomean", [2.0, None, 8.0], 4.0),
        ("geomean", [3.0, 0.0], 0.0),
        ("geomean", [3.0, -3.0], None),
        ("geomean", [None], None),
        ("mad", [1.0, 2.0, 100.0], 1.0),
        ("mad", [None], None),
    ],
)
def test_the_examples_aggregations_are_what_they_say(
    duck: duckdb.DuckDBPyConnection, fn: str, values: list[float | None], expected: float | None
) -> None:
    parts = [[(0, value)] for value in values]
    answers = Answers(duck, downsampled(fn, "x", "double", parts, Bucket("day", 1)))

    for _, rows in (answers.undivided(), answers.merged()):
        assert rows == [(EPOCH, expected if expected is None else pytest.approx(expected))]


@pytest.mark.parametrize("fn", ["median", "percentile"])
def test_nan_among_the_values_is_one_value_like_any_other(duck: duckdb.DuckDBPyConnection, fn: str) -> None:
    parts = [[(0, math.nan), (0, 1.0), (0, 2.0)], [(0, 3.0)]]
    answers = Answers(duck, downsampled(fn, "x", "double", parts, Bucket("day", 1)))

    assert answers.merged() == answers.undivided()


@pytest.mark.parametrize("alias", ["bucket", "BUCKET"])
def test_a_result_named_bucket_does_not_change_the_order(duck: duckdb.DuckDBPyConnection, alias: str) -> None:
    case = downsampled("max", "n", "integer", [[(0, 2)], [(HOUR_US, 1)]], Bucket("hour", 1), alias)
    answers = Answers(duck, case)

    for _, rows in (answers.undivided(), answers.merged()):
        assert [row[1] for row in rows] == [2, 1]


def downsampled(
    fn: str,
    column: str,
    type_: FieldType,
    parts: Sequence[Sequence[tuple[int, Any]]],
    bucket: Bucket,
    alias: str = "result",
) -> Case:
    """One aggregation over partitions of (microseconds, value) rows."""
    function = FUNCTIONS[fn]
    asked = AskedAggregation(fn, column, alias, tuple((name, 0.5) for name in function.parameters))
    output = (Field("timestamp", "timestamp"), Field(alias, function.result(type_)))
    plan = plan_of("timestamp", (Field(column, type_),), bucket, (asked,), output, 1000)
    return case_of(plan, column, type_, parts)


def case_of(plan: QueryPlan, column: str, type_: FieldType, parts: Sequence[Sequence[tuple[int, Any]]]) -> Case:
    """Each part is a partition and a fragment of its own."""
    schema = Schema((Field("timestamp", "timestamp"), Field(column, type_)))
    partitions = tuple(planned(f"part-{number}", schema) for number in range(len(parts)))
    rows = {
        partition.id: pa.table(
            [
                pa.array([time for time, _ in part], ARROW["timestamp"]),
                pa.array([value for _, value in part], ARROW[type_]),
            ],
            names=list(schema.names),
        )
        for partition, part in zip(partitions, parts, strict=True)
    }
    return Case(replace(plan, partitions=partitions), rows, [[one] for one in partitions])
