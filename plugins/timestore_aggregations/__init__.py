"""The built-in aggregations; those of the contract, from avg to percentile, stand here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from timestore_aggregations.distribution import distribution
from timestore_aggregations.naming import percentile, prefixed
from timestore_aggregations.ordered import ordered
from timestore_core.aggregations import Aggregation, Decomposable, Multiset, Scale
from timestore_core.hookspecs import hookimpl
from timestore_core.model import FieldType

_NUMBERS: frozenset[FieldType] = frozenset({"double", "integer"})
_ORDERED_NUMBERS: frozenset[FieldType] = frozenset({"double", "integer", "timestamp"})


# What a value leaves over when it is rounded to an integer becomes an integer of its own, times this.
_REST_FACTOR = 2.0**62


@dataclass(frozen=True, slots=True)
class _Total:
    """One way to add a column up: `partial` gives sums over it, `whole` makes the total out of them.

    The sums of parts are added up, by `add`, to those of the whole before `whole` is taken.
    """

    partial: Callable[[str], tuple[str, ...]]
    whole: Callable[[Sequence[str]], str]
    add: str = "sum"


_PLAIN = _Total(partial=lambda column: (f"sum({column})",), whole=lambda sums: sums[0])


@hookimpl
def timestore_aggregations() -> Mapping[str, Aggregation]:
    return {
        "avg": _avg(_PLAIN),
        "min": _extreme("min"),
        "max": _extreme("max"),
        "sum": _sum(_PLAIN),
        "median": Aggregation(
            sql=lambda column, _: f"median({column})",
            combine=Multiset(),
            result=lambda type_: "timestamp" if type_ == "timestamp" else "double",
            default_alias=prefixed("median"),
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
            default_alias=prefixed("count_distinct"),
        ),
        "percentile": Aggregation(
            sql=lambda column, parameters: f"quantile_disc({column}, {parameters['percentile']!r})",
            combine=Multiset(),
            result=lambda type_: type_ or "double",
            default_alias=percentile(),
            parameters={"percentile": (0.0, 1.0)},
        ),
        **ordered(),
        **distribution(),
    }


def _sum(total: _Total) -> Aggregation:
    return Aggregation(
        sql=lambda column, _: total.whole(total.partial(column)),
        combine=Decomposable(
            partial=lambda column, _: total.partial(column),
            merge=lambda states, _: total.whole(_added(total, states)),
        ),
        result=lambda type_: type_ or "double",
        default_alias=prefixed("sum"),
        column_types=_NUMBERS,
        exact=lambda scale: _sum(_exact(scale)),
    )


def _avg(total: _Total) -> Aggregation:
    """The total by the count, also undivided: DuckDB's own avg of integers divides in another precision."""
    return Aggregation(
        sql=lambda column, _: f"{total.whole(total.partial(column))} / count({column})",
        combine=Decomposable(
            partial=lambda column, _: (*total.partial(column), f"count({column})"),
            merge=lambda states, _: f"{total.whole(_added(total, states[:-1]))} / sum({states[-1]})",
        ),
        result=lambda _: "double",
        default_alias=prefixed("avg"),
        column_types=_NUMBERS,
        exact=lambda scale: _avg(_exact(scale)),
    )


def _added(total: _Total, states: Sequence[str]) -> list[str]:
    return [f"{total.add}({state})" for state in states]


def _exact(scale: Scale) -> _Total:
    """Doubles added up so that the order of the rows leaves no trace in the last digits."""
    if scale.decimals is None:
        return _fixed_point(scale)
    factor = f"{10.0**scale.decimals:.1f}::DOUBLE"
    if scale.compensated:
        # What it is off by is less than the last digit, and is rounded away.
        return _Total(
            lambda column: (f"fsum({column})",), lambda sums: f"round({sums[0]} * {factor}) / {factor}", "fsum"
        )
    return _Total(
        lambda column: (f"sum(CAST(round({column} * {factor}) AS BIGINT))",),
        lambda sums: f"{sums[0]}::DOUBLE / {factor}",
    )


def _fixed_point(scale: Scale) -> _Total:
    """Doubles added up as integers, which is exact.

    A value is two integers of 62 bits: it scaled and rounded, and the rest. So it is kept to 2**-124 of the column's
    largest, and whole if it is more than 2**-71 of that: the total of one value is the value. What is left over of
    smaller ones is added up compensated, so that they are not lost beside a huge one. With the first integer alone, 0.1
    beside 10,000 would be 0.10000000000000142. Factors are powers of two, which round nothing. NaN and infinities are
    added up beside the others; where there are any, they are the total.
    """
    factor, rest_factor = f"{2.0**scale.exponent:.17e}", f"{_REST_FACTOR:.17e}"

    def partial(column: str) -> tuple[str, ...]:
        value = f"CASE WHEN isfinite({column}) THEN {column} END" if scale.guarded else column
        scaled = f"({value}) * {factor}"
        rounded = f"CAST({scaled} AS BIGINT)"
        rest = f"({scaled} - {rounded}) * {rest_factor}"
        rest_rounded = f"CAST({rest} AS BIGINT)"
        sums = f"sum({rounded})", f"sum({rest_rounded})", f"fsum({rest} - {rest_rounded})"
        return (*sums, f"sum({column}) FILTER (WHERE NOT isfinite({column}))") if scale.guarded else sums

    def whole(sums: Sequence[str]) -> str:
        finite = f"({sums[0]}::DOUBLE + ({sums[1]}::DOUBLE + {sums[2]}) / {rest_factor}) / {factor}"
        return f"coalesce({sums[3]}, {finite})" if scale.guarded else finite

    return _Total(partial, whole)


def _extreme(name: str) -> Aggregation:
    return Aggregation(
        sql=lambda column, _: f"{name}({column})",
        combine=Decomposable(
            partial=lambda column, _: (f"{name}({column})",),
            merge=lambda states, _: f"{name}({states[0]})",
        ),
        result=lambda type_: type_ or "double",
        default_alias=prefixed(name),
    )
