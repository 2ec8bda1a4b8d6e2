"""Large batches as CSV, Arrow and line protocol, over HTTP against the same work by hand in process."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import duckdb
import psycopg
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from benchmarks.floor_ingest import TABLES, keep, made_durable
from benchmarks.goals import FORMAT_BATCH_ROWS, FORMATS, Result
from benchmarks.service import Service
from benchmarks.timing import alternate, milliseconds

_CLIENTS = 4
_HOSTS = 100
_FIELDS = 10
_FIRST_US = 1_704_067_200_000_000


@dataclass(frozen=True, slots=True)
class Case:
    """One form of a batch: where it goes, and how it is read by hand; the floor of lines is that of Arrow."""

    name: str
    path: str
    media_type: str
    body: bytes
    read: Callable[[], pa.Table]
    write_format: str = "duckdb"


def format_cases(service: Service, database_url: str, directory: Path, *, quick: bool) -> Iterator[Result]:
    """Rows per second of each form: one client beside the floor, then several clients."""
    directory.mkdir()
    rounds = 5 if quick else 20
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(TABLES)
        for case in _cases():
            slug = case.path.split("/")[2] if case.path.startswith("/datasets") else ""
            if slug:
                made = json.dumps({"slug": slug, "writeFormat": case.write_format}).encode()
                service.client.post("/admin/datasets", made)

            def measured(case: Case = case) -> None:
                service.client.post(case.path, case.body, case.media_type)

            pair = alternate(lambda case=case: _by_hand(connection, directory, case), measured, rounds)  # type: ignore[misc]
            floor, one = (FORMAT_BATCH_ROWS * 1000 / time_ms for time_ms in (pair.floor_ms, pair.measured_ms))
            yield Result(f"{case.name}, 1 client", "rows/s", floor, one, FORMATS)
            with ThreadPoolExecutor(_CLIENTS) as threads:
                batches = _CLIENTS * rounds // 2
                time_ms = milliseconds(lambda: list(threads.map(lambda _: measured(), range(batches))))  # noqa: B023
            rate = FORMAT_BATCH_ROWS * batches * 1000 / time_ms
            yield Result(f"{case.name}, {_CLIENTS} clients", "rows/s", None, rate)


def _by_hand(connection: psycopg.Connection, directory: Path, case: Case) -> None:
    rows = case.read()
    identity = str(uuid4())
    path = directory / f"{identity}.{case.write_format}"
    if case.write_format == "parquet":
        pq.write_table(rows, path, compression="zstd", row_group_size=FORMAT_BATCH_ROWS)
    else:
        with duckdb.connect() as engine:
            engine.execute("SET threads = 1")
            engine.execute("SET checkpoint_threshold = '0B'")
            engine.register("batch", rows)
            engine.execute(f"ATTACH '{path}' AS file (BLOCK_SIZE 262144)")
            engine.execute("CREATE TABLE file.records AS SELECT * FROM batch")
            engine.execute("CHECKPOINT file")
            engine.execute("DETACH file")
    ends = pc.min_max(rows.column("timestamp")).as_py()
    checksum = made_durable(path)
    keep(connection, identity, path, rows.num_rows, {}, (ends["min"], ends["max"]), checksum)


def _cases() -> Iterator[Case]:
    rows = _rows()
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    arrow, text = sink.getvalue(), io.BytesIO()
    pa_csv.write_csv(rows, text)
    csv = text.getvalue()
    names = rows.column_names[2:]
    lines = "\n".join(
        f"cpu,hostname={row['hostname']} {','.join(f'{name}={row[name]}i' for name in names)} {_FIRST_US + index}000"
        for index, row in enumerate(rows.to_pylist())
    ).encode()
    stream = "application/vnd.apache.arrow.stream"
    yield Case("CSV", "/datasets/bench-csv/ingest", "text/csv", csv, lambda: pa_csv.read_csv(io.BytesIO(csv)))
    yield Case("Arrow", "/datasets/bench-arrow/ingest", stream, arrow, lambda: _read(arrow))
    yield Case("Arrow to Parquet", "/datasets/bench-parquet/ingest", stream, arrow, lambda: _read(arrow), "parquet")
    yield Case("line protocol", "/api/v2/write?bucket=bench", "text/plain", lines, lambda: _read(arrow))


def _read(arrow: bytes) -> pa.Table:
    with pa.ipc.open_stream(arrow) as reader:
        return reader.read_all()


def _rows() -> pa.Table:
    """Like TSBS's cpu-only: a tag and ten integers."""
    indices = range(FORMAT_BATCH_ROWS)
    columns = {
        "timestamp": pa.array([_FIRST_US + index for index in indices], pa.timestamp("us")),
        "hostname": pa.array([f"host_{index % _HOSTS}" for index in indices]),
    }
    for field in range(_FIELDS):
        columns[f"usage_{field}"] = pa.array([index * (field + 7) % 101 for index in indices], pa.int64())
    return pa.table(columns)
