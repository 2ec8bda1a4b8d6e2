"""Rows of JSON into Arrow columns: fast where every row is complete and well-typed, else by `lenient`."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from operator import attrgetter
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from timestore_core.errors import InvalidRequest
from timestore_core.ingest.lenient import lenient_columns
from timestore_core.model import Field, FieldType, Schema
from timestore_core.times import parse_time_us

ARROW_TYPES: dict[FieldType, pa.DataType] = {
    "timestamp": pa.timestamp("us"),
    "string": pa.string(),
    "double": pa.float64(),
    "integer": pa.int64(),
    "boolean": pa.bool_(),
}
_WIRE_TYPES: dict[FieldType, Any] = {
    "timestamp": str | None,
    "string": str | None,
    "double": float | None,
    "integer": int | None,
    "boolean": bool | None,
}
FIRST_TIME_US = parse_time_us("0001-01-01")
LAST_TIME_US = parse_time_us("9999-12-31T23:59:59.999999Z")


def rows_to_table(rows_json: msgspec.Raw | bytes, schema: Schema, max_rows: int) -> pa.Table:
    """The rows as a table of the schema's columns, in its order; one Arrow type for each field type.

    Raises InvalidRequest naming `rows[i].column` for what does not fit, and the limit when there are too many.
    """
    raw = bytes(rows_json)
    columns = _typed_columns(raw, schema.fields)
    if columns is None:
        columns = lenient_columns(raw, schema.fields, ARROW_TYPES)
    table = pa.Table.from_arrays(columns, names=list(schema.names))
    if table.num_rows > max_rows:
        raise InvalidRequest.at("rows", f"has {table.num_rows} rows; TIMESTORE_INGEST_MAX_ROWS is {max_rows}")
    return table


def content_hash(schema: Schema, table: pa.Table) -> str:
    """A hash of the schema and the rows' values in order, whatever JSON they came in.

    NULLs are hashed as such beside a zero, so that neither buffer layouts nor padding matter.
    """
    digest = hashlib.blake2b(digest_size=20)
    digest.update(repr([(field.name, field.type) for field in schema.fields]).encode())
    digest.update(table.num_rows.to_bytes(8, "big"))
    for field, column in zip(schema.fields, table.columns, strict=True):
        values = column.combine_chunks()
        if values.null_count:
            digest.update(_packed(pc.is_valid(values)))
            values = pc.fill_null(values, pa.scalar(_ZERO[field.type], values.type))
        if field.type == "string":
            digest.update(_packed(pc.binary_length(values)))
            digest.update(_text(values))
        else:
            digest.update(_packed(values))
    return digest.hexdigest()


_ZERO: dict[FieldType, Any] = {"timestamp": 0, "string": "", "double": 0.0, "integer": 0, "boolean": False}


def _text(values: pa.Array) -> memoryview:
    """All the texts, one after the other: there is no NULL among them."""
    offsets, data = values.buffers()[1:]
    if data is None or not len(values):
        return memoryview(b"")
    first, last = (
        int.from_bytes(memoryview(offsets)[4 * at : 4 * at + 4], "little")
        for at in (values.offset, values.offset + len(values))
    )
    return memoryview(data)[first:last]


def _packed(values: pa.Array) -> bytes:
    if pa.types.is_boolean(values.type):
        values = values.cast(pa.uint8())
    width = values.type.bit_width // 8
    return bytes(memoryview(values.buffers()[1])[values.offset * width : (values.offset + len(values)) * width])


def _typed_columns(raw: bytes, fields: tuple[Field, ...]) -> list[pa.Array] | None:
    """The columns, or None where a row needs a closer look.

    Every row must have every field once and nothing else. That is certain without parsing twice: with no
    escape in the text, each key and each string value is two quotes, so a repeated or unknown key shows as
    quotes too many.
    """
    if b"\\" in raw:
        return None
    try:
        rows = _row_decoder(fields).decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, OverflowError):
        return None
    columns = [list(map(attrgetter(f"f{index}"), rows)) for index in range(len(fields))]
    try:
        arrays = [_typed_array(column, field.type) for field, column in zip(fields, columns, strict=True)]
    except (pa.ArrowInvalid, OverflowError):
        return None
    strings = sum(
        len(array) - array.null_count
        for field, array in zip(fields, arrays, strict=True)
        if field.type in ("string", "timestamp")
    )
    return arrays if raw.count(b'"') == 2 * (len(rows) * len(fields) + strings) else None


@lru_cache(maxsize=128)
def _row_decoder(fields: tuple[Field, ...]) -> msgspec.json.Decoder[Any]:
    names = {f"f{index}": field.name for index, field in enumerate(fields)}
    row = msgspec.defstruct(
        "Row",
        [(f"f{index}", _WIRE_TYPES[field.type]) for index, field in enumerate(fields)],
        rename=names,
        gc=False,
    )
    return msgspec.json.Decoder(list[row])  # type: ignore[valid-type]


def _typed_array(values: list[Any], type_: FieldType) -> pa.Array:
    if type_ != "timestamp":
        return pa.array(values, ARROW_TYPES[type_])
    times = pa.array(values, pa.string()).cast(pa.timestamp("us", tz="UTC")).cast(ARROW_TYPES[type_])
    if len(times) > times.null_count:
        ends = pc.min_max(times.cast(pa.int64())).as_py()
        if ends["min"] < FIRST_TIME_US or ends["max"] > LAST_TIME_US:
            raise pa.ArrowInvalid("a time is out of range")
    return times
