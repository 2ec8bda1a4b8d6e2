"""What every aggregation is expected to do."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, ClassVar

import duckdb
import pyarrow as pa
import pytest

from timestore_core.aggregations import Aggregation, Decomposable, Parameters, Scale
from timestore_core.model import FIELD_TYPES, Field, FieldType, ResultField, ResultType, Schema, TimeRange
from timestore_core.partitions.duckdb_file import SQL_TYPES
from timestore_core.query.asked import AskedAggregation
from timestore_core.query.buckets import Bucket
from timestore_core.query.plan import PlannedPartition, QueryPlan
from timestore_core.query.sql import merge_sql, partial_sql, undivided_sql

_ARROW: Mapping[FieldType, pa.DataType] = {
    "timestamp": pa.timestamp("us"),
    "string": pa.string(),
    "double": pa.float64(),
    "integer": pa.int64(),
    "boolean": pa.bool_(),
}
_DAY = datetime(2024, 1, 1)
# A name that has to be quoted, and is one of the names inside the SQL once it is not.
_COLUMN = 'v "s0_0"'

# Lists of values: few and many, of one sign and of both, alike, apart, and with NULLs.
_VALUES: Mapping[FieldType, Sequence[Sequence[Any]]] = {
    "double": [
        [3.0],
        [1.5, 2.5, 4.0, 4.0, 8.25],
        [-3.0, -1.0, -1.0, -20.5],
        [-2.0, 0.0, 2.0, 0.0],
        [0.1, 0.2, 0.3, 10_000.0, 1e-9, -0.1],
        [None, 1.0, None, 3.0],
        [7.0] * 9,
    ],
    "integer": [[3], [1, 2, 3, 4, 100], [-3, -1, -1], [0, 0, 5], [None, 2, None, 8], [2**40, -(2**40), 7], [4] * 9],
    "string": [["a"], ["b", "a", "B", "", "ä", "😀"], ["x", None, "x", None], ["same"] * 9],
    "boolean": [[True], [False, True, False, None], [True] * 9],
    "timestamp": [
        [_DAY],
        [_DAY + timedelta(hours=hour) for hour in (5, 1, 1, 9)],
        [datetime(1950, 1, 1), None, datetime(2100, 1, 1)],
    ],
}


class AggregationContract:
    """Give the fixture `aggregation`. `parameters` gives its parameters where it has any; else each is in the middle.

    `relative_tolerance` is how far two ways to a double may be apart, relative to the values: 0 for what adds nothing
    up.
    """

    relative_tolerance: ClassVar[float] = 1e-12

    @pytest.fixture
    def aggregation(self) -> Aggregation:
        raise NotImplementedError(f"{type(self).__name__} needs a fixture `aggregation`")

    @pytest.fixture
    def parameters(self, aggregation: Aggregation) -> Parameters:
        middle = {name: (low + high) / 2 for name, (low, high) in aggregation.parameters.items()}
        bounds = {"bounds": (-1.0, 0.5, 1000.0)} if aggregation.takes_bounds else {}
        time = {"time": '"timestamp"'} if aggregation.uses_time else {}
        return {**middle, **bounds, **time}

    @pytest.fixture
    def asking(self, aggregation: Aggregation, parameters: Parameters) -> Iterator[Asking]:
        with duckdb.connect(":memory:") as connection:
            connection.execute("SET TimeZone = 'UTC'")
            connection.execute("SET threads = 1")
            yield Asking(connection, aggregation, parameters)

    @pytest.fixture
    def types(self, aggregation: Aggregation) -> Sequence[FieldType]:
        """The column's types that it takes."""
        return [type_ for type_ in FIELD_TYPES if type_ in aggregation.column_types]

    def test_it_takes_types_that_there_are(self, aggregation: Aggregation) -> None:
        assert aggregation.column_types
        assert aggregation.column_types <= set(FIELD_TYPES)

    def test_its_parameters_have_bounds_and_work_at_both(
        self, aggregation: Aggregation, asking: Asking, parameters: Parameters, types: Sequence[FieldType]
    ) -> None:
        for name, (low, high) in aggregation.parameters.items():
            assert low <= high, name
        for end in (0, 1):
            ends_ = {name: ends[end] for name, ends in aggregation.parameters.items()}
            asked = asking.of(parameters={**parameters, **ends_})
            for type_ in types:
                asked.undivided(type_, [_VALUES[type_][1]])

    def test_it_names_its_result(
        self, aggregation: Aggregation, parameters: Parameters, types: Sequence[FieldType]
    ) -> None:
        names = [aggregation.default_alias("a b", parameters)]
        if aggregation.column_optional:
            names.append(aggregation.default_alias(None, parameters))

        assert all(isinstance(name, str) and name for name in names)
        assert {aggregation.result(type_) for type_ in types} <= {*FIELD_TYPES, "integers"}

    def test_its_result_has_the_type_that_it_says(
        self, aggregation: Aggregation, asking: Asking, types: Sequence[FieldType]
    ) -> None:
        for type_ in types:
            said = aggregation.result(type_)
            for values in _VALUES[type_]:
                found, value = asking.undivided(type_, [values])

                assert _fits(found, said), f"of a {type_} column it is {found}, which is no {said}"
                assert value is None or isinstance(value, _PYTHON[said])

    @pytest.mark.parametrize("rows", [1, 5])
    def test_nothing_but_null_is_an_answer(self, asking: Asking, types: Sequence[FieldType], rows: int) -> None:
        for type_ in types:
            nulls: list[Any] = [None] * rows
            singles: list[list[Any]] = [[None]] * rows
            whole = asking.undivided(type_, [nulls])

            assert_same(asking.merged(type_, [nulls]), whole)
            assert_same(asking.merged(type_, singles), whole)

    def test_no_row_at_all_is_an_answer(
        self, aggregation: Aggregation, asking: Asking, parameters: Parameters, types: Sequence[FieldType]
    ) -> None:
        for type_ in types:
            empty = f"(SELECT NULL::{SQL_TYPES[type_]} AS v, NULL::TIMESTAMP AS timestamp WHERE false)"
            sql = f"SELECT {aggregation.sql('v', parameters)} FROM {empty}"  # noqa: S608
            found = asking.connection.execute(sql).fetchall()

            assert len(found) == 1

    def test_without_a_column_it_is_an_answer_too(self, aggregation: Aggregation, asking: Asking) -> None:
        if not aggregation.column_optional:
            pytest.skip("needs a column")
        parts: list[list[Any]] = [[1, None], [], [3]]

        assert_same(asking.merged(None, parts), asking.undivided(None, parts))

    def test_any_split_gives_the_undivided_answer(self, asking: Asking, types: Sequence[FieldType]) -> None:
        for type_ in types:
            for values in (*_VALUES[type_], *(_random_values(type_, seed) for seed in range(2))):
                whole = asking.undivided(type_, [values])
                for parts in _splits(values):
                    merged = asking.merged(type_, parts)
                    assert_same(merged, whole, self._allowed(values), f"over the parts {parts!r}"[:600])

    def test_nan_and_infinities_are_the_same_from_parts(self, aggregation: Aggregation, asking: Asking) -> None:
        if "double" not in aggregation.column_types:
            pytest.skip("takes no double")
        for special in (math.nan, math.inf, -math.inf):
            values = [1.0, special, 2.0, None, 4.0]
            whole = asking.undivided("double", [values])
            for parts in _splits(values):
                assert_same(asking.merged("double", parts), whole, self._allowed(values), f"over the parts {parts!r}")

    def test_the_order_of_the_rows_leaves_no_trace(self, asking: Asking, types: Sequence[FieldType]) -> None:
        for type_ in types:
            for seed in range(4):
                values = _random_values(type_, seed)
                whole = asking.undivided(type_, [values])
                random.Random(seed).shuffle(values)

                assert_same(asking.undivided(type_, [values]), whole, self._allowed(values), f"of {values!r}")

    def test_its_exact_form_is_the_same_to_the_last_digit_in_any_order_and_split(
        self, aggregation: Aggregation, asking: Asking
    ) -> None:
        if aggregation.exact is None:
            pytest.skip("has no exact form")
        for guarded in (False, True):
            for seed in range(3):
                values = [value for value in _random_values("double", seed) if guarded or value is not None]
                largest = max(abs(value) for value in values if value is not None)
                scale = Scale(61 - math.frexp(largest)[1], guarded)
                self._check_exact(asking, scale, values, seed)

    def test_its_exact_form_is_the_same_where_values_have_few_decimals(
        self, aggregation: Aggregation, asking: Asking
    ) -> None:
        if aggregation.exact is None:
            pytest.skip("has no exact form")
        for compensated in (False, True):
            scale = Scale(40, guarded=False, decimals=2, compensated=compensated)
            for seed in range(3):
                values = [value and round(value, 2) for value in _random_values("double", seed)]
                self._check_exact(asking, scale, values, seed)

    def test_the_states_of_a_part_are_as_many_as_their_merge_reads(
        self, aggregation: Aggregation, parameters: Parameters
    ) -> None:
        if not isinstance(aggregation.combine, Decomposable):
            pytest.skip("ships its values")
        states = aggregation.combine.partial('"v"', parameters)

        assert isinstance(states, tuple)
        assert states
        names = tuple(f"state{number}" for number in range(len(states)))
        merged = aggregation.combine.merge(names, parameters)
        assert [name for name in names if name not in merged] == []

    def _check_exact(self, asking: Asking, scale: Scale, values: list[Any], seed: int) -> None:
        exactly = asking.of(scale=scale)
        whole = exactly.undivided("double", [values])
        for parts in _splits(values):
            assert_same(exactly.merged("double", parts), whole, 0.0, f"over the parts {parts!r}"[:600])
        random.Random(seed).shuffle(values)
        assert_same(exactly.undivided("double", [values]), whole)
        assert_same(asking.undivided("double", [values]), whole, self._allowed(values))

    def _allowed(self, values: Sequence[Any]) -> float:
        numbers = [abs(value) for value in values if isinstance(value, int | float) and math.isfinite(value)]
        return self.relative_tolerance * max(1.0, sum(numbers))


