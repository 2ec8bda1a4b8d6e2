"""An ingest done by hand with the same libraries, as one would write it for these six columns and nothing else.

It promises what the service promises of a 201: the file is whole and durable, and named by a committed
transaction. It checks nothing, knows one schema, and keeps no history. Nothing here comes from timestore.
"""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from uuid import uuid4

import duckdb
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
from psycopg.types.json import Jsonb

from benchmarks.floor_decode import DECODERS, INTO_PARQUET

TABLES = """
CREATE SCHEMA IF NOT EXISTS floor;
CREATE TABLE IF NOT EXISTS floor.manifests (
    id text PRIMARY KEY, dataset_id text NOT NULL, version bigserial, schema jsonb NOT NULL,
    total_rows bigint NOT NULL, created_at timestamptz NOT NULL DEFAULT now());
CREATE INDEX IF NOT EXISTS floor_manifests ON floor.manifests (dataset_id, version);
CREATE TABLE IF NOT EXISTS floor.partitions (
    id text PRIMARY KEY, dataset_id text NOT NULL, manifest_id text NOT NULL REFERENCES floor.manifests,
    partition_key jsonb NOT NULL, file_path text NOT NULL, file_size_bytes bigint NOT NULL, row_count bigint NOT NULL,
    start_time timestamptz NOT NULL, end_time timestamptz NOT NULL, checksum text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now());
CREATE INDEX IF NOT EXISTS floor_partitions ON floor.partitions (dataset_id, start_time, end_time);
"""
_MANIFEST = "INSERT INTO floor.manifests (id, dataset_id, schema, total_rows) VALUES (%s, 'floor', %s, %s)"
_PARTITION = """
INSERT INTO floor.partitions (id, dataset_id, manifest_id, partition_key, file_path, file_size_bytes, row_count,
    start_time, end_time, checksum)
VALUES (%s, 'floor', %s, %s, %s, %s, %s, %s, %s, %s)
"""
# From so many rows on DuckDB's own size of a block is faster than a small one, below it is mostly empty.
_LARGE_ROWS = 50_000
_CREATE = "CREATE TABLE {0}.records AS SELECT timestamp::TIMESTAMP AS timestamp, * EXCLUDE timestamp FROM batch"


class FloorIngest:
    """One process's means: a DuckDB to write with, and a connection to PostgreSQL for each thread."""

    def __init__(self, database_url: str, directory: Path, form: str = "JSON") -> None:
        self._directory = directory
        self._database_url = database_url
        self._decode = DECODERS[form]
        self._parquet = form in INTO_PARQUET
        self._duckdb = duckdb.connect()
        # One thread and no log before the checkpoint: the fastest of the settings tried for these sizes.
        for setting in ("TimeZone = 'UTC'", "threads = 1", "checkpoint_threshold = '0B'"):
            self._duckdb.execute(f"SET {setting}")

    def connect(self) -> psycopg.Connection:
        return psycopg.connect(self._database_url, autocommit=True)

    def ingest(self, connection: psycopg.Connection, body: bytes) -> None:
        """Decode, write, make durable, publish."""
        batch = self._decode(body)
        identity = str(uuid4())
        path = self._directory / f"{identity}.{'parquet' if self._parquet else 'duckdb'}"
        if self._parquet:
            pq.write_table(batch.columns, path, compression="zstd")
        else:
            self._write(path, batch.columns)
        checksum = _made_durable(path)
        manifest = f"dm-{identity}"
        with connection.transaction():
            connection.execute(_MANIFEST, [manifest, Jsonb(batch.schema), batch.columns.num_rows])
            connection.execute(
                _PARTITION,
                [
                    f"part-{identity}",
                    manifest,
                    Jsonb(batch.key),
                    path.name,
                    path.stat().st_size,
                    batch.columns.num_rows,
                    batch.start,
                    batch.end,
                    checksum,
                ],
            )

    def _write(self, path: Path, columns: pa.Table) -> None:
        alias = f'"{path.stem}"'
        block_bytes = 16_384 if columns.num_rows < _LARGE_ROWS else 262_144
        with self._duckdb.cursor() as cursor:
            cursor.register("batch", columns)
            cursor.execute(f"ATTACH '{path}' AS {alias} (BLOCK_SIZE {block_bytes})")
            cursor.execute(_CREATE.format(alias))
            cursor.execute(f"CHECKPOINT {alias}")
            cursor.execute(f"DETACH {alias}")


class FloorPool:
    """The floor with several clients: as many processes as the service has workers, the clients' threads in them."""

    def __init__(self, database_url: str, directory: Path, processes: int, clients: int, form: str = "JSON") -> None:
        self._processes = processes
        self._threads = clients // processes
        self._pool = ProcessPoolExecutor(
            processes, get_context("spawn"), _start, (database_url, directory, self._threads, form)
        )

    def run(self, body: bytes, batches: int) -> None:
        """Ingest the body so many times, all threads at it."""
        share = batches // (self._processes * self._threads)
        for done in [self._pool.submit(_ingest_share, body, share) for _ in range(self._processes)]:
            done.result()

    def close(self) -> None:
        self._pool.shutdown()


# What one process of the pool works with: set once when it starts.
_floor: FloorIngest
_threads: ThreadPoolExecutor
_connections: list[psycopg.Connection]


def _start(database_url: str, directory: Path, threads: int, form: str) -> None:
    global _floor, _threads, _connections
    _floor = FloorIngest(database_url, directory, form)
    _threads = ThreadPoolExecutor(threads)
    _connections = [_floor.connect() for _ in range(threads)]


def _ingest_share(body: bytes, batches: int) -> None:
    def work(connection: psycopg.Connection) -> None:
        for _ in range(batches):
            _floor.ingest(connection, body)

    list(_threads.map(work, _connections))


def _made_durable(path: Path) -> str:
    """Sync the file and its directory; the file's SHA-1."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        checksum = hashlib.file_digest(file, "sha1").hexdigest()
    directory = os.open(path.parent, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)
    return checksum
