"""Large answers by their form, in rows a second, and what the catalog answers by itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pyarrow as pa

from benchmarks.goals import ARROW_MILLION, COUNT_OF_ALL, JSON_MILLION, Goal, Result
from benchmarks.queries import ALL_TIME
from benchmarks.service import ARROW, JSON, Client
from benchmarks.timing import alternate, in_turn
from benchmarks.tsbs_data import COLUMNS, FIRST, HOSTS, INTERVAL_S
from benchmarks.tsbs_floor import NATIVE, TsbsFloor

_MOST_ROWS = 1_000_000
_NARROW = ("timestamp", "hostname", "usage_user")
_FORMS: tuple[tuple[str, str, tuple[str, ...], Goal | None], ...] = (
    ("Arrow", ARROW, _NARROW, ARROW_MILLION),
    ("JSON", JSON, _NARROW, JSON_MILLION),
    ("Arrow", ARROW, COLUMNS, None),
)


def answer_cases(client: Client, floor: TsbsFloor, slug: str, points: int, *, quick: bool) -> Iterator[Result]:
    """A million rows (or all, where there are fewer) in time's order; then the number of all rows."""
    points = min(points, _MOST_ROWS // HOSTS)
    rows = points * HOSTS
    end = FIRST + timedelta(seconds=points * INTERVAL_S)
    for form, accept, columns, goal in _FORMS:
        request: dict[str, Any] = {
            "timeRange": {"start": FIRST.isoformat(), "end": (end - timedelta(milliseconds=1)).isoformat()},
            "columns": list(columns),
        }
        sql = (
            f"SELECT {', '.join(columns)} FROM {{table}} WHERE timestamp < '{end:%Y-%m-%d %H:%M:%S}' ORDER BY timestamp"
        )
        found = _count(client.query(slug, request, accept), form)
        assert found == rows, f"{found} rows instead of {rows}"
        by_hand = floor.arrow if form == "Arrow" else floor.json
        pair = alternate(
            lambda by_hand=by_hand, sql=sql: by_hand(NATIVE, sql),
            lambda request=request, accept=accept: client.query(slug, request, accept),
            3 if quick else 5,
            warm_up=1,
        )
        rates = [rows * 1000 / taken_ms for taken_ms in (pair.floor_ms, pair.measured_ms)]
        yield Result(f"answer of {rows:,} rows, {len(columns)} columns, {form}", "rows/s", *rates, goal)
    question = ALL_TIME | {"aggregations": [{"fn": "count"}]}
    [count_ms] = in_turn((lambda: client.query(slug, question),), 20 if quick else 100)
    yield Result("count of all rows", "ms", None, count_ms, COUNT_OF_ALL)


def _count(answer: bytes, form: str) -> int:
    if form == "JSON":
        return len(json.loads(answer)["rows"])
    count: int = pa.ipc.open_stream(answer).read_all().num_rows
    return count