class Asking:
    """Ways to ask for one aggregation over one column of one bucket, as the service asks."""

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        aggregation: Aggregation,
        parameters: Parameters,
        scale: Scale | None = None,
    ) -> None:
        self.connection = connection
        self._aggregation = aggregation
        self._parameters = parameters
        self._scale = scale

    def of(self, *, parameters: Parameters | None = None, scale: Scale | None = None) -> Asking:
        """The same with other parameters, or of the exact form for a column of this scale."""
        return Asking(self.connection, self._aggregation, parameters or self._parameters, scale)

    def undivided(self, type_: FieldType | None, parts: Sequence[Sequence[Any]]) -> tuple[str, Any]:
        """The result's type and value over all parts at once; None asks without a column."""
        plan, relations = self._plan(type_, parts)
        return self._fetched(undivided_sql(plan, plan.partitions, relations, {"tested": self._aggregation}))

    def merged(self, type_: FieldType | None, parts: Sequence[Sequence[Any]]) -> tuple[str, Any]:
        """The same, put together from each part's states."""
        plan, relations = self._plan(type_, parts)
        functions = {"tested": self._aggregation}
        partials = [f"({partial_sql(plan, [one], relations, functions)})" for one in plan.partitions]
        return self._fetched(merge_sql(plan, partials, functions))

    def _plan(self, type_: FieldType | None, parts: Sequence[Sequence[Any]]) -> tuple[QueryPlan, dict[str, str]]:
        stored = type_ or "integer"
        schema = Schema((Field("timestamp", "timestamp"), Field(_COLUMN, stored)))
        partitions, relations = [], {}
        for number, part in enumerate(parts):
            columns = [pa.array([_DAY] * len(part), _ARROW["timestamp"]), pa.array(part, _ARROW[stored])]
            id_ = f"part-{number}"
            self.connection.register(id_, pa.table(columns, names=list(schema.names)))
            relations[id_] = f'"{id_}"'
            partitions.append(PlannedPartition(id_, "st-1", "", "", "memory", "records", schema, 0, 0, True))
        asked = AskedAggregation(
            "tested", None if type_ is None else _COLUMN, "result", tuple(sorted(self._parameters.items()))
        )
        plan = QueryPlan(
            dataset_id="ds-1",
            dataset_slug="d",
            version=1,
            partitions=tuple(partitions),
            considered=len(partitions),
            time_range=TimeRange(0, 0),
            timestamp_column="timestamp",
            columns=() if type_ is None else (Field(_COLUMN, type_),),
            bucket=Bucket("day", 1),
            aggregations=(asked,),
            output=(ResultField("timestamp", "timestamp"), ResultField("result", self._aggregation.result(type_))),
            row_limit=10,
            limit_is_guard=False,
            timeout_ms=30_000,
        )
        return plan if self._scale is None else replace(plan, scales=((_COLUMN, self._scale),)), relations

    def _fetched(self, sql: str) -> tuple[str, Any]:
        found = self.connection.execute(sql)
        ((_, value),) = found.fetchall()
        return str(found.description[1][1]), value


