"""Arrow and Parquet: the values as themselves, times as timestamp[us, UTC]."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Iterable, Iterator
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from timestore_core.errors import InsufficientStorage, TooLarge
from timestore_core.model import ResultField
from timestore_core.query.formats.form import AnswerForm, Shape
from timestore_core.query.render_sql import COLUMNS

_TYPES = {
    "timestamp": pa.timestamp("us", "UTC"),
    "string": pa.string(),
    "double": pa.float64(),
    "integer": pa.int64(),
    "boolean": pa.bool_(),
    "integers": pa.list_(pa.int64()),
}
_END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"
_ROW_GROUP_ROWS = 131_072
_PIECE_BYTES = 1 << 20


def arrow_schema(fields: Iterable[ResultField]) -> pa.Schema:
    """The columns as Arrow knows them."""
    return pa.schema([(field.name, _TYPES[field.type]) for field in fields])


def _typed(batches: Iterator[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        columns = [column.cast(field.type) for column, field in zip(batch.columns, schema, strict=True)]
        yield pa.RecordBatch.from_arrays(columns, schema=schema)


def _arrow(batches: Iterator[pa.RecordBatch], shape: Shape) -> Iterator[bytes]:
    schema = arrow_schema(shape.fields)
    yield schema.serialize().to_pybytes()
    for batch in _typed(batches, schema):
        yield batch.serialize().to_pybytes()
    yield _END_OF_STREAM


def _parquet(batches: Iterator[pa.RecordBatch], shape: Shape) -> Iterator[bytes]:
    shape.spool_dir.mkdir(parents=True, exist_ok=True)
    # Without a name from the start: nothing stays behind a process that dies.
    with tempfile.TemporaryFile(dir=shape.spool_dir) as spool:
        try:
            _write_parquet(batches, shape, spool)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise InsufficientStorage(
                "the answer is kept on disk until it is whole, and the disk of TIMESTORE_TEMP_DIR is full; ask for a "
                "shorter time range, or for application/vnd.apache.arrow.stream, which is sent as it is made",
                code="spill_full",
            ) from error
        spool.seek(0)
        while piece := spool.read(_PIECE_BYTES):
            yield piece


def _write_parquet(batches: Iterator[pa.RecordBatch], shape: Shape, spool: IO[bytes]) -> None:
    schema = arrow_schema(shape.fields)
    held: list[pa.RecordBatch] = []
    with pq.ParquetWriter(spool, schema, compression="zstd") as writer:
        for batch in _typed(batches, schema):
            held.append(batch)
            if sum(one.num_rows for one in held) >= _ROW_GROUP_ROWS:
                writer.write_table(pa.Table.from_batches(held, schema))
                held = []
                _check_size(spool, shape)
        if held:
            writer.write_table(pa.Table.from_batches(held, schema))
    _check_size(spool, shape)


def _check_size(spool: IO[bytes], shape: Shape) -> None:
    if spool.tell() > shape.max_bytes:
        raise TooLarge(
            f"the answer has more than {shape.max_bytes} bytes (TIMESTORE_QUERY_MAX_ANSWER_BYTES); ask for fewer "
            "columns, a limit or a shorter time range, or for application/vnd.apache.arrow.stream, which has no limit",
            code="query_bytes",
        )


ARROW = AnswerForm(
    "arrow",
    "application/vnd.apache.arrow.stream",
    "application/vnd.apache.arrow.stream",
    COLUMNS,
    _arrow,
    "stream",
)
PARQUET = AnswerForm(
    "parquet",
    "application/vnd.apache.parquet",
    "application/vnd.apache.parquet",
    COLUMNS,
    _parquet,
    "disk",
    is_compressible=False,
)
