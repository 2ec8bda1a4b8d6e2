"""JSON, NDJSON and CSV: the engine makes the text, here it only gets its beginning and its end."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pyarrow as pa

from timestore_core.query.formats.form import AnswerForm, Shape
from timestore_core.query.render_sql import CSV_ROWS, JSON_ROWS, NDJSON_ROWS


def text_bytes(column: pa.StringArray) -> memoryview:
    """The bytes of all its values, one after the other."""
    if len(column) == 0:
        return memoryview(b"")
    _, offsets, data = column.buffers()
    width = 8 if pa.types.is_large_string(column.type) else 4
    ends = memoryview(offsets).cast("q" if width == 8 else "i")
    return memoryview(data)[ends[column.offset] : ends[column.offset + len(column)]]


def _json(batches: Iterator[pa.RecordBatch], shape: Shape) -> Iterator[bytes]:
    yield b'{"rows":['
    last: memoryview | None = None
    for batch in batches:
        if batch.num_rows == 0:
            continue
        if last is not None:
            yield bytes(last)
        last = text_bytes(batch.column(0))
    if last is not None:
        # Every row ends in a comma; the last one's goes.
        yield bytes(last[:-1])
    columns = [field.name for field in shape.fields]
    yield b"]," + msgspec.json.encode({"columns": columns, "mode": shape.mode, **shape.beside})[1:]


def _ndjson(batches: Iterator[pa.RecordBatch], shape: Shape) -> Iterator[bytes]:  # noqa: ARG001
    for batch in batches:
        yield bytes(text_bytes(batch.column(0)))


def _csv(batches: Iterator[pa.RecordBatch], shape: Shape) -> Iterator[bytes]:
    if shape.fields:
        yield (",".join(_quoted(field.name) for field in shape.fields) + "\n").encode()
    yield from _ndjson(batches, shape)


def _quoted(name: str) -> str:
    special = any(character in name for character in '",\r\n')
    return '"' + name.replace('"', '""') + '"' if special else name


JSON = AnswerForm("json", "application/json", "application/json; charset=utf-8", JSON_ROWS, _json, "memory")
NDJSON = AnswerForm(
    "ndjson",
    "application/x-ndjson",
    "application/x-ndjson",
    NDJSON_ROWS,
    _ndjson,
    "stream",
    other_names=("application/ndjson", "application/jsonl"),
)
CSV = AnswerForm("csv", "text/csv", "text/csv; charset=utf-8; header=present", CSV_ROWS, _csv, "stream")
