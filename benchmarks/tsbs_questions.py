"""Twelve of TSBS's cpu-only query types, each as a request to the service and as the SQL that one writes by hand."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from benchmarks.tsbs_data import COLUMNS, FIRST, HOSTS, INTERVAL_S, METRICS

_SEED = 123
_HIGH = 90
_LAST_BUCKETS = 5


@dataclass(frozen=True, slots=True)
class Question:
    """One question with its times and hosts drawn; the SQL reads `{table}`, and both answers hold the same rows."""

    request: dict[str, Any]
    sql: str


@dataclass(frozen=True, slots=True)
class QueryType:
    """A query type of TSBS under its name there; `draw` makes a question of it for so many points of data."""

    name: str
    draw: Callable[[random.Random, int], Question]


def questions(kind: QueryType, points: int, count: int) -> list[Question]:
    """So many questions of this type, the same ones each time."""
    source = random.Random(f"{_SEED} {kind.name}")
    return [kind.draw(source, points) for _ in range(count)]


def _single(metrics: int, hosts: int, hours: int) -> Callable[[random.Random, int], Question]:
    """The maxima of some metrics over some hosts for each minute of some hours."""
    return _maxima(METRICS[:metrics], hosts, hours, "minute")


def _maxima(metrics: Sequence[str], hosts: int, hours: int, unit: str) -> Callable[[random.Random, int], Question]:
    def draw(source: random.Random, points: int) -> Question:
        start, end = _window(source, points, hours)
        names = _hosts(source, hosts)
        request = {
            "timeRange": _range(start, end),
            "filters": {"columns": {"hostname": {"type": "string", "in": names}}},
            "downsample": {"intervalUnit": unit, "aggregations": _asked("max", metrics)},
        }
        where = f"hostname IN ({_list(names)}) AND {_within(start, end)}"
        return Question(request, _per(unit, "max", metrics, where))

    return draw


def _double(metrics: int) -> Callable[[random.Random, int], Question]:
    """The means of some metrics for each host and hour of twelve."""

    def draw(source: random.Random, points: int) -> Question:
        start, end = _window(source, points, 12)
        request = {
            "timeRange": _range(start, end),
            "groupBy": ["hostname"],
            "downsample": {"intervalUnit": "hour", "aggregations": _asked("avg", METRICS[:metrics])},
        }
        return Question(request, _per("hour", "avg", METRICS[:metrics], _within(start, end), "hostname"))

    return draw


def _high_cpu(source: random.Random, points: int) -> Question:
    """All rows of all hosts in twelve hours where one metric is high."""
    start, end = _window(source, points, 12)
    request = {
        "timeRange": _range(start, end),
        "columns": list(COLUMNS),
        "filters": {"columns": {"usage_user": {"type": "number", "gt": _HIGH}}},
    }
    where = f"usage_user > {_HIGH} AND {_within(start, end)}"
    return Question(request, f"SELECT * FROM {{table}} WHERE {where} ORDER BY timestamp, hostname")


def _lastpoint(_: random.Random, points: int) -> Question:
    """The newest row of each host."""
    request = {"timeRange": _range(FIRST, _after(points)), "groupBy": ["hostname"], "latest": True}
    newest = "QUALIFY row_number() OVER (PARTITION BY hostname ORDER BY timestamp DESC) = 1"
    return Question(request, f"SELECT * FROM {{table}} {newest} ORDER BY hostname")


def _groupby_orderby_limit(source: random.Random, points: int) -> Question:
    """The maxima of the last five minutes before some time."""
    end = _after(points) - timedelta(seconds=source.randrange(points * INTERVAL_S // 2))
    request = {
        "timeRange": _range(FIRST, end),
        "order": "desc",
        "limit": _LAST_BUCKETS,
        "downsample": {"intervalUnit": "minute", "aggregations": _asked("max", METRICS[:1])},
    }
    return Question(request, f"{_per('minute', 'max', METRICS[:1], _within(FIRST, end))} DESC LIMIT {_LAST_BUCKETS}")


TYPES = (
    QueryType("single-groupby-1-1-1", _single(1, 1, 1)),
    QueryType("single-groupby-1-1-12", _single(1, 1, 12)),
    QueryType("single-groupby-1-8-1", _single(1, 8, 1)),
    QueryType("single-groupby-5-1-1", _single(5, 1, 1)),
    QueryType("single-groupby-5-8-1", _single(5, 8, 1)),
    QueryType("cpu-max-all-1", _maxima(METRICS, 1, 8, "hour")),
    QueryType("cpu-max-all-8", _maxima(METRICS, 8, 8, "hour")),
    QueryType("double-groupby-1", _double(1)),
    QueryType("double-groupby-all", _double(len(METRICS))),
    QueryType("high-cpu-all", _high_cpu),
    QueryType("lastpoint", _lastpoint),
    QueryType("groupby-orderby-limit", _groupby_orderby_limit),
)


def _window(source: random.Random, points: int, hours: int) -> tuple[datetime, datetime]:
    """So many hours of the data's time, or all of it where there is less; the end is excluded."""
    length = min(hours * 3600, points * INTERVAL_S)
    start = FIRST + timedelta(seconds=source.randint(0, points * INTERVAL_S - length))
    return start, start + timedelta(seconds=length)


def _hosts(source: random.Random, count: int) -> list[str]:
    return [f"host_{number}" for number in source.sample(range(HOSTS), count)]


def _after(points: int) -> datetime:
    return FIRST + timedelta(seconds=points * INTERVAL_S)


def _range(start: datetime, end: datetime) -> dict[str, str]:
    """The service's ranges include both ends."""
    return {"start": start.isoformat(), "end": (end - timedelta(milliseconds=1)).isoformat()}


def _asked(function: str, metrics: Sequence[str]) -> list[dict[str, str]]:
    return [{"fn": function, "column": metric} for metric in metrics]


def _within(start: datetime, end: datetime) -> str:
    return f"timestamp >= '{start:%Y-%m-%d %H:%M:%S}' AND timestamp < '{end:%Y-%m-%d %H:%M:%S}'"


def _list(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def _per(unit: str, function: str, metrics: Sequence[str], where: str, group: str = "") -> str:
    """The aggregates for each bucket and group; ends in ORDER BY with the bucket last where there is no group."""
    grouped = f", {group}" if group else ""
    results = ", ".join(f"{function}({metric}) AS {function}_{metric}" for metric in metrics)
    return (
        f"SELECT date_trunc('{unit}', timestamp) AS bucket{grouped}, {results} FROM {{table}} WHERE {where} "
        f"GROUP BY bucket{grouped} ORDER BY bucket{grouped}"
    )
