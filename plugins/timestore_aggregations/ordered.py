"""Aggregations that follow the rows through time: first and last, what counters did, averages weighted by time.

Rows of one time stand by their value, so that the answer is the same however they are stored. NULLs are left out.
"""

from __future__ import annotations

from collections.abc import Mapping

from timestore_aggregations.naming import prefixed
from timestore_core.aggregations import Aggregation, Decomposable, Gather, Parameters
from timestore_core.model import FieldType

_NUMBERS: frozenset[FieldType] = frozenset({"double", "integer"})


def ordered() -> Mapping[str, Aggregation]:
    """By name."""
    return {
        "first": _end("first", "min"),
        "last": _end("last", "max"),
        "first_time": _end_time("first_time", "min"),
        "last_time": _end_time("last_time", "max"),
        "increase": Aggregation(
            sql=_increase,
            combine=Gather(),
            result=lambda type_: type_ or "double",
            default_alias=prefixed("increase"),
            column_types=_NUMBERS,
            uses_time=True,
        ),
        "rate": Aggregation(
            sql=lambda column, parameters: f"{_increase(column, parameters)} / {_seconds(column, parameters)}",
            combine=Gather(),
            result=lambda _: "double",
            default_alias=prefixed("rate"),
            column_types=_NUMBERS,
            uses_time=True,
        ),
        "delta": Aggregation(
            sql=lambda column, parameters: f"{_pick('max', column, parameters)} - {_pick('min', column, parameters)}",
            combine=Gather(),
            result=lambda type_: type_ or "double",
            default_alias=prefixed("delta"),
            column_types=_NUMBERS,
            uses_time=True,
        ),
        "time_weighted_avg": Aggregation(
            sql=_time_weighted,
            combine=Gather(),
            result=lambda _: "double",
            default_alias=prefixed("time_weighted_avg"),
            column_types=_NUMBERS,
            uses_time=True,
        ),
    }


def _end(name: str, which: str) -> Aggregation:
    """The first or last value."""

    def partial(column: str, parameters: Parameters) -> tuple[str, ...]:
        return _pick(which, column, parameters), _time(which, column, parameters)

    return Aggregation(
        sql=lambda column, parameters: _pick(which, column, parameters),
        combine=Decomposable(
            partial=partial, merge=lambda states, _: f"arg_{which}({states[0]}, row({states[1]}, {states[0]}))"
        ),
        result=lambda type_: type_ or "double",
        default_alias=prefixed(name),
        uses_time=True,
    )


def _end_time(name: str, which: str) -> Aggregation:
    """When that was; without a column, of the first or last row."""
    return Aggregation(
        sql=lambda column, parameters: _time(which, column, parameters),
        combine=Decomposable(
            partial=lambda column, parameters: (_time(which, column, parameters),),
            merge=lambda states, _: f"{which}({states[0]})",
        ),
        result=lambda _: "timestamp",
        default_alias=lambda column, _: name if column is None else f"{name}_{column}",
        column_optional=True,
        uses_time=True,
    )


def _pick(which: str, column: str, parameters: Parameters) -> str:
    return f"arg_{which}({column}, row({parameters['time']}, {column}))"


def _time(which: str, column: str, parameters: Parameters) -> str:
    present = "" if column == "*" else f" FILTER (WHERE {column} IS NOT NULL)"
    return f"{which}({parameters['time']}){present}"


def _values(column: str, parameters: Parameters) -> str:
    return f"list({column} ORDER BY {parameters['time']}, {column}) FILTER (WHERE {column} IS NOT NULL)"


def _increase(column: str, parameters: Parameters) -> str:
    """By how much a counter has grown; where it fell it began again at zero. NULL of fewer than two values."""
    values = _values(column, parameters)
    step = f"{values}[i] - CASE WHEN {values}[i] >= {values}[i - 1] THEN {values}[i - 1] ELSE 0 END"
    return f"list_sum(list_transform(range(2, len({values}) + 1), lambda i: {step}))"


def _seconds(column: str, parameters: Parameters) -> str:
    """From the first value to the last; NULL where that is no time."""
    first, last = (f"epoch_us({_time(which, column, parameters)})" for which in ("min", "max"))
    return f"(nullif({last} - {first}, 0) / 1e6)"


def _time_weighted(column: str, parameters: Parameters) -> str:
    """Each value counts for as long as it held, until the next one; of values at one time, their mean."""
    values = _values(column, parameters)
    time = parameters["time"]
    times = f"list(epoch_us({time}) ORDER BY {time}, {column}) FILTER (WHERE {column} IS NOT NULL)"
    held = f"{values}[i]::DOUBLE * ({times}[i + 1] - {times}[i])"
    total = f"list_sum(list_transform(range(1, len({values})), lambda i: {held}))"
    return f"coalesce({total} / nullif({times}[-1] - {times}[1], 0), list_avg({values}))"
