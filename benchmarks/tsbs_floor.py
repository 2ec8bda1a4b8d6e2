"""The same rows in one DuckDB table and in DuckLake, both in this process and asked by hand. Nothing of timestore."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from pathlib import Path

import duckdb
import pyarrow as pa

from benchmarks.tsbs_data import METRICS, TAGS

NATIVE, LAKE = "native.cpu", "lake.cpu"
_WHEEL = "duckdb_extension_ducklake"


class TsbsFloor:
    """One DuckDB with a file of its own and with a lake attached: each holds all rows by host, then by time."""

    def __init__(self, directory: Path, rows: Iterable[pa.Table]) -> None:
        directory.mkdir(parents=True)
        self._duckdb = duckdb.connect()
        self._duckdb.execute("SET TimeZone = 'UTC'")
        self._duckdb.execute(f"LOAD '{_extension()}'")
        self._duckdb.execute(f"ATTACH '{directory / 'native.duckdb'}' AS native")
        self._duckdb.execute(f"ATTACH 'ducklake:{directory / 'lake.ducklake'}' AS lake (DATA_PATH '{directory}/lake/')")
        columns = ", ".join(
            ["timestamp TIMESTAMP", *(f"{one} VARCHAR" for one in TAGS), *(f"{one} DOUBLE" for one in METRICS)]
        )
        self._duckdb.execute(f"CREATE TEMP TABLE loaded ({columns})")
        for batch in rows:
            self._duckdb.register("batch", batch)
            self._duckdb.execute("INSERT INTO loaded SELECT timestamp::TIMESTAMP, * EXCLUDE timestamp FROM batch")
            self._duckdb.unregister("batch")
        for table in (NATIVE, LAKE):
            self._duckdb.execute(f"CREATE TABLE {table} AS SELECT * FROM loaded ORDER BY hostname, timestamp")
        self._duckdb.execute("DROP TABLE loaded")
        self._duckdb.execute("CHECKPOINT native")

    def close(self) -> None:
        self._duckdb.close()

    def json(self, table: str, sql: str) -> bytes:
        """The answer over one of the two tables as the bytes of JSON; `{table}` in the SQL stands for its name."""
        found = self._duckdb.execute(
            f"SELECT string_agg(to_json(answer)::VARCHAR, ',') FROM ({sql.format(table=table)}) AS answer"
        )
        row = found.fetchone()
        assert row is not None
        return b'{"rows":[%b]}' % (row[0] or "").encode()

    def arrow(self, table: str, sql: str) -> bytes:
        """The answer over one of the two tables as the bytes of an Arrow IPC stream."""
        sink = pa.BufferOutputStream()
        reader = self._duckdb.execute(sql.format(table=table)).to_arrow_reader(122_880)
        with pa.ipc.new_stream(sink, reader.schema) as stream:
            for batch in reader:
                stream.write_batch(batch)
        answer: bytes = sink.getvalue().to_pybytes()
        return answer


def _extension() -> Path:
    """DuckLake from its wheel, so that no network is needed."""
    spec = importlib.util.find_spec(_WHEEL)
    assert spec is not None, f"{_WHEEL} is not installed"
    assert spec.origin is not None
    return next(Path(spec.origin).parent.rglob("*.duckdb_extension"))
