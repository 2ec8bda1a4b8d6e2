"""Partitions that are no files, joined: a table in the instance's memory for each dataset and set of columns.

A thousand small partitions cost a query what one table costs. Rows are only ever added; which of them a query reads is
told by the numbers of its partitions. Tables whose partitions have left their snapshots, and those that were not used
for the longest time, are dropped when no query reads them; what is asked for again is loaded again.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from uuid import uuid4

import duckdb
import pyarrow as pa

from timestore_core.model import Schema
from timestore_core.names import quote_identifier

# No name of a user's holds a character that cannot be printed.
# The partition's number in its table, ascending as they were loaded.
NUMBER_COLUMN = "number\x1f"
# The version that added the partition.
VERSION_COLUMN = "version\x1f"
# A number that ascends as the rows stand in their partition.
ROW_COLUMN = "row\x1f"
# More runs of numbers than this are told by listing them.
_MAX_RUNS = 8


@dataclass(frozen=True, slots=True)
class Loaded:
    """A partition's rows, with its id, and the version that added it."""

    partition_id: str
    version: int
    rows: pa.Table


@dataclass(frozen=True, slots=True)
class InlineRows:
    """Partitions of one dataset that have the same columns, to be read as one relation."""

    dataset_id: str
    schema: Schema
    partition_ids: Sequence[str]


Load = Callable[[Schema, Sequence[str]], Iterable[Loaded]]


@dataclass(eq=False, slots=True)
class _Table:
    name: str
    numbers: dict[str, int] = field(default_factory=dict)
    row_counts: dict[str, int] = field(default_factory=dict)
    next_number: int = 0
    size_bytes: int = 0
    stale_rows: int = 0
    pins: int = 0
    dropped: bool = False
    loading: threading.Lock = field(default_factory=threading.Lock)
    asked: Sequence[str] = ()
    answered: str = ""


class InlineTables:
    """The tables of one instance. Thread-safe. Above `capacity_bytes` the least recently used ones go."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, capacity_bytes: int) -> None:
        self._connection = connection
        self._capacity_bytes = capacity_bytes
        self._lock = threading.Lock()
        self._tables: OrderedDict[tuple[str, Schema], _Table] = OrderedDict()

    def __len__(self) -> int:
        return len(self._tables)

    @contextmanager
    def held(self, wanted: InlineRows, load: Load) -> Iterator[str]:
        """The SQL of these partitions' rows, for a FROM clause, as long as the block runs.

        Besides the schema's columns the relation has NUMBER_COLUMN, VERSION_COLUMN and ROW_COLUMN. What is not there
        yet is loaded. Raises what `load` raises.
        """
        table = self._take((wanted.dataset_id, wanted.schema))
        try:
            yield self._relation(table, wanted, load)
        finally:
            self._release(table)

    def _relation(self, table: _Table, wanted: InlineRows, load: Load) -> str:
        with table.loading:
            # The same question again comes with the very same ids.
            if table.asked is not wanted.partition_ids:
                missing = [one for one in wanted.partition_ids if one not in table.numbers]
                if missing:
                    self._append(table, sorted(load(wanted.schema, missing), key=lambda one: one.version))
                # Always with its numbers: others may add rows before this query runs.
                numbers = sorted(table.numbers[one] for one in wanted.partition_ids)
                table.asked, table.answered = wanted.partition_ids, _relation(table.name, numbers)
            return table.answered

    def forget(self, partition_ids: Iterable[str]) -> None:
        """These left their snapshots: a table that is mostly made of such is dropped when no query reads it."""
        gone = list(partition_ids)
        with self._lock:
            tables = list(self._tables.items())
        for key, table in tables:
            with table.loading:
                for one in gone:
                    if table.numbers.pop(one, None) is not None:
                        table.stale_rows += table.row_counts.pop(one)
                table.asked = ()
                mostly_stale = table.stale_rows > sum(table.row_counts.values())
            if mostly_stale:
                with self._lock:
                    self._drop(key, table)

    def _take(self, key: tuple[str, Schema]) -> _Table:
        with self._lock:
            table = self._tables.get(key)
            if table is None:
                table = self._tables[key] = _Table(quote_identifier(f"inline-{uuid4()}"))
            self._tables.move_to_end(key)
            table.pins += 1
            return table

    def _release(self, table: _Table) -> None:
        with self._lock:
            table.pins -= 1
            if table.dropped and table.pins == 0:
                self._remove(table)
            total = sum(one.size_bytes for one in self._tables.values())
            for key, one in list(self._tables.items()):
                if total <= self._capacity_bytes:
                    return
                if one.pins == 0:
                    total -= one.size_bytes
                    self._drop(key, one)

    def _drop(self, key: tuple[str, Schema], table: _Table) -> None:
        """Nobody finds it any more; it goes now, or when its last reader is done."""
        if self._tables.get(key) is not table:
            return
        del self._tables[key]
        table.dropped = True
        if table.pins == 0:
            self._remove(table)

    def _remove(self, table: _Table) -> None:
        with self._connection.cursor() as cursor:
            cursor.execute(f"DROP TABLE IF EXISTS {table.name}")

    def _append(self, table: _Table, loaded: Sequence[Loaded]) -> None:
        """Add the partitions' rows, on a cursor of its own: no query's time limit may interrupt it half-way."""
        first = table.next_number
        pieces = [
            one.rows.append_column(
                NUMBER_COLUMN, pa.repeat(pa.scalar(first + index, pa.int32()), one.rows.num_rows)
            ).append_column(VERSION_COLUMN, pa.repeat(pa.scalar(one.version, pa.int32()), one.rows.num_rows))
            for index, one in enumerate(loaded)
        ]
        rows = pa.concat_tables(pieces).combine_chunks()
        with self._connection.cursor() as cursor:
            cursor.register("loaded", rows)
            if table.next_number == 0:
                cursor.execute(f"CREATE OR REPLACE TABLE {table.name} AS SELECT * FROM loaded")  # noqa: S608
            else:
                cursor.execute(f"INSERT INTO {table.name} SELECT * FROM loaded")  # noqa: S608
        table.next_number += len(loaded)
        table.size_bytes += rows.nbytes
        for index, one in enumerate(loaded):
            table.numbers[one.partition_id] = first + index
            table.row_counts[one.partition_id] = one.rows.num_rows


def _relation(name: str, numbers: Sequence[int]) -> str:
    column, runs = quote_identifier(NUMBER_COLUMN), _runs(numbers)
    if len(runs) > _MAX_RUNS:
        condition = f"{column} IN ({', '.join(str(one) for one in numbers)})"
    else:
        condition = " OR ".join(f"{column} BETWEEN {first:d} AND {last:d}" for first, last in runs)
    return f"(SELECT *, rowid AS {quote_identifier(ROW_COLUMN)} FROM {name} WHERE {condition})"  # noqa: S608


def _runs(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """The ascending numbers as ranges, both ends inclusive."""
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    return runs
