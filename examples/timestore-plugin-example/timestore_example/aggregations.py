"""The aggregations `geomean` and `mad`, and the two ways in which parts become a whole."""

from __future__ import annotations

from timestore_core.aggregations import Aggregation, Decomposable, Gather, Parameters
from timestore_core.model import FieldType

_NUMBERS: frozenset[FieldType] = frozenset({"double", "integer"})


def _geomean(column: str, _: Parameters) -> str:
    """exp(avg(ln(x))). 0 where the smallest value is 0; NULL where one is below, since there is no such mean."""
    return f"CASE WHEN min({column}) > 0 THEN exp(avg({_ln(column)})) WHEN min({column}) = 0 THEN 0.0::DOUBLE END"


def _geomean_partial(column: str, _: Parameters) -> tuple[str, ...]:
    """One part's states: the least value, the sum of the logarithms and how many there are."""
    return f"min({column})", f"sum({_ln(column)})", f"count({column})"


def _geomean_merge(states: tuple[str, ...], _: Parameters) -> str:
    """The states of all parts are rows now: one aggregate over each gives the whole."""
    least, logarithms, count = states
    return (
        f"CASE WHEN min({least}) > 0 THEN exp(sum({logarithms}) / sum({count})) "
        f"WHEN min({least}) = 0 THEN 0.0::DOUBLE END"
    )


def _ln(column: str) -> str:
    """The logarithm, guarded: DuckDB's `ln` fails at zero and below, even in a row that a FILTER leaves out."""
    return f"ln(CASE WHEN {column} > 0 THEN {column} END)"


GEOMEAN = Aggregation(
    sql=_geomean,
    combine=Decomposable(partial=_geomean_partial, merge=_geomean_merge),
    result=lambda _: "double",
    default_alias=lambda column, _: f"geomean_{column}",
    column_types=_NUMBERS,
)
"""The geometric mean of positive numbers: the average factor of growth rates, ratios, latencies."""

MAD = Aggregation(
    sql=lambda column, _: f"mad({column})",
    # Which distances count is only known once the median of all values is, so the parts ship their values. Where
    # values repeat a lot, Multiset() ships each one once, with its count.
    combine=Gather(),
    result=lambda _: "double",
    default_alias=lambda column, _: f"mad_{column}",
    column_types=_NUMBERS,
)
"""The median absolute deviation, median(|x - median(x)|): a spread that outliers do not move."""
