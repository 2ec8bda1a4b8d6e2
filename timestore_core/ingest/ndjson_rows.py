"""An NDJSON body into columns: one object a line. Plain rows go by Arrow's parser, odd ones by `lenient`."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pa_json

from timestore_core.errors import InvalidRequest
from timestore_core.ingest.convert import field_columns
from timestore_core.ingest.lenient import lenient_columns, parse_rows
from timestore_core.ingest.limits import Limits, check_names
from timestore_core.ingest.rows import ARROW_TYPES
from timestore_core.ingest.texts import infer_type, is_utf8
from timestore_core.model import Field, FieldType

# Arrow's parser recurses into what is nested until the stack ends; a row is flat, and its texts may hold some braces.
_MAX_OPENED = 64
_OTHER_LINE = re.compile(rb"(?:\A|\n)[ \t\r]*[^{ \t\r\n]")
_IS_OPENING = bytes(byte in b"{[" for byte in range(256))


def read_ndjson(
    body: bytes, known: Mapping[str, FieldType], limits: Limits
) -> tuple[tuple[Field, ...], list[pa.ChunkedArray]]:
    """The rows' columns, in the order in which their names first come."""
    if not is_utf8(body):
        raise InvalidRequest.at("rows", "are not UTF-8")
    limits.check_rows(body.count(b"\n"))
    table = _plain(body, known)
    if table is None:
        return _careful(body, known, limits)
    check_names(table.column_names, limits)
    limits.check_rows(table.num_rows, table.num_columns)
    return field_columns(_with_times(table, known), known, limits.decoded_bytes)


def _plain(body: bytes, known: Mapping[str, FieldType]) -> pa.Table | None:
    """What Arrow's parser makes of it, or None where a row needs a closer look."""
    # A line that is `null` ends pyarrow 26's process, or counts as a row.
    if not body.strip() or _OTHER_LINE.search(body) or _is_nested(body):
        return None
    types = [(name, pa.string() if type_ == "timestamp" else ARROW_TYPES[type_]) for name, type_ in known.items()]
    # Only what is in the rows: a known column that is not there would come as one more.
    present = [(name, type_) for name, type_ in types if name.encode() in body]
    try:
        table = pa_json.read_json(
            pa.BufferReader(body),
            read_options=pa_json.ReadOptions(block_size=len(body) + 1),
            parse_options=pa_json.ParseOptions(explicit_schema=pa.schema(present)),
        )
    except pa.ArrowInvalid:
        return None
    for column in table.columns:
        # Arrow reads NaN and Infinity, which are no JSON.
        if pa.types.is_floating(column.type) and pc.all(pc.is_finite(column)).as_py() is False:
            return None
        if pa.types.is_nested(column.type):
            return None
    return table


def _is_nested(body: bytes) -> bool:
    """Whether a line opens more braces and brackets than a flat row would."""
    opened = np.frombuffer(body.translate(_IS_OPENING), np.uint8)
    newlines = np.flatnonzero(np.frombuffer(body, np.uint8) == ord("\n")) + 1
    starts = np.concatenate([[0], newlines[newlines < len(body)]])
    return bool(np.add.reduceat(opened, starts, dtype=np.int32).max() > _MAX_OPENED)


def _with_times(table: pa.Table, known: Mapping[str, FieldType]) -> pa.Table:
    """Arrow makes times of some texts and not of others: a column of unknown type is one where all its texts are."""
    for index, (name, column) in enumerate(zip(table.column_names, table.columns, strict=True)):
        if name not in known and pa.types.is_string(column.type) and infer_type(column) == "timestamp":
            table = table.set_column(index, name, column.cast(pa.timestamp("us", tz="UTC")))
    return table


def _careful(
    body: bytes, known: Mapping[str, FieldType], limits: Limits
) -> tuple[tuple[Field, ...], list[pa.ChunkedArray]]:
    """By JSON's own rules, value by value; a column of unknown type is what its values are."""
    lines = [line for line in body.split(b"\n") if line.strip()]
    rows = parse_rows(b"[" + b",\n".join(lines) + b"]")
    if len(rows) != len(lines):
        raise InvalidRequest.at("rows", f"hold {len(rows)} objects in {len(lines)} lines; send one object a line")
    limits.check_rows(len(rows))
    names = list(dict.fromkeys(name for row in rows for name in row))
    check_names(names, limits)
    fields = []
    for name in names:
        type_ = known.get(name) or _type_of([row.get(name) for row in rows])
        if type_ is not None:
            fields.append(Field(name, type_))
    columns = lenient_columns(rows, fields, ARROW_TYPES)
    return tuple(fields), [pa.chunked_array([column]) for column in columns]


def _type_of(values: list[object]) -> FieldType | None:
    """The field type of JSON values; a mixture is read as what it first is, and then named as not fitting."""
    kinds = {type(value) for value in values} - {type(None)}
    if not kinds:
        return None
    if kinds <= {int, float}:
        return "double" if float in kinds else "integer"
    if kinds == {bool}:
        return "boolean"
    if kinds == {str}:
        texts = pa.chunked_array([pa.array(values, pa.string())])
        return "timestamp" if infer_type(texts) == "timestamp" else "string"
    first = next(type(value) for value in values if value is not None)
    return {bool: "boolean", int: "integer", float: "double"}.get(first, "string")  # type: ignore[return-value]
