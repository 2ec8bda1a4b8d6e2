"""The format for whoever wants other engines to read the files: one Parquet file, zstd, with row-group statistics."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from timestore_core.engine.instance import Engine, disk_errors
from timestore_core.model import Schema
from timestore_core.names import quote_literal
from timestore_core.partitions.duckdb_file import sync_file
from timestore_core.partitions.format import Layout, WrittenFile
from timestore_core.partitions.statistics import column_statistics


class ParquetFile:
    """Writes and scans Parquet files. The table's name stands in the catalog alone."""

    extension = "parquet"

    def write(self, engine: Engine, path: Path, table_name: str, schema: Schema, rows: pa.Table) -> WrittenFile:  # noqa: ARG002
        statistics = column_statistics(schema, rows)
        # Arrow leaves NaN out of a column's bounds, which DuckDB takes for those of all values.
        bounded = [name for name, known in statistics.items() if known.exact or schema.type_of(name) != "double"]
        pq.write_table(
            rows.select(list(schema.names)),
            path,
            compression="zstd",
            row_group_size=100_000,
            write_statistics=bounded if len(bounded) < len(statistics) else True,
        )
        sync_file(path)
        return WrittenFile(pq.read_metadata(path).num_rows, statistics)

    def copy(self, cursor: duckdb.DuckDBPyConnection, path: Path, table_name: str, select: str, layout: Layout) -> None:  # noqa: ARG002
        with disk_errors():
            cursor.execute(
                f"COPY ({select}) TO {quote_literal(str(path))} "
                f"(FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {layout.row_group_rows:d})"
            )
        sync_file(path)

    def attach(self, location: str, alias: str) -> str | None:  # noqa: ARG002
        return None

    def detach(self, alias: str) -> str | None:  # noqa: ARG002
        return None

    def relation(self, location: str, alias: str, table_name: str) -> str:  # noqa: ARG002
        # Else the folders' `key=value` would stand in for the column of that name.
        return f"read_parquet({quote_literal(location)}, hive_partitioning = false)"
