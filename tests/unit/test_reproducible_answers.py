"""The same rows give the same bytes, however they are cut into files and ordered in them."""

from __future__ import annotations

import json
import math
import pickle
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pyarrow as pa
import pytest
from timestore_aggregations import timestore_aggregations
from timestore_local.driver import LocalDriver

from timestore_core.aggregations import Scale
from timestore_core.catalog.snapshots import Head
from timestore_core.engine.instance import Engine, EngineLimits
from timestore_core.ingest.rows import ARROW_TYPES
from timestore_core.model import Dataset, Field, Partition, Schema
from timestore_core.partitions.duckdb_file import DuckDBFile
from timestore_core.query.admission import admission
from timestore_core.query.engine import EngineParts
from timestore_core.query.local_engine import LocalEngine
from timestore_core.query.planning import planned
from timestore_core.query.request import parse_query
from timestore_core.query.service import open_answer
from timestore_core.runtime import Runtime
from timestore_core.settings import MIB, Settings

FUNCTIONS = timestore_aggregations()
START = datetime(2024, 1, 1, tzinfo=UTC)
START_US = int(START.timestamp()) * 1_000_000
HOUR_US = 3_600_000_000
MAX_ATTACHED = 8
SCHEMA = Schema(
    (Field("timestamp", "timestamp"), Field("x", "double"), Field("label", "string"), Field("n", "integer"))
)
Rows = list[dict[str, Any]]


class Stand:
    """A dataset in DuckDB files, its catalog in memory, asked as the HTTP interface asks."""

    def __init__(self, root: Path, spill: Path) -> None:
        self._driver = LocalDriver(root)
        self._format = DuckDBFile()
        self._duck = Engine("test", EngineLimits(2, 256 * MIB, 256 * MIB, spill, max_attached=64))
        self._written = 0

    def write(self, rows: Rows, schema: Schema = SCHEMA) -> Partition:
        """The rows as one more file, with the statistics that an ingest gives it."""
        self._written += 1
        name = f"part-{self._written}"
        columns = [pa.array([row.get(one.name) for row in rows], ARROW_TYPES[one.type]) for one in schema.fields]
        table = pa.table(columns, names=list(schema.names))
        path = Path(self._driver.location(name))
        written = self._format.write(self._duck, path, "records", schema, table)
        return partition_of(
            name, schema, written.rows, written.statistics, file_path=name, file_size_bytes=path.stat().st_size
        )

    def layouts(self, rows: Rows) -> list[list[Partition]]:
        """The rows in 1, 3 and 50 files, each time in another order; more than 8 files are read in fragments."""
        found = []
        for seed, files in enumerate((1, 3, 50)):
            shuffled = random.Random(seed).sample(rows, len(rows))
            found.append([self.write(shuffled[number::files]) for number in range(files)])
        return found

    def ask(self, partitions: Sequence[Partition], **question: Any) -> bytes:
        runtime, head = self._runtime(partitions, MAX_ATTACHED), Head(DATASET, 1, SCHEMA)
        return b"".join(
            open_answer(runtime, head, parse_query(body_of(question), FUNCTIONS, runtime.settings, DATASET.id))
        )

    def plan_of(self, partitions: Sequence[Partition], **question: Any) -> Any:
        runtime, head = self._runtime(partitions, MAX_ATTACHED), Head(DATASET, 1, SCHEMA)
        with planned(runtime, head, parse_query(body_of(question), FUNCTIONS, runtime.settings, DATASET.id)) as (
            plan,
            _,
        ):
            return plan

    def close(self) -> None:
        self._duck.close()

    def _runtime(self, partitions: Sequence[Partition], max_attached: int) -> Runtime:
        parts = EngineParts(self._duck, {"duckdb": self._format}, FUNCTIONS, max_attached)
        return cast(
            Runtime,
            SimpleNamespace(
                settings=Settings(),
                plugins=SimpleNamespace(aggregations=FUNCTIONS, observe=lambda *_, **__: None),
                snapshots=SimpleNamespace(joined=lambda _: tuple(partitions)),
                targets=SimpleNamespace(
                    get=lambda target_id: SimpleNamespace(id=target_id), driver=lambda _: self._driver
                ),
                engine=LocalEngine(parts),
                admission=admission(Settings()),
            ),
        )


