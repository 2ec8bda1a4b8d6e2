"""Queue mode: batches end to end by worker processes beside inline, the journal's price, and what waits in Redis."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
from redis import Redis
from timestore_workers.embedded import embedded_valkey

from benchmarks.batches import ingest_body
from benchmarks.goals import Result
from benchmarks.service import Service, running

_ROWS = 100
_CLIENTS = 8
_WORKERS = (1, 2, 4)
_SLUG = "bench-queue"
_TIMEOUT_S = 600


def queue_cases(database_url: str, home: Path, workers: int, *, quick: bool) -> Iterator[Result]:
    """Batches of 100 rows: sent by 8 clients, until the last one is visible."""
    batches = 200 if quick else 1_000
    waiting = 1_000 if quick else 10_000
    root, log = home / "queue-storage", home / "queue.log"
    with running(database_url, root, log, workers) as service:
        inline = _rate(batches, lambda: _send(service, batches))
    yield Result(f"inline, {_ROWS} rows, {_CLIENTS} clients", "batches/s", None, inline)
    with embedded_valkey(home / "valkey") as redis_url:
        settings = {"REDIS_URL": redis_url, "TIMESTORE_DATABASE_URL": database_url, "TIMESTORE_STORAGE_ROOT": str(root)}
        with running(database_url, root, log, workers, REDIS_URL=redis_url) as service:
            for count in _WORKERS:
                measured = _end_to_end(service, settings, database_url, count, batches, log)
                yield Result(f"queued end to end, {count} worker processes", "batches/s", inline, measured)
            measured = _end_to_end(
                service, {**settings, "TIMESTORE_INGEST_COALESCE": "on"}, database_url, 1, batches, log
            )
            yield Result("queued end to end, 1 worker process, coalescing", "batches/s", inline, measured)
            accepted = _rate(batches, lambda: _send(service, batches))
        with running(database_url, root, log, workers, REDIS_URL=redis_url, TIMESTORE_INGEST_JOURNAL="off") as service:
            trusting = _rate(batches, lambda: _send(service, batches))
            yield Result("accepted with the journal, beside without", "batches/s", trusting, accepted)
            yield _redis_memory(service, redis_url, waiting)


def _redis_memory(service: Service, redis_url: str, waiting: int) -> Result:
    client = Redis.from_url(redis_url)
    client.flushall()
    before = client.info("memory")["used_memory"]
    _send(service, waiting)
    used = client.info("memory")["used_memory"] - before
    client.close()
    return Result(f"Redis, {waiting:,} batches of {_ROWS} rows waiting", "MiB", None, used / 2**20)


def _end_to_end(
    service: Service, settings: dict[str, str], database_url: str, count: int, batches: int, log: Path
) -> float:
    """Batches a second from the first request until the catalog has the last one, workers running already."""
    with psycopg.connect(database_url, autocommit=True) as connection, _workers(settings, count, log):
        _send(service, count)
        _await_journal(connection)
        return _rate(batches, lambda: (_send(service, batches), _await_journal(connection)))


def _await_journal(connection: psycopg.Connection) -> None:
    """Until nothing that was accepted waits any more."""
    deadline = time.monotonic() + _TIMEOUT_S
    while connection.execute("SELECT count(*) FROM timestore.ingest_journal").fetchone() != (0,):
        if time.monotonic() > deadline:
            raise RuntimeError("the workers did not finish")
        time.sleep(0.01)


def _send(service: Service, batches: int) -> None:
    body = ingest_body(_ROWS)
    with ThreadPoolExecutor(_CLIENTS) as threads:
        list(threads.map(lambda _: service.client.ingest(_SLUG, body), range(batches)))


def _rate(batches: int, work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return batches / (time.perf_counter() - started)


@contextmanager
def _workers(settings: dict[str, str], count: int, log: Path) -> Iterator[None]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TIMESTORE_")} | settings
    with ExitStack() as running_workers:
        for _ in range(count):
            output = running_workers.enter_context(log.open("ab"))
            process = subprocess.Popen(
                [sys.executable, "-c", "from timestore_workers.cli import main; main()", "worker", "ingest"],
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            running_workers.callback(process.wait, 60)
            running_workers.callback(process.send_signal, signal.SIGTERM)
        yield
