"""Small batches that stand in the catalog against the same batches as files, and the same rows in one file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from typing import Any

from benchmarks.batches import ingest_body
from benchmarks.goals import INLINE_INGEST, INLINE_QUERY, Result
from benchmarks.queries import ALL_TIME, QUESTIONS
from benchmarks.service import Service
from benchmarks.timing import alternate, milliseconds

_ROWS = 100
_CLIENTS = 8
_BATCHES = 1_000
_PER_ROUND = 64
_FILES, _INLINE, _ONE_FILE, _MANY = "bench-small-files", "bench-small-inline", "bench-one-file", "bench-thousand"

_MORE_QUESTIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("whole rows, an hour", {"timeRange": {"start": "2024-01-01T03:00:00Z", "end": "2024-01-01T03:59:59Z"}}),
    ("count", {"downsample": {"intervalUnit": "day", "aggregations": [{"fn": "count"}]}}),
)


def inline_queries(service: Service, *, quick: bool) -> Iterator[Result]:
    """Questions over a thousand batches, cold and warm. Of a service with one worker: each has its own memory."""
    _make(service, _ONE_FILE, "duckdb")
    _make(service, _MANY, "auto")
    whole, bodies = _batches()
    service.client.ingest(_ONE_FILE, whole)
    with ThreadPoolExecutor(_CLIENTS) as threads:
        list(threads.map(partial(service.client.ingest, _MANY), bodies))
    for number, (name, request) in enumerate([*((name, request) for name, request, _ in QUESTIONS), *_MORE_QUESTIONS]):
        one = partial(service.client.query, _ONE_FILE, ALL_TIME | request)
        many = partial(service.client.query, _MANY, ALL_TIME | request)
        if not number:
            yield Result(f"cold: {name}, {_BATCHES:,} inline", "ms", milliseconds(one), milliseconds(many))
        assert json.loads(one())["rows"] == json.loads(many())["rows"], name
        pair = alternate(one, many, 10 if quick else 40)
        yield Result(f"{name}, {_BATCHES:,} inline, to one file", "ms", pair.floor_ms, pair.measured_ms, INLINE_QUERY)


def inline_ingest(service: Service, *, quick: bool) -> Iterator[Result]:
    """Batches a second from several clients; what is above the limits is gathered meanwhile."""
    _make(service, _FILES, "duckdb")
    _make(service, _INLINE, "auto")
    _, bodies = _batches()
    numbers = count()
    with ThreadPoolExecutor(_CLIENTS) as threads:

        def send(slug: str) -> None:
            sent = [
                threads.submit(service.client.ingest, slug, bodies[next(numbers) % _BATCHES]) for _ in range(_PER_ROUND)
            ]
            for one in sent:
                one.result()

        pair = alternate(lambda: send(_FILES), lambda: send(_INLINE), 4 if quick else 15)
    rates = [_PER_ROUND * 1000 / taken for taken in (pair.floor_ms, pair.measured_ms)]
    yield Result(f"ingest {_ROWS} rows inline, {_CLIENTS} clients, to files", "batches/s", *rates, INLINE_INGEST)


def _make(service: Service, slug: str, write_format: str) -> None:
    service.client.post("/admin/datasets", json.dumps({"slug": slug, "writeFormat": write_format}).encode())


def _batches() -> tuple[bytes, list[bytes]]:
    """All rows as one batch, and as many small ones."""
    whole = json.loads(ingest_body(_ROWS * _BATCHES))
    rows = whole["rows"]
    return _part(whole, rows), [_part(whole, rows[at : at + _ROWS]) for at in range(0, len(rows), _ROWS)]


def _part(whole: dict[str, Any], rows: list[dict[str, Any]]) -> bytes:
    """Some rows of the whole as a batch."""
    times = {"start": rows[0]["timestamp"], "end": rows[-1]["timestamp"]}
    body = {**whole, "partition": {**whole["partition"], "timeRange": times}, "rows": rows}
    return json.dumps(body, separators=(",", ":")).encode()