DATASET = Dataset("ds-1", "d", "d", None, "active", "duckdb", None, {}, START, START)


def partition_of(
    id_: str, schema: Schema, rows: int, statistics: Any, file_path: str = "", file_size_bytes: int = 0
) -> Partition:
    return Partition(
        id=id_,
        dataset_id="ds-1",
        manifest_id="dm-1",
        partition_key={},
        storage_target_id="st-1",
        file_format="duckdb",
        file_path=file_path,
        file_size_bytes=file_size_bytes,
        row_count=rows,
        start_time=START,
        end_time=START,
        checksum=None,
        metadata={},
        created_at=START,
        schema=schema,
        statistics=statistics,
    )


def body_of(question: dict[str, Any]) -> bytes:
    every_time = {"start": "2024-01-01T00:00:00Z", "end": "2025-01-01T00:00:00Z"}
    return json.dumps({"timeRange": every_time, **question}).encode()


def hourly(*functions: str) -> dict[str, Any]:
    asked = [{"fn": fn, "column": "x", "alias": fn} for fn in functions]
    return {
        "intervalUnit": "hour",
        "aggregations": [{**one, "percentile": 0.3} if one["fn"] == "percentile" else one for one in asked],
    }


def row(us: int, x: float | None, label: str = "", n: int = 0) -> dict[str, Any]:
    return {"timestamp": START_US + us, "x": x, "label": label, "n": n}


def mixed_rows(count: int = 3000) -> Rows:
    """Twelve hours of doubles from 1e-9 to 1e9 in size, some of them zeros of either sign, some NULL."""
    draw = random.Random(7)

    def value() -> float | None:
        kind = draw.random()
        if kind < 0.1:
            return draw.choice([0.0, -0.0, None])
        return draw.choice([-1, 1]) * 10 ** draw.uniform(-9, 9)

    return [row(draw.randrange(12 * HOUR_US), value()) for _ in range(count)]


