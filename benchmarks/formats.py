"""Large batches in other forms than JSON, over HTTP from several clients, against the same done by hand in process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pyarrow as pa
import pyarrow.csv

from benchmarks.batches import ingest_table
from benchmarks.floor_ingest import TABLES, FloorPool
from benchmarks.goals import FORMAT_INGEST, Result
from benchmarks.service import ARROW, Service
from benchmarks.timing import alternate

_ROWS = 100_000
_CLIENTS = 8
_CSV, _TEXT = "text/csv", "text/plain"


def format_cases(
    service: Service, database_url: str, directory: Path, workers: int, *, quick: bool
) -> Iterator[Result]:
    """Rows per second, for each form."""
    directory.mkdir()
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(TABLES)
    table = ingest_table(_ROWS)
    arrow = _arrow(table)
    forms = {
        "CSV": (_dataset(service, "bench-csv", "duckdb"), _csv(table), _CSV),
        "Arrow": (_dataset(service, "bench-arrow", "duckdb"), arrow, ARROW),
        "Arrow into Parquet": (_dataset(service, "bench-parquet", "parquet"), arrow, ARROW),
        "line protocol": ("/api/v2/write?bucket=bench&precision=ns", _lines(table), _TEXT),
    }
    for form, (path, body, content_type) in forms.items():
        by_hand = FloorPool(database_url, directory, workers, _CLIENTS, form)

        def send(_: int, path: str = path, body: bytes = body, content_type: str = content_type) -> None:
            service.client.post(path, body, content_type)

        with ThreadPoolExecutor(_CLIENTS) as threads:
            try:
                pair = alternate(
                    lambda by_hand=by_hand, body=body: by_hand.run(body, _CLIENTS),
                    lambda threads=threads, send=send: list(threads.map(send, range(_CLIENTS))),
                    3 if quick else 9,
                    warm_up=1,
                )
            finally:
                by_hand.close()
        rates = [_CLIENTS * _ROWS * 1000 / taken_ms for taken_ms in (pair.floor_ms, pair.measured_ms)]
        yield Result(f"ingest {_ROWS:,} rows, {_CLIENTS} clients, {form}", "rows/s", *rates, FORMAT_INGEST[form])


def _dataset(service: Service, slug: str, write_format: str) -> str:
    """A new dataset's route for batches."""
    service.client.post("/admin/datasets", json.dumps({"slug": slug, "writeFormat": write_format}).encode())
    return f"/datasets/{slug}/ingest"


def _arrow(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    body: bytes = sink.getvalue().to_pybytes()
    return body


def _csv(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pa.csv.write_csv(table, sink)
    body: bytes = sink.getvalue().to_pybytes()
    return body


def _lines(table: pa.Table) -> bytes:
    """One tag, four fields of three types, and nanoseconds."""
    columns = table.set_column(0, "timestamp", table["timestamp"].cast(pa.int64())).to_pydict()
    return "".join(
        f"readings,host={host} temperature_c={temperature},humidity={humidity},requests={requests}i,"
        f"ok={'t' if ok else 'f'} {time}000\n"
        for time, host, temperature, humidity, requests, ok in zip(*columns.values(), strict=True)
    ).encode()
