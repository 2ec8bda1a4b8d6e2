"""The statements of one query on its cursor, and the batches of rows that they give."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import duckdb
import pyarrow as pa

from timestore_core.engine.instance import Instance
from timestore_core.engine.prepared import RUN
from timestore_core.query.watch import Watched

_BATCH_ROWS = 32_768
_STREAMED_ERRORS: Mapping[str, type[duckdb.Error]] = {
    "INTERRUPT Error": duckdb.InterruptException,
    "Out of Memory Error": duckdb.OutOfMemoryException,
    "Out of Range Error": duckdb.OutOfRangeException,
    "Conversion Error": duckdb.ConversionException,
    "IO Error": duckdb.IOException,
    "FATAL Error": duckdb.FatalException,
}


@dataclass(frozen=True, slots=True)
class Statements:
    """Where the statements of one query run."""

    instance: Instance
    cursor: duckdb.DuckDBPyConnection
    watched: Watched

    def batches(self, sql: str) -> Iterator[pa.RecordBatch]:
        """The statement's rows, read as they are wanted."""
        yield from _streamed(self.cursor.execute(sql).to_arrow_reader(_BATCH_ROWS))

    def batches_again(self, sql: str, aliases: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """The same, of a statement over attached files, which is not planned anew where it came before."""
        with self.instance.prepared.taken(sql, aliases) as prepared:
            if prepared is None:
                yield from self.batches(sql)
                return
            # What is interrupted is what runs.
            self.watched.cursor = prepared.cursor
            try:
                try:
                    reader = prepared.cursor.execute(RUN).to_arrow_reader(_BATCH_ROWS)
                except (duckdb.BinderException, duckdb.CatalogException, duckdb.InvalidInputException):
                    self.instance.prepared.discard(prepared)
                    self.watched.cursor = self.cursor
                    yield from self.batches(sql)
                    return
                yield from _streamed(reader)
            finally:
                self.watched.cursor = self.cursor


def _streamed(reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
    """The reader's batches; DuckDB's errors come out as what they are, though Arrow keeps only their text."""
    try:
        yield from reader
    except (OSError, pa.ArrowException) as error:
        kind = next((kind for start, kind in _STREAMED_ERRORS.items() if str(error).startswith(start)), duckdb.Error)
        raise kind(str(error)) from error
