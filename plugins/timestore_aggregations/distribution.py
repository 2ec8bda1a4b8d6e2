"""Aggregations that say how values are spread: deviation, the most frequent, quantiles, histograms."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from timestore_aggregations.naming import percentile, prefixed
from timestore_core.aggregations import Aggregation, Decomposable, Multiset, Parameters
from timestore_core.model import FieldType

_NUMBERS: frozenset[FieldType] = frozenset({"double", "integer"})
_ORDERED_NUMBERS: frozenset[FieldType] = frozenset({"double", "integer", "timestamp"})
_PERCENTILE = {"percentile": (0.0, 1.0)}


def distribution() -> Mapping[str, Aggregation]:
    """By name."""
    return {
        "stddev": _spread("stddev", "stddev_samp"),
        "variance": _spread("variance", "var_samp"),
        "mode": Aggregation(
            # In order, so that of several most frequent values it is the smallest.
            sql=lambda column, _: f"mode({column} ORDER BY {column})",
            combine=Multiset(),
            result=lambda type_: type_ or "double",
            default_alias=prefixed("mode"),
        ),
        "percentile_cont": Aggregation(
            sql=lambda column, parameters: f"quantile_cont({column}, {parameters['percentile']!r})",
            combine=Multiset(),
            result=lambda type_: "timestamp" if type_ == "timestamp" else "double",
            default_alias=percentile("_cont"),
            column_types=_ORDERED_NUMBERS,
            parameters=_PERCENTILE,
        ),
        "approx_percentile": Aggregation(
            sql=lambda column, parameters: f"approx_quantile({column}::DOUBLE, {parameters['percentile']!r}::FLOAT)",
            combine=Multiset(),
            result=lambda _: "double",
            default_alias=percentile("_approx"),
            column_types=_NUMBERS,
            parameters=_PERCENTILE,
        ),
        "approx_count_distinct": Aggregation(
            sql=lambda column, _: f"coalesce(approx_count_distinct({column}), 0)",
            combine=Multiset(distinct_only=True),
            result=lambda _: "integer",
            default_alias=prefixed("approx_count_distinct"),
        ),
        "histogram": Aggregation(
            sql=lambda column, parameters: f"[{', '.join(_counts(column, parameters))}]",
            combine=Decomposable(
                partial=_counts, merge=lambda states, _: f"[{', '.join(f'sum({one})::BIGINT' for one in states)}]"
            ),
            result=lambda _: "integers",
            default_alias=prefixed("histogram"),
            column_types=_NUMBERS,
            takes_bounds=True,
        ),
    }


def _spread(name: str, function: str) -> Aggregation:
    """Of a sample, over n - 1; NULL of fewer than two values, NaN where one is no finite number."""

    def sql(column: str, _: Parameters) -> str:
        finite = f"isfinite({column}::DOUBLE)"
        return (
            f"CASE WHEN bool_or(NOT {finite}) THEN 'nan'::DOUBLE ELSE {function}({column}) FILTER (WHERE {finite}) END"
        )

    return Aggregation(
        sql=sql,
        combine=Multiset(),
        result=lambda _: "double",
        default_alias=prefixed(name),
        column_types=_NUMBERS,
    )


def _counts(column: str, parameters: Parameters) -> tuple[str, ...]:
    """How many values are below the first bound, from each to below the next, and from the last on; NaN is in none."""
    bounds = [_number(bound) for bound in parameters["bounds"]]
    inner = [f"{column} >= {low} AND {column} < {high}" for low, high in pairwise(bounds)]
    last = f"{column} >= {bounds[-1]} AND NOT isnan({column}::DOUBLE)"
    return tuple(f"count(*) FILTER (WHERE {one})" for one in (f"{column} < {bounds[0]}", *inner, last))


def _number(bound: float) -> str:
    """As an integer where it is one: beside integers DuckDB then compares exactly."""
    return f"{int(bound):d}" if bound.is_integer() and abs(bound) < 2**62 else f"'{bound!r}'::DOUBLE"
