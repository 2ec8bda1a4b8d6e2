"""Batches over HTTP against the same work by hand in process."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg

from benchmarks.batches import ingest_body
from benchmarks.floor_ingest import TABLES, FloorIngest, FloorPool
from benchmarks.goals import BATCH_ROWS, CLIENTS, INGEST, Result
from benchmarks.service import Service
from benchmarks.timing import alternate

# So many batches of a client in one measured round with several clients, by the batch's rows.
_BATCHES_PER_ROUND = {100: 6, 1_000: 6, 10_000: 3}


def ingest_cases(
    service: Service, database_url: str, directory: Path, workers: int, *, quick: bool
) -> Iterator[Result]:
    """Rows per second, for each size of batch and number of clients."""
    directory.mkdir()
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(TABLES)
    rounds = 8 if quick else 40
    for rows in BATCH_ROWS:
        body = ingest_body(rows)
        for clients in CLIENTS:
            if clients == 1:
                floor, measured = _single(service, database_url, directory, body, rounds)
            else:
                batches = clients * _BATCHES_PER_ROUND[rows]
                floor, measured = _many(
                    service, database_url, directory, body, max(3, rounds // 3), clients, workers, batches
                )
            name = f"ingest {rows:,} rows, {clients} client{'s' if clients > 1 else ''}"
            yield Result(name, "rows/s", floor * rows, measured * rows, INGEST.get((rows, clients)))


def _single(service: Service, database_url: str, directory: Path, body: bytes, rounds: int) -> tuple[float, float]:
    """Batches per second, one at a time."""
    by_hand = FloorIngest(database_url, directory)
    with by_hand.connect() as connection:
        pair = alternate(
            lambda: by_hand.ingest(connection, body), lambda: service.client.ingest("bench-ingest", body), rounds
        )
    return 1000 / pair.floor_ms, 1000 / pair.measured_ms


def _many(
    service: Service,
    database_url: str,
    directory: Path,
    body: bytes,
    rounds: int,
    clients: int,
    workers: int,
    batches: int,
) -> tuple[float, float]:
    """Batches per second, so many clients at once."""
    by_hand = FloorPool(database_url, directory, workers, clients)
    with ThreadPoolExecutor(clients) as threads:

        def measured() -> None:
            list(threads.map(lambda _: service.client.ingest("bench-ingest", body), range(batches)))

        try:
            pair = alternate(lambda: by_hand.run(body, batches), measured, rounds)
        finally:
            by_hand.close()
    return batches * 1000 / pair.floor_ms, batches * 1000 / pair.measured_ms
