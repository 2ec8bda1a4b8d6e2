"""The default format: one DuckDB database file with one table in it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import duckdb
import pyarrow as pa

from timestore_core.engine.instance import Engine, disk_errors
from timestore_core.model import Schema
from timestore_core.names import quote_identifier, quote_literal
from timestore_core.partitions.format import Layout, WrittenFile
from timestore_core.partitions.statistics import column_statistics

SQL_TYPES = {
    "timestamp": "TIMESTAMP",
    "string": "VARCHAR",
    "double": "DOUBLE",
    "integer": "BIGINT",
    "boolean": "BOOLEAN",
}
SMALL_BLOCK_BYTES = 16_384
LARGE_BLOCK_BYTES = 262_144
SMALL_BATCH_ROWS = 20_000
# DuckDB's own, which batches keep as they come; what compaction writes has smaller ones.
ROW_GROUP_ROWS = 122_880


class DuckDBFile:
    """Writes and scans DuckDB files."""

    extension = "duckdb"
    row_number = "rowid"

    def write(self, engine: Engine, path: Path, table_name: str, schema: Schema, rows: pa.Table) -> WrittenFile:
        columns = ", ".join(
            f"{quote_identifier(field.name)}::{SQL_TYPES[field.type]} AS {quote_identifier(field.name)}"
            for field in schema.fields
        )
        with engine.lease([str(path.parent)]) as instance, disk_errors():
            with instance.cursor() as cursor:
                cursor.register("batch", rows)
                layout = Layout(rows.num_rows, ROW_GROUP_ROWS)
                self.copy(cursor, path, table_name, f"SELECT {columns} FROM batch", layout)
            with instance.cursor() as reader, _attached(reader, path, "(READ_ONLY)") as alias:
                found = reader.execute(f"SELECT count(*) FROM {alias}.{quote_identifier(table_name)}").fetchone()
        assert found is not None
        return WrittenFile(found[0], column_statistics(schema, rows))

    def copy(self, cursor: duckdb.DuckDBPyConnection, path: Path, table_name: str, select: str, layout: Layout) -> None:
        block_bytes = SMALL_BLOCK_BYTES if layout.rows <= SMALL_BATCH_ROWS else LARGE_BLOCK_BYTES
        options = f"(BLOCK_SIZE {block_bytes:d}, ROW_GROUP_SIZE {layout.row_group_rows:d})"
        with disk_errors(), _attached(cursor, path, options) as alias:
            # The instance checkpoints on every commit, so the rows go straight into the file: no log
            # beside it that could be left behind when the file moves.
            cursor.execute(f"CREATE TABLE {alias}.{quote_identifier(table_name)} AS {select}")
            cursor.execute(f"CHECKPOINT {alias}")
        if path.with_name(f"{path.name}.wal").exists():
            raise OSError(f"{path.name}: a write-ahead log was left beside the file")
        sync_file(path)

    def attach(self, location: str, alias: str) -> str:
        return f"ATTACH {quote_literal(location)} AS {quote_identifier(alias)} (TYPE duckdb, READ_ONLY)"

    def detach(self, alias: str) -> str:
        return f"DETACH {quote_identifier(alias)}"

    def relation(self, location: str, alias: str, table_name: str) -> str:  # noqa: ARG002
        return f"{quote_identifier(alias)}.{quote_identifier(table_name)}"


@contextmanager
def _attached(cursor: duckdb.DuckDBPyConnection, path: Path, options: str) -> Iterator[str]:
    alias = quote_identifier(f"file-{uuid4()}")
    cursor.execute(f"ATTACH {quote_literal(str(path))} AS {alias} {options}")
    try:
        yield alias
    finally:
        cursor.execute(f"DETACH {alias}")


def sync_file(path: Path) -> None:
    """Make the file's bytes durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
