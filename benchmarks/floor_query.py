"""The same questions put to DuckDB alone, by hand, over the same files. Nothing here comes from timestore."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import duckdb

_MINUTE_US = 60_000_000
_HOUR_US = 60 * _MINUTE_US


class FloorQuery:
    """An in-memory DuckDB with the files attached; closing it detaches them."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._duckdb = duckdb.connect()
        self._duckdb.execute("SET TimeZone = 'UTC'")
        for index, path in enumerate(files):
            self._duckdb.execute(f"ATTACH '{path}' AS f{index} (READ_ONLY)")
        self._files = len(files)

    def close(self) -> None:
        self._duckdb.close()

    def raw(self, limit: int) -> bytes:
        columns = "timestamp, host, temperature_c, humidity, requests, ok"
        return self._json(f"SELECT {columns} FROM ({self._union(columns)}) ORDER BY timestamp LIMIT {limit}")

    def average_per_minute(self) -> bytes:
        return self._json(self._per(_MINUTE_US, "avg(temperature_c) AS avg_temperature_c"))

    def p95_per_hour(self) -> bytes:
        return self._json(self._per(_HOUR_US, "quantile_disc(temperature_c, 0.95) AS p95_temperature_c"))

    def _per(self, width_us: int, result: str) -> str:
        # Integer buckets: twice as fast here as time_bucket or date_trunc.
        rows = self._union("timestamp, temperature_c")
        grouped = f"SELECT epoch_us(timestamp) // {width_us} AS bucket, {result} FROM ({rows}) GROUP BY bucket"
        start = f"make_timestamp(bucket * {width_us}) AS timestamp"
        return f"SELECT {start}, * EXCLUDE bucket FROM ({grouped}) ORDER BY bucket"

    def _union(self, columns: str) -> str:
        return " UNION ALL ".join(f"SELECT {columns} FROM f{index}.records" for index in range(self._files))

    def _json(self, sql: str) -> bytes:
        found = self._duckdb.execute(f"SELECT string_agg(to_json(answer)::VARCHAR, ',') FROM ({sql}) AS answer")
        row = found.fetchone()
        assert row is not None
        return b'{"rows":[%b]}' % row[0].encode()
