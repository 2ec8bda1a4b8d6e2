"""What the statistics say of a column of doubles, and what follows for its scale."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pytest

from tests.unit.test_reproducible_answers import FUNCTIONS, SCHEMA, partition_of
from timestore_core.aggregations import Aggregation, Gather, Scale
from timestore_core.model import ColumnStatistics, Field, Partition, Schema
from timestore_core.partitions.statistics import column_statistics
from timestore_core.query.plan import column_scales
from timestore_core.query.request import AskedAggregation


def known(minimum: Any, maximum: Any, nulls: int = 0, exact: bool = True, decimals: int | None = None) -> Partition:
    statistics = {"x": ColumnStatistics(minimum, maximum, nulls, exact, decimals=decimals)}
    return partition_of("known", SCHEMA, 10, statistics)


def unknown(rows: int = 10) -> Partition:
    return partition_of("unknown", SCHEMA, rows, {})


def without_the_column() -> Partition:
    return partition_of("without", Schema(SCHEMA.fields[:1]), 10, {})


def scales_of(partitions: Sequence[Partition], *functions: str) -> dict[str, Scale]:
    asked = [AskedAggregation(fn, "x", fn, ()) for fn in functions or ("sum",)]
    return dict(column_scales(asked, [Field("x", "double")], FUNCTIONS, partitions))


@pytest.mark.parametrize(
    ("partitions", "expected"),
    [
        ([known(-3.0, 1.0)], Scale(60, False)),
        ([known(0.0, 4.0)], Scale(59, False)),
        ([known(0.0, 3.0), known(-1000.0, 0.0)], Scale(52, False)),
        ([known(0.0, 3.0), known(-(2**62), 5)], Scale(-1, False)),
        ([known(0.0, 3.0), known(0.0, 1.0, exact=False)], Scale(60, True)),
        ([known(0.0, 3.0), known(None, None, nulls=10)], Scale(60, False)),
        ([known(0.0, 3.0), without_the_column(), unknown(rows=0)], Scale(60, False)),
        ([known(0.0, 0.0)], Scale(62, False)),
        ([known(0.0, 2.0**-900)], Scale(961, False)),
        ([known(0.0, 2.0**63)], Scale(-2, False)),
        ([known(0.0, 3.0, decimals=1), known(0.0, 1.0, decimals=2), without_the_column()], Scale(60, False, 2, True)),
        ([known(0.0, 3.0, decimals=1), known(0.0, 1.0)], Scale(60, False)),
        ([known(0.0, 2.0**44, decimals=0)], Scale(17, False, 0, True)),
        ([known(0.0, 2.0**44, decimals=0), known(0.0, 1.0, decimals=1)], Scale(17, False, 1)),
        ([], Scale(62, False, 0, True)),
        ([known(0.0, 3.0), unknown()], None),
        ([known(0.0, 3.0), known(None, None, exact=False)], None),
        ([known(0.0, 3.0), known(None, None, nulls=9, exact=False)], None),
        ([known(0.0, 2.0**64)], Scale(-3, False)),
        ([known(0.0, 2.0**900)], None),
        ([known(0.0, 5e-324)], None),
        ([known("a", "b")], None),
    ],
)
def test_a_scale_comes_from_all_the_bounds_or_there_is_none(
    partitions: list[Partition], expected: Scale | None
) -> None:
    assert scales_of(partitions).get("x") == expected


def test_only_what_has_an_exact_form_is_given_a_scale() -> None:
    stranger = Aggregation(
        sql=lambda column, _: f"mad({column})",
        combine=Gather(),
        result=lambda _: "double",
        default_alias=lambda column, _: f"mad_{column}",
    )
    asked = [AskedAggregation("mad", "x", "mad", ()), AskedAggregation("sum", "n", "sum", ())]

    found = column_scales(asked, SCHEMA.fields, {**FUNCTIONS, "mad": stranger}, [known(0.0, 1.0)])

    assert found == ()
    assert scales_of([known(0.0, 1.0)], "min", "median", "count") == {}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, -2.0, None], ColumnStatistics(-2.0, 1.0, 1, decimals=0)),
        ([1.0, -2.25, -0.0], ColumnStatistics(-2.25, 1.0, 0, decimals=2)),
        ([0.1, 0.2, 99.99], ColumnStatistics(0.1, 99.99, 0, decimals=2)),
        ([0.1] * 200 + [1e-6], ColumnStatistics(1e-6, 0.1, 0, decimals=6)),
        ([0.1 + 0.2], ColumnStatistics(0.1 + 0.2, 0.1 + 0.2, 0)),
        ([1e-7], ColumnStatistics(1e-7, 1e-7, 0)),
        ([0.5, 1e300], ColumnStatistics(0.5, 1e300, 0)),
        ([None, None], ColumnStatistics(None, None, 2)),
        ([], ColumnStatistics(None, None, 0)),
        ([1.0, math.nan, None], ColumnStatistics(1.0, 1.0, 1, exact=False)),
        ([math.nan, None], ColumnStatistics(None, None, 1, exact=False)),
        ([math.inf, 1.0], ColumnStatistics(None, None, 0, exact=False)),
        ([-math.inf, math.nan], ColumnStatistics(None, None, 0, exact=False)),
    ],
)
def test_bounds_of_doubles_are_finite_and_say_whether_all_values_are(
    values: list[float | None], expected: ColumnStatistics
) -> None:
    table = pa.table([pa.array(values, pa.float64())], names=["x"])

    found = column_statistics(Schema((Field("x", "double"),)), table)["x"]

    assert found == expected
    assert ColumnStatistics.from_json(json.loads(json.dumps(found.to_json(), allow_nan=False))) == found
