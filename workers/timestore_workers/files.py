"""Files of time series, read in bounded memory as Arrow tables of the service's types.

`sources.open_source` opens a file, `layout.infer_layout` settles its columns from the first rows, and
`read_tables` reads and converts everything. A value that does not fit ends the reading with a `FileError` that
names row, column, value and the option that helps; nothing is rounded or dropped silently.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from timestore_core.errors import TimestoreError
from timestore_core.model import FieldType
from timestore_workers.columns import UNFIT, convert, first_unfit

if TYPE_CHECKING:
    import pyarrow as pa

    from timestore_workers.layout import Layout

SAMPLE_ROWS = 10_000
BLOCK_BYTES = 4 * 1024 * 1024
FileFormat = Literal["csv", "ndjson", "parquet"]


class FileError(TimestoreError):
    """A file cannot be read, or not as asked; the message names the place and the option that helps."""

    default_code = "file"


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """What the caller knows better than inference. Names are the file's own."""

    format: FileFormat | None = None
    types: Mapping[str, FieldType] = field(default_factory=dict)
    skip: frozenset[str] = frozenset()
    time_column: str | None = None
    time_format: str | None = None
    keep_time_name: bool = False
    null_texts: tuple[str, ...] = ()
    nan_as_null: bool = False
    delimiter: str | None = None
    encoding: str = "utf-8"


class Source(ABC):
    """An open file. `position` of `size_bytes` is how far `batches` has come.

    `typed` says that the file itself tells text from numbers, `open_ended` that later rows may bring columns.
    """

    typed = True
    open_ended = False

    def __init__(self, path: Path) -> None:
        self.path, self.position = path, 0
        self._opened_as = self._size_and_time()
        self.size_bytes = self._opened_as[0]

    def changed(self) -> bool:
        """Whether somebody wrote to the file since it was opened."""
        return self._size_and_time() != self._opened_as

    def _size_and_time(self) -> tuple[int, int]:
        now = self.path.stat()
        return now.st_size, now.st_mtime_ns

    @abstractmethod
    def batches(self) -> Iterator[pa.RecordBatch]:
        """All rows from the beginning, as the file has them."""

    @abstractmethod
    def line_of(self, row: int) -> int | None:
        """The line on which the row (1 is the first) ends; None where the file has no lines."""


def content_hash(path: Path, on_bytes: Callable[[int], None]) -> str:
    """SHA-256 of the file as it lies on disk; `on_bytes` is told the bytes read so far."""
    digest, read = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
            on_bytes(read := read + len(block))
    return digest.hexdigest()


def read_tables(source: Source, layout: Layout, options: ReadOptions, batch_rows: int) -> Iterator[pa.Table]:
    """The file's rows in tables of `batch_rows` (the last may be shorter), converted to the service's types.

    Times are `timestamp[us]` in UTC; the others `string`, `double`, `int64`, `bool`. Raises FileError at the
    first value that does not fit and at the first row without a time.
    """
    import pyarrow as pa

    held: list[pa.RecordBatch] = []
    held_rows = rows = 0
    for batch in source.batches():
        held.append(_converted(batch, rows, source, layout, options))
        rows += batch.num_rows
        held_rows += batch.num_rows
        if held_rows >= batch_rows:
            table = pa.Table.from_batches(held)
            whole = held_rows - held_rows % batch_rows
            for start in range(0, whole, batch_rows):
                yield table.slice(start, batch_rows)
            held, held_rows = table.slice(whole).to_batches(), held_rows - whole
    if held_rows:
        yield pa.Table.from_batches(held)


def _converted(
    batch: pa.RecordBatch, rows_before: int, source: Source, layout: Layout, options: ReadOptions
) -> pa.RecordBatch:
    import pyarrow as pa

    def refusal(name: str, index: int, reason: str) -> FileError:
        row = rows_before + index + 1
        line = source.line_of(row)
        return FileError(
            f'{source.path.name} row {row:,}{f" (line {line:,})" if line else ""}, column "{name}": {reason}'
        )

    late = set(batch.schema.names) - {column.name for column in layout.columns} - options.skip
    for name in sorted(late):
        index = batch.column(name).is_valid().index(True).as_py()
        if index >= 0:
            raise refusal(
                name,
                index,
                f"the first {layout.sample_rows:,} rows have no such column; "
                f"give --type {name}=string (or double, integer, boolean, timestamp) or --skip {name}",
            )
    arrays = []
    for column in layout.columns:
        given = batch.column(column.name) if column.name in batch.schema.names else pa.nulls(batch.num_rows)
        try:
            array = convert(given, column, options)
        except UNFIT:
            index, reason = first_unfit(given, column, layout, options)
            raise refusal(column.name, index, reason) from None
        if column is layout.time and array.null_count:
            raise refusal(column.name, array.is_null().index(True).as_py(), "has no time; every row needs one")
        arrays.append(array)
    return pa.RecordBatch.from_arrays(arrays, names=[column.sent_as for column in layout.columns])
