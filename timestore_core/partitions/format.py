"""What a partition format is: how one immutable file is written and how DuckDB scans it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import duckdb
import pyarrow as pa

from timestore_core.engine.instance import Engine
from timestore_core.model import ColumnStatistics, Schema


@dataclass(frozen=True, slots=True)
class WrittenFile:
    """What the finished file holds, counted from its final bytes."""

    rows: int
    statistics: Mapping[str, ColumnStatistics]


@dataclass(frozen=True, slots=True)
class Layout:
    """How a file is laid out: about how many rows it will have, and how many stand in one row group."""

    rows: int
    row_group_rows: int


class PartitionFormat(Protocol):
    """One way to keep a partition in a file. Thread-safe."""

    extension: str

    def write(self, engine: Engine, path: Path, table_name: str, schema: Schema, rows: pa.Table) -> WrittenFile:
        """Write the rows into a new file, durably, and count them again from the file.

        `engine` is the writers' own DuckDB, for a format that needs one: no query can hurt an ingest.
        `rows` has the schema's columns, in its order, as timestamp[us], string, double, int64 and bool.
        Raises OSError when the disk fails or is full; the caller removes the remains.
        """

    def copy(self, cursor: duckdb.DuckDBPyConnection, path: Path, table_name: str, select: str, layout: Layout) -> None:
        """Write the rows of the SELECT, in its order, into a new file, durably and in bounded memory.

        Raises OSError when the disk fails or is full; the caller removes the remains.
        """

    def attach(self, location: str, alias: str) -> str | None:
        """The statement that must run once before the file can be scanned, or None."""

    def detach(self, alias: str) -> str | None:
        """The statement that undoes `attach`, or None."""

    def relation(self, location: str, alias: str, table_name: str) -> str:
        """The SQL of the file's rows, for a FROM clause."""
