"""What an aggregation is: its SQL over one column, and how results over parts combine into the whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from timestore_core.model import FIELD_TYPES, FieldType, ResultType

MAX_BOUNDS = 100

Parameters = Mapping[str, Any]
SqlOf = Callable[[str, Parameters], str]


@dataclass(frozen=True, slots=True)
class Scale:
    """How far a double column reaches: its finite values times 2**`exponent` are below 2**62.

    Known from the column's bounds over the whole snapshot, so that it is the same whichever of the files a query
    reads and however the rows are cut into them. Where `guarded`, NaN and infinities may stand among the values.
    With `decimals` no value has more digits after the point, and scaled by 10**`decimals` they are below 2**62. Where
    `compensated`, they are also so small and few that DuckDB's `fsum` (Kahan's, off by less than four units of the last
    place of the sum of magnitudes) is off by less than a quarter of the last digit: rounded to so many it is the true
    sum.
    """

    exponent: int
    guarded: bool
    decimals: int | None = None
    compensated: bool = False


@dataclass(frozen=True, slots=True)
class Decomposable:
    """Each part gives one or more scalars; `merge` combines them.

    `partial` maps the column's SQL to one aggregate expression a state; `merge` maps the states' SQL names to
    the final aggregate expression. avg: partial (sum, count), merge sum(s)/sum(n).
    """

    partial: Callable[[str, Parameters], tuple[str, ...]]
    merge: Callable[[tuple[str, ...], Parameters], str]


@dataclass(frozen=True, slots=True)
class Multiset:
    """Each part gives its values, NULLs left out; the aggregation's own SQL runs over all of them, in any order.

    `distinct_only` says that it does not matter how often a value comes (a distinct count).
    """

    distinct_only: bool = False


@dataclass(frozen=True, slots=True)
class Gather:
    """Each part gives every value, NULLs too; the aggregation's own SQL runs over all of them."""


@dataclass(frozen=True, slots=True)
class Aggregation:
    """One aggregation function.

    `sql` maps the quoted column (or `*` without one) and the checked parameters to an aggregate expression
    over non-NULL and NULL values alike. `result` maps the column's type to the result's. `parameters` maps
    each required parameter to its inclusive bounds. `default_alias` names the result column.

    `exact` is for what adds up doubles, whose last digits vary with the order in which rows are read: it gives the
    aggregation that is used in this one's place where the column is a double and its scale is known, and whose
    result is the same in any order. Its `sql`, its `combine` and nothing else are taken.

    Where `uses_time`, the parameters hold as `time` the SQL of the rows' time column; where `takes_bounds`, they
    hold as `bounds` the rising numbers that the client gave, at most MAX_BOUNDS.
    """

    sql: SqlOf
    combine: Decomposable | Multiset | Gather
    result: Callable[[FieldType | None], ResultType]
    default_alias: Callable[[str | None, Parameters], str]
    column_types: frozenset[FieldType] = frozenset(FIELD_TYPES)
    column_optional: bool = False
    parameters: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    exact: Callable[[Scale], Aggregation] | None = None
    uses_time: bool = False
    takes_bounds: bool = False
