"""The contract's aggregations: avg, min, max, sum, median, count, count_distinct and percentile."""

from __future__ import annotations

import math
from collections.abc import Mapping

from timestore_core.aggregations import Aggregation, Decomposable, Multiset, Parameters
from timestore_core.hookspecs import hookimpl
from timestore_core.model import FieldType

_NUMBERS: frozenset[FieldType] = frozenset({"double", "integer"})
_ORDERED_NUMBERS: frozenset[FieldType] = frozenset({"double", "integer", "timestamp"})


@hookimpl
def timestore_aggregations() -> Mapping[str, Aggregation]:
    return {
        "avg": Aggregation(
            sql=lambda column, _: f"avg({column})",
            combine=Decomposable(
                partial=lambda column, _: (f"sum({column})", f"count({column})"),
                merge=lambda states, _: f"sum({states[0]}) / nullif(sum({states[1]}), 0)",
            ),
            result=lambda _: "double",
            default_alias=_prefixed("avg"),
            column_types=_NUMBERS,
        ),
        "min": _extreme("min"),
        "max": _extreme("max"),
        "sum": Aggregation(
            sql=lambda column, _: f"sum({column})",
            combine=Decomposable(
                partial=lambda column, _: (f"sum({column})",),
                merge=lambda states, _: f"sum({states[0]})",
            ),
            result=lambda type_: type_ or "double",
            default_alias=_prefixed("sum"),
            column_types=_NUMBERS,
        ),
        "median": Aggregation(
            sql=lambda column, _: f"median({column})",
            combine=Multiset(),
            result=lambda type_: "timestamp" if type_ == "timestamp" else "double",
            default_alias=_prefixed("median"),
            column_types=_ORDERED_NUMBERS,
        ),
        "count": Aggregation(
            sql=lambda column, _: f"count({column})",
            combine=Decomposable(
                partial=lambda column, _: (f"count({column})",),
                merge=lambda states, _: f"sum({states[0]})::BIGINT",
            ),
            result=lambda _: "integer",
            default_alias=lambda column, _: "count" if column is None else f"count_{column}",
            column_optional=True,
        ),
        "count_distinct": Aggregation(
            sql=lambda column, _: f"count(DISTINCT {column})",
            combine=Multiset(distinct_only=True),
            result=lambda _: "integer",
            default_alias=_prefixed("count_distinct"),
        ),
        "percentile": Aggregation(
            sql=lambda column, parameters: f"quantile_disc({column}, {parameters['percentile']!r})",
            combine=Multiset(),
            result=lambda type_: type_ or "double",
            default_alias=_percentile_alias,
            parameters={"percentile": (0.0, 1.0)},
        ),
    }


def _extreme(name: str) -> Aggregation:
    return Aggregation(
        sql=lambda column, _: f"{name}({column})",
        combine=Decomposable(
            partial=lambda column, _: (f"{name}({column})",),
            merge=lambda states, _: f"{name}({states[0]})",
        ),
        result=lambda type_: type_ or "double",
        default_alias=_prefixed(name),
    )


def _prefixed(name: str):  # type: ignore[no-untyped-def]
    return lambda column, _: f"{name}_{column}"


def _percentile_alias(column: str | None, parameters: Parameters) -> str:
    return f"p{math.floor(100 * parameters['percentile'] + 0.5)}_{column}"