def by_hour(rows: Rows) -> dict[int, list[float]]:
    values = defaultdict(list)
    for one in rows:
        if one["x"] is not None:
            values[(one["timestamp"] - START_US) // HOUR_US].append(one["x"])
    return values


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[Stand]:
    (tmp_path / "root").mkdir()
    made = Stand(tmp_path / "root", tmp_path / "spill")
    yield made
    made.close()


def test_buckets_are_the_same_bytes_in_every_layout(stand: Stand) -> None:
    question = hourly("avg", "sum", "min", "max", "median", "percentile", "count", "count_distinct")

    answers = {stand.ask(layout, downsample=question) for layout in stand.layouts(mixed_rows())}

    assert len(answers) == 1


def test_sums_and_averages_are_right_to_the_last_digits(stand: Stand) -> None:
    rows = mixed_rows()

    for layout in stand.layouts(rows):
        for found, values in zip(hours(stand.ask(layout, downsample=hourly("sum", "avg"))), columns(rows), strict=True):
            assert found["sum"] == pytest.approx(math.fsum(values), rel=1e-15, abs=0)
            assert found["avg"] == pytest.approx(math.fsum(values) / len(values), rel=1e-15, abs=0)


def hours(body: bytes) -> Rows:
    found: Rows = json.loads(body)["rows"]
    return found


def columns(rows: Rows) -> list[list[float]]:
    grouped = by_hour(rows)
    return [grouped[hour] for hour in sorted(grouped)]


@pytest.mark.parametrize("alone", [0.1, -1e-9, 1 / 3, 123456.789, 1e-12])
def test_the_sum_of_one_value_is_that_value_however_large_others_are(stand: Stand, alone: float) -> None:
    partitions = [stand.write([row(0, alone)]), stand.write([row(HOUR_US, 1e9), row(HOUR_US, -3e8)])]

    first, _ = hours(stand.ask(partitions, downsample=hourly("sum", "avg", "max")))

    assert first["sum"] == first["avg"] == first["max"] == alone


@pytest.mark.parametrize("largest", [1e15, 1e18, 1e20, 3.4e38, 1.7e308])
def test_a_value_that_stands_for_none_does_not_spoil_the_other_hours(stand: Stand, largest: float) -> None:
    partitions = [stand.write([row(0, 0.1), row(0, 0.2)]), stand.write([row(HOUR_US, largest)])]

    first, second = hours(stand.ask(partitions, downsample=hourly("sum", "avg")))

    assert first["avg"] == pytest.approx(0.15, rel=1e-12)
    assert second["avg"] == second["sum"] == largest


@pytest.mark.parametrize("largest", [0.0, 5e-324, 1e-310, 1e-300, 1e-270, 1e-269, 1e-30])
def test_the_smallest_doubles_are_added_up_too(stand: Stand, largest: float) -> None:
    partitions = [stand.write([row(0, largest), row(0, -largest), row(0, largest)])]

    (found,) = hours(stand.ask(partitions, downsample=hourly("sum")))

    assert found["sum"] == largest


def test_buckets_with_nan_are_null_and_the_others_the_same_bytes_in_every_layout(stand: Stand) -> None:
    rows = mixed_rows()
    rows[0]["x"] = math.nan
    spoiled = (rows[0]["timestamp"] - START_US) // HOUR_US

    answers = {stand.ask(layout, downsample=hourly("avg", "sum")) for layout in stand.layouts(rows)}

    assert len(answers) == 1
    for hour, (found, values) in enumerate(zip(hours(answers.pop()), columns(rows), strict=True)):
        expected = None if hour == spoiled else pytest.approx(math.fsum(values), rel=1e-15, abs=0)
        assert found["sum"] == expected
        assert (found["avg"] is None) == (hour == spoiled)


@pytest.mark.parametrize("infinite", [[math.inf], [-math.inf], [math.inf, -math.inf]])
def test_buckets_with_infinities_are_null_and_the_others_are_right(stand: Stand, infinite: list[float]) -> None:
    rows = [*mixed_rows(), *(row(13 * HOUR_US, one) for one in infinite)]

    for layout in stand.layouts(rows):
        *finite, last = hours(stand.ask(layout, downsample=hourly("sum")))
        assert last["sum"] is None
        for found, values in zip(finite, columns(rows), strict=False):
            assert found["sum"] == pytest.approx(math.fsum(values), rel=1e-9)


def test_integers_of_before_the_column_was_widened_count_as_doubles(stand: Stand) -> None:
    narrow = replace(SCHEMA, fields=(SCHEMA.fields[0], Field("x", "integer")))
    whole = [row(number, 3**number) for number in range(38)]
    rows = mixed_rows(500)
    widened = [row(one["timestamp"] - START_US, float(one["x"])) for one in whole]

    before = [stand.write(whole, narrow), stand.write(rows)]
    after = [stand.write(widened + rows)]

    asked = hourly("avg", "sum")
    assert stand.ask(before, downsample=asked) == stand.ask(after, downsample=asked)


def test_small_values_beside_a_huge_one_keep_their_sum(stand: Stand) -> None:
    small = [1.602176634e-19, 3.3e-13, 0.1, 7.25]
    rows = [row(number * HOUR_US, value) for number, value in enumerate(small) for _ in range(3)]
    for huge in (9.2e18, 3.4e38, 1e200):
        layouts = stand.layouts([*rows, row(100 * HOUR_US, huge)])
        for layout in layouts:
            found = json.loads(stand.ask(layout, downsample=hourly("sum")))["rows"]
            sums = [one["sum"] for one in found[: len(small)]]
            assert sums == pytest.approx([3 * value for value in small], rel=1e-15)


@pytest.mark.parametrize(("largest", "decimals"), [(100.0, 2), (50_000.0, 1), (1e9, 0), (0.5, 6)])
def test_decimals_are_added_up_as_on_paper_in_every_layout(stand: Stand, largest: float, decimals: int) -> None:
    draw = random.Random(decimals)
    values = [round(draw.uniform(-largest / 100, largest), decimals) for _ in range(3000)]
    rows = [row(draw.randrange(3 * HOUR_US), one) for one in values]
    layouts = stand.layouts(rows)

    answers = {stand.ask(layout, downsample=hourly("sum", "avg")) for layout in layouts}

    plan = stand.plan_of(layouts[2], downsample=hourly("sum"))
    assert [scale.decimals for _, scale in plan.scales] == [decimals]
    (answer,) = answers
    for (_, mine), found in zip(sorted(by_hour(rows).items()), json.loads(answer)["rows"], strict=True):
        total = float(sum(Decimal(repr(one)) for one in mine))
        assert (found["sum"], found["avg"]) == (total, total / len(mine))


def test_averages_of_large_integers_are_the_same_bytes_in_every_layout(stand: Stand) -> None:
    draw = random.Random(3)
    rows = [row(draw.randrange(200 * HOUR_US), 1.0, n=draw.randrange(-(2**62), 2**62)) for _ in range(2000)]
    asked = {"intervalUnit": "hour", "aggregations": [{"fn": "avg", "column": "n"}, {"fn": "sum", "column": "n"}]}

    assert len({stand.ask(layout, downsample=asked) for layout in stand.layouts(rows)}) == 1


def test_a_file_that_is_not_read_counts_for_the_scale_all_the_same(stand: Stand) -> None:
    near, far = stand.write(mixed_rows(50)), stand.write([row(4000 * HOUR_US, 1e12)])
    first_day = {"start": "2024-01-01T00:00:00Z", "end": "2024-01-02T00:00:00Z"}

    plan = stand.plan_of([near, far], timeRange=first_day, downsample=hourly("sum"))

    assert [one.id for one in plan.partitions] == [near.id]
    assert plan.scales == stand.plan_of([near, far], downsample=hourly("sum")).scales == (("x", Scale(22, False)),)
    assert pickle.loads(pickle.dumps(plan)) == plan


@pytest.mark.parametrize("limit", [1, 7, 40, 400])
def test_of_rows_at_one_time_the_same_come_first_in_every_layout(stand: Stand, limit: int) -> None:
    draw = random.Random(11)
    rows = [
        row(
            draw.randrange(3),
            draw.choice([0.0, -0.0, None, 1.5, -2.0]),
            label=draw.choice(["", "a", "ab", "ä"]),
            n=draw.randrange(3),
        )
        for _ in range(400)
    ]
    layouts = stand.layouts(rows)

    for names in (None, ["x"], ["label", "x"], ["timestamp", "n"], ["n", "x", "timestamp", "label"]):
        question = {"limit": limit} if names is None else {"limit": limit, "columns": names}
        assert len({stand.ask(layout, **question) for layout in layouts}) == 1


def test_without_a_limit_rows_come_in_the_same_order_and_zeros_without_a_sign(stand: Stand) -> None:
    rows = [row(number % 2, draw, label=str(number % 3)) for number, draw in enumerate([0.0, -0.0, None, 1.0] * 30)]

    answers = {stand.ask(layout) for layout in stand.layouts(rows)}

    assert len(answers) == 1
    assert answers.pop().count(b'"x":0.0') == 60


def test_the_smallest_of_two_zeros_has_no_sign(stand: Stand) -> None:
    for values in ([0.0, -0.0], [-0.0, 0.0], [-0.0]):
        body = stand.ask([stand.write([row(0, one)]) for one in values], downsample=hourly("min", "max", "median"))
        assert b"-0.0" not in body
