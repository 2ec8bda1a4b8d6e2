"""Data and questions like TSBS's, over a compacted dataset, against one DuckDB table and against DuckLake."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks.answers import answer_cases
from benchmarks.crowd import crowd_cases
from benchmarks.goals import COMPACTED_QUERY, Result
from benchmarks.service import ARROW, Client, running
from benchmarks.timing import in_turn, milliseconds
from benchmarks.tsbs_data import HOSTS, batches, points
from benchmarks.tsbs_floor import LAKE, NATIVE, TsbsFloor
from benchmarks.tsbs_questions import TYPES, QueryType, Question, questions

SLUG = "bench-tsbs"
_SETTINGS = {"TIMESTORE_PG_SCHEMA": "bench_tsbs"}
_DRAWN = 4
_TIME_PER_CASE_MS, _FEWEST_ROUNDS, _MOST_ROUNDS = 12_000, 5, 40
_QUICK_ROUNDS = 8


def tsbs_cases(url: str, home: Path, workers: int, *, quick: bool) -> Iterator[Result]:
    """Load, compact until nothing is left to gather, then ask: one worker, but for many clients at once."""
    root, log, count = home / "storage", home / "service.log", points(quick=quick)
    home.mkdir(parents=True)
    with running(url, root, log, workers, **_SETTINGS) as service:
        yield from _load(service.client, count)
        yield from _compact(service.client)
    floor = TsbsFloor(home / "floor", batches(count))
    try:
        with running(url, root, log, workers=1, **_SETTINGS) as service:
            for kind in TYPES:
                yield from _asked(service.client, floor, kind, count, quick=quick)
            yield from answer_cases(service.client, floor, SLUG, count, quick=quick)
        with running(url, root, log, workers, **_SETTINGS) as service:
            yield from crowd_cases(service.client, SLUG, count, quick=quick)
    finally:
        floor.close()


def _load(client: Client, count: int) -> Iterator[Result]:
    sending_s, rows = 0.0, 0
    for batch in batches(count):
        body = _stream(batch)
        started = time.perf_counter()
        client.post(f"/datasets/{SLUG}/ingest", body, ARROW)
        sending_s += time.perf_counter() - started
        rows += batch.num_rows
    yield Result(f"TSBS: {rows:,} rows of {HOSTS} hosts loaded as Arrow, 1 client", "rows/s", None, rows / sending_s)


def _compact(client: Client) -> Iterator[Result]:
    body = json.dumps({"datasetSlug": SLUG, "operations": ["compaction"]}).encode()
    taken_ms = milliseconds(lambda: client.post("/admin/lifecycle/run", body))
    found = json.loads(client.post("/admin/lifecycle/run", body))["report"]["operations"]
    assert [one["status"] for one in found] == ["skipped"], f"compaction did not settle: {found}"
    yield Result("TSBS: compaction until it settles", "ms", None, taken_ms)


def _asked(client: Client, floor: TsbsFloor, kind: QueryType, count: int, *, quick: bool) -> Iterator[Result]:
    """The drawn questions in turn, each to all three."""
    drawn = questions(kind, count, _DRAWN)
    for one in drawn:
        _check_same(client.query(SLUG, one.request), floor.json(NATIVE, one.sql), floor.json(LAKE, one.sql))
    once_ms = milliseconds(lambda: (client.query(SLUG, drawn[0].request), floor.json(LAKE, drawn[0].sql)))
    rounds = min(_MOST_ROUNDS, max(_FEWEST_ROUNDS, int(_TIME_PER_CASE_MS / once_ms)))
    native_ms, lake_ms, ours_ms = in_turn(
        (
            _next(drawn, lambda one: floor.json(NATIVE, one.sql)),
            _next(drawn, lambda one: floor.json(LAKE, one.sql)),
            _next(drawn, lambda one: client.query(SLUG, one.request)),
        ),
        _QUICK_ROUNDS if quick else rounds,
    )
    yield Result(f"{kind.name}, against one table", "ms", native_ms, ours_ms, COMPACTED_QUERY)
    yield Result(f"{kind.name}, against DuckLake", "ms", lake_ms, ours_ms)


def _next(drawn: Sequence[Question], ask: Callable[[Question], bytes]) -> Callable[[], bytes]:
    """Each call asks the next one, so that all sides are asked the same in the same round."""
    following = cycle(drawn)
    return lambda: ask(next(following))


def _check_same(ours: bytes, *theirs: bytes) -> None:
    """All answer the same question, or the comparison means nothing. Order among the same times is nobody's promise."""
    mine = _rows(ours)
    for other in map(_rows, theirs):
        assert len(mine) == len(other), f"{len(mine)} rows instead of {len(other)}"
        for one, two in zip(mine, other, strict=True):
            assert all(map(_alike, one, two)), f"{one} instead of {two}"


def _rows(answer: bytes) -> list[list[Any]]:
    """The rows by time and host, times without what only the service writes after the seconds."""
    rows = [list(row.values()) for row in json.loads(answer)["rows"]]
    for row in rows:
        row[0] = row[0][:19].replace("T", " ")
    return sorted(rows, key=lambda row: row[:2])


def _alike(one: object, two: object) -> bool:
    """A mean's last bits depend on the order of its values."""
    if isinstance(one, float | int) and isinstance(two, float | int):
        return math.isclose(one, two, rel_tol=1e-9)
    return one == two


def _stream(batch: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_table(batch)
    body: bytes = sink.getvalue().to_pybytes()
    return body
