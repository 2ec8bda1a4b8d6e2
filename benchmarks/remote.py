"""Partitions on S3 (moto's server on this machine): cached against local, and what the first touch costs either way."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from benchmarks.batches import ingest_body
from benchmarks.goals import CACHED_QUERY, Result
from benchmarks.queries import ALL_TIME
from benchmarks.service import Client, free_port, running
from benchmarks.timing import alternate, milliseconds

_PARTITIONS = 100
_SMALL_ROWS, _LARGE_ROWS = 1_000, 500_000
_NARROW = ALL_TIME | {"downsample": {"intervalUnit": "hour", "aggregations": [{"fn": "max", "column": "requests"}]}}
_FULL = ALL_TIME | {
    "downsample": {
        "intervalUnit": "hour",
        "aggregations": [
            {"fn": "max", "column": column} for column in ("temperature_c", "humidity", "requests", "host")
        ],
    }
}


def remote_cases(url: str, home: Path, *, quick: bool) -> Iterator[Result]:
    """Everything about remote partitions, each kind of reading by a service of its own."""
    home.mkdir(parents=True)
    partitions = 20 if quick else _PARTITIONS
    large = 100_000 if quick else _LARGE_ROWS
    with _s3(home) as settings:
        with running(url, home / "local", home / "local.log", 1, TIMESTORE_PG_SCHEMA="bench_near") as local:
            _load(local.client, partitions, large)
            with running(url, home / "far", home / "far.log", 1, **settings) as far:
                _load(far.client, partitions, large)
            yield from _cached(url, home, settings, local.client, partitions, quick=quick)
        for size in ("small", "large"):
            for name, question in (("narrow", _NARROW), ("full", _FULL)):
                fetched_ms, streamed_ms = (
                    _first_touch(url, home, settings, f"{size}-{name}-{below}", size, question, below)
                    for below in (1 << 40, 0)
                )
                case = f"first touch, one {size} partition, {name} query: fetched, streamed"
                yield Result(case, "ms", fetched_ms, streamed_ms)
        cold_ms = _first_touch(url, home, settings, "cold", "many", _NARROW, 1 << 40)
        yield Result(f"{partitions} remote partitions, cold", "ms", None, cold_ms)


def _cached(
    url: str, home: Path, settings: dict[str, str], local: Client, partitions: int, *, quick: bool
) -> Iterator[Result]:
    with running(url, home / "far", home / "cached.log", 1, **settings) as far:
        for name, question in (("narrow", _NARROW), ("full", _FULL)):
            pair = alternate(
                lambda question=question: local.query("many", question),
                lambda question=question: far.client.query("many", question),
                10 if quick else 40,
            )
            case = f"{name} query over {partitions} partitions, cached from S3 against local"
            yield Result(case, "ms", pair.floor_ms, pair.measured_ms, CACHED_QUERY)


def _first_touch(
    url: str, home: Path, settings: dict[str, str], cache: str, slug: str, question: dict[str, object], below: int
) -> float:
    changed = {
        "TIMESTORE_QUERY_CACHE_DIR": str(home / "caches" / cache),
        "TIMESTORE_QUERY_FETCH_BELOW_BYTES": str(below),
    }
    with running(url, home / "far", home / "touch.log", 1, **{**settings, **changed}) as far:
        # What the process loads once is not the file's cost: extensions, the driver, the catalog.
        far.client.query("warm-up", question)
        return milliseconds(lambda: far.client.query(slug, question))


def _load(client: Client, partitions: int, large: int) -> None:
    client.ingest("small", ingest_body(_SMALL_ROWS))
    client.ingest("warm-up", ingest_body(10))
    client.ingest("large", ingest_body(large))

    def one(host: int) -> None:
        body = json.loads(ingest_body(_SMALL_ROWS, host=host, hosts=partitions))
        client.ingest("many", json.dumps(body).encode())

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(one, range(partitions)))


@contextmanager
def _s3(home: Path) -> Iterator[dict[str, str]]:
    """The settings of a service whose default target is a bucket of a server in a process of its own."""
    port = free_port()
    with (home / "s3.log").open("ab") as log:
        server = subprocess.Popen([sys.executable, "-m", "moto.server", "-p", str(port)], stdout=log, stderr=log)
    try:
        base = f"http://127.0.0.1:{port}"
        _await(base)
        request = urllib.request.Request(f"{base}/timestore-data", method="PUT")
        urllib.request.urlopen(request).close()
        yield {
            "TIMESTORE_PG_SCHEMA": "bench_far",
            "TIMESTORE_STORAGE_DRIVER": "s3",
            "TIMESTORE_S3_ENDPOINT": base,
            "TIMESTORE_S3_FORCE_PATH_STYLE": "true",
            "TIMESTORE_S3_ACCESS_KEY_ID": "bench",
            "TIMESTORE_S3_SECRET_ACCESS_KEY": "bench",
            "TIMESTORE_QUERY_CACHE_DIR": str(home / "caches" / "warm"),
        }
    finally:
        server.kill()
        server.wait()


def _await(base: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"{base}/moto-api/").close()
            return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError("the S3 server did not start")