def assert_same(one: tuple[str, Any], other: tuple[str, Any], allowed: float = 0.0, where: str = "") -> None:
    """Fail where two results differ in their type, or in their value by more than is allowed."""
    (type_, value), (expected_type, expected) = one, other
    assert type_ == expected_type, where
    if isinstance(value, float) and isinstance(expected, float) and value != expected:
        assert math.isnan(value) == math.isnan(expected), where
        if not math.isnan(value):
            # Squares of large values are larger than these.
            squared = 1e-12 * abs(expected) if allowed else 0.0
            assert abs(value - expected) <= max(allowed, squared), f"{value!r} is not {expected!r} {where}"
    else:
        assert value == expected, where


_PYTHON: Mapping[ResultType, type] = {
    "integers": list,
    "timestamp": datetime,
    "string": str,
    "double": float,
    "integer": int,
    "boolean": bool,
}
# What DuckDB may give where a type is said: JSON knows integers, not how many bits they have.
_INTEGERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT")


def _fits(found: str, said: ResultType) -> bool:
    if said == "integers":
        return found == "BIGINT[]"
    return found in _INTEGERS if said == "integer" else found == SQL_TYPES[said]


def _splits(values: Sequence[Any]) -> Iterator[list[list[Any]]]:
    """One part, one a row, halves, with parts that are empty or hold only NULL, and some by chance."""
    whole = list(values)
    half = len(whole) // 2
    yield [whole]
    yield [[value] for value in whole]
    yield [whole[:half], whole[half:]]
    yield [[], whole, []]
    yield [[value for value in whole if value is None], [value for value in whole if value is not None]]
    chance = random.Random(len(whole))
    for _ in range(2):
        parts: list[list[Any]] = [[] for _ in range(4)]
        for value in whole:
            chance.choice(parts).append(value)
        yield parts


def _random_values(type_: FieldType, seed: int) -> list[Any]:
    """Made up, the same for a seed each time; a few of them come more than once, and some are NULL."""
    chance = random.Random(seed)
    make: Mapping[FieldType, Callable[[], Any]] = {
        "double": lambda: chance.choice([0.0, 1.0, round(chance.uniform(-1e3, 1e6), 3), chance.lognormvariate(0, 3)]),
        "integer": lambda: chance.choice([0, 1, chance.randrange(-1000, 1000), chance.randrange(-(2**40), 2**40)]),
        "string": lambda: "".join(chance.choices("abAä", k=chance.randrange(3))),
        "boolean": lambda: chance.random() < 0.5,
        "timestamp": lambda: _DAY + timedelta(microseconds=chance.randrange(-(10**15), 10**15)),
    }
    few = [make[type_]() for _ in range(8)]
    return [chance.choice([*few, None]) if type_ != "double" or seed % 2 else chance.choice(few) for _ in range(11)]
