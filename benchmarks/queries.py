"""Questions over HTTP against DuckDB alone on the same files, attached and warm."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.batches import ingest_body
from benchmarks.floor_query import FloorQuery
from benchmarks.goals import JSON_ANSWER, PARTITIONS, ROWS_PER_PARTITION, WARM_QUERY, Result
from benchmarks.service import Client, Service
from benchmarks.timing import alternate, milliseconds

ALL_TIME = {"timeRange": {"start": "2000-01-01T00:00:00Z", "end": "2100-01-01T00:00:00Z"}}
_JSON_ROWS = 10_000
_LOADING_CLIENTS = 4

Question = tuple[str, dict[str, Any], Callable[[FloorQuery], bytes]]

QUESTIONS: tuple[Question, ...] = (
    ("raw, limit 1000", {"limit": 1000}, lambda floor: floor.raw(1000)),
    (
        "avg per minute",
        {"downsample": {"intervalUnit": "minute", "aggregations": [{"fn": "avg", "column": "temperature_c"}]}},
        FloorQuery.average_per_minute,
    ),
    (
        "p95 per hour",
        {
            "downsample": {
                "intervalUnit": "hour",
                "aggregations": [{"fn": "percentile", "column": "temperature_c", "percentile": 0.95}],
            }
        },
        FloorQuery.p95_per_hour,
    ),
)


def sizes(*, quick: bool) -> list[int]:
    """The numbers of partitions to measure."""
    return [count for count in PARTITIONS if count <= 100 or not quick]


def load(client: Client, *, quick: bool) -> None:
    """One dataset for each number of partitions, and one of a single large batch."""
    for count in sizes(quick=quick):

        def one(host: int, hosts: int = count) -> None:
            client.ingest(dataset(hosts), ingest_body(ROWS_PER_PARTITION, host=host, hosts=hosts))

        with ThreadPoolExecutor(_LOADING_CLIENTS) as threads:
            list(threads.map(one, range(count)))
    client.ingest("bench-json", ingest_body(_JSON_ROWS))


def dataset(partitions: int) -> str:
    return f"bench-{partitions}"


def query_cases(service: Service, storage_root: Path, partitions: int, *, quick: bool) -> Iterator[Result]:
    """The cold first question of a fresh service, then every question warm."""
    files = sorted((storage_root / dataset(partitions)).rglob("*.duckdb"))
    assert len(files) == partitions, f"{len(files)} files instead of {partitions}"
    name, request, by_hand = QUESTIONS[0]
    opened: list[FloorQuery] = []

    def cold_floor() -> None:
        opened.append(FloorQuery(files))
        by_hand(opened[0])

    label = f"{partitions:,} partition{'s' if partitions > 1 else ''}"
    cold_floor_ms = milliseconds(cold_floor)
    cold_ms = milliseconds(lambda: service.client.query(dataset(partitions), ALL_TIME | request))
    yield Result(f"cold: {name}, {label}", "ms", cold_floor_ms, cold_ms)
    floor = opened[0]
    try:
        for question in QUESTIONS:
            yield _warm(service, floor, dataset(partitions), question, label, quick=quick)
    finally:
        floor.close()


def json_case(service: Service, storage_root: Path, *, quick: bool) -> Result:
    """A large raw answer: what the bytes themselves cost."""
    floor = FloorQuery(list((storage_root / "bench-json").rglob("*.duckdb")))
    try:
        pair = alternate(
            lambda: floor.raw(_JSON_ROWS),
            lambda: service.client.query("bench-json", ALL_TIME | {"limit": _JSON_ROWS}),
            12 if quick else 60,
        )
    finally:
        floor.close()
    return Result(f"JSON answer of {_JSON_ROWS:,} rows", "ms", pair.floor_ms, pair.measured_ms, JSON_ANSWER)


def _warm(service: Service, floor: FloorQuery, slug: str, question: Question, label: str, *, quick: bool) -> Result:
    name, request, by_hand = question
    check_same(service.client.query(slug, ALL_TIME | request), by_hand(floor))
    pair = alternate(
        lambda: by_hand(floor),
        lambda: service.client.query(slug, ALL_TIME | request),
        10 if quick else 40,
    )
    return Result(f"{name}, {label}", "ms", pair.floor_ms, pair.measured_ms, WARM_QUERY)


def check_same(ours: bytes, theirs: bytes) -> None:
    """Both answer the same question, or the comparison means nothing.

    Times are written differently, and a mean's last bit depends on the order of its values.
    """
    answers = [[list(row.values())[1:] for row in json.loads(one)["rows"]] for one in (ours, theirs)]
    assert len(answers[0]) == len(answers[1]), f"{len(answers[0])} rows instead of {len(answers[1])}"
    for mine, other in zip(*answers, strict=True):
        same = all(
            math.isclose(one, two) if isinstance(one, float) else one == two
            for one, two in zip(mine, other, strict=True)
        )
        assert same, f"{mine} instead of {other}"
