"""The format of partitions that are too small for a file of their own: an Arrow IPC stream, compressed with zstd.

Their bytes stand in the catalog, in the row that the publish itself writes; compaction gathers them into files. What a
backup restored, or a move to another target copied, is the same bytes in a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import pyarrow as pa
from pyarrow import ipc

from timestore_core.catalog.blobs import content_at
from timestore_core.catalog.database import Database
from timestore_core.model import FieldType, Schema

FORMAT = "inline"
# As a dataset's `writeFormat`: small batches inline, larger ones as files.
AUTO = "auto"
EXTENSION = "arrow"
# What larger batches and compaction write where a dataset's `writeFormat` names no file's format.
FILE_FORMAT = "duckdb"

_IN_CATALOG = "inline:"
_ARROW_TYPES: Mapping[FieldType, pa.DataType] = {
    "timestamp": pa.timestamp("us"),
    "string": pa.string(),
    "double": pa.float64(),
    "integer": pa.int64(),
    "boolean": pa.bool_(),
}
# So few bytes are compressed before another thread has woken up.
_WRITING = ipc.IpcWriteOptions(compression="zstd", use_threads=False)
_READING = ipc.IpcReadOptions(use_threads=False)


class FileSource(Protocol):
    """Whatever a partition's bytes can be fetched from: a storage driver, or the catalog."""

    def fetch(self, key: str, destination: Path) -> None:
        """Copy the bytes to a local path that does not exist yet. FileNotFoundError where there are none."""


class CatalogFiles:
    """The partitions that stand in the catalog, as files are fetched."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def fetch(self, key: str, destination: Path) -> None:
        """Write the bytes of this path's partition to a local file. FileNotFoundError where they are gone."""
        found = content_at(self._database, key)
        if found is None:
            raise FileNotFoundError(key)
        destination.write_bytes(found)


def path_of(partition_id: str) -> str:
    """What stands for the file's path where the catalog has the bytes. No storage driver is ever asked for it."""
    return f"{_IN_CATALOG}{partition_id}"


def is_in_catalog(file_path: str) -> bool:
    """Whether the path is that of a partition whose bytes stand in the catalog."""
    return file_path.startswith(_IN_CATALOG)


def file_format_of(format_name: str) -> str:
    """The format of a file, where the name may be one that makes none."""
    return FILE_FORMAT if format_name in (FORMAT, AUTO) else format_name


def arrow_schema(schema: Schema) -> pa.Schema:
    """The columns as this format keeps them."""
    return pa.schema([(field.name, _ARROW_TYPES[field.type]) for field in schema.fields])


def encoded(schema: Schema, rows: pa.Table) -> bytes:
    """The rows as an Arrow IPC stream, zstd, with the schema's columns in their order."""
    columns = rows.select(list(schema.names)).combine_chunks()
    wanted = arrow_schema(schema)
    if columns.schema != wanted:
        columns = columns.cast(wanted)
    sink = pa.BufferOutputStream()
    with ipc.new_stream(sink, columns.schema, options=_WRITING) as writer:
        writer.write_table(columns)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def decoded(schema: Schema, content: bytes) -> pa.Table:
    """The rows again. Raises pa.ArrowException or OSError for what was not written by `encoded`."""
    rows = ipc.open_stream(content, options=_READING).read_all()
    wanted = arrow_schema(schema)
    return rows if rows.schema == wanted else rows.select(list(schema.names)).cast(wanted)
