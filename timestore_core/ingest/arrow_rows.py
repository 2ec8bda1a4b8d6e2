"""An Arrow IPC stream into columns: measured before it is decoded, and checked before it is used."""

from __future__ import annotations

import struct
from collections.abc import Mapping

import pyarrow as pa

from timestore_core.errors import InvalidRequest
from timestore_core.ingest.arrow_messages import Declared, declared_by
from timestore_core.ingest.convert import field_columns, too_large
from timestore_core.ingest.limits import Limits, check_names
from timestore_core.model import Field, FieldType

_MAX_MESSAGES = 100_000


def read_arrow(
    body: bytes, known: Mapping[str, FieldType], limits: Limits
) -> tuple[tuple[Field, ...], list[pa.ChunkedArray]]:
    """The stream's columns, exactly, or named where a value or a type has no place here."""
    table = _decoded(body, limits)
    return field_columns(table, known, limits.decoded_bytes)


def _decoded(body: bytes, limits: Limits) -> pa.Table:
    buffer = pa.py_buffer(body)
    try:
        with pa.ipc.open_stream(buffer) as reader:
            schema = reader.schema
            check_names(schema.names, limits)
            if any(pa.types.is_nested(field.type) for field in schema):
                # Named by their columns without decoding them.
                return pa.table({field.name: pa.array([], field.type) for field in schema}, schema=schema)
            _measure(buffer, len(schema), limits)
            table = reader.read_all()
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError, EOFError) as error:
        raise _unreadable(error) from None
    except (struct.error, IndexError):
        raise InvalidRequest.at("body", "is no whole Arrow IPC stream") from None
    return table.replace_schema_metadata(None)


def _measure(buffer: pa.Buffer, columns: int, limits: Limits) -> None:
    """Raise where the stream says of itself that it would take more than it may."""
    reader = pa.ipc.MessageReader.open_stream(buffer)
    rows = size_bytes = 0
    for number in range(_MAX_MESSAGES + 1):
        try:
            message = reader.read_next_message()
        except StopIteration:
            return
        if number == _MAX_MESSAGES:
            break
        declared = declared_by(message) if message.type != "schema" else Declared(0, 0)
        if message.type == "record batch":
            rows += declared.rows
            limits.check_rows(rows, columns)
        size_bytes += declared.size_bytes
        if size_bytes > limits.decoded_bytes:
            raise too_large("the stream", limits.decoded_bytes)
    raise InvalidRequest.at("body", f"has more than {_MAX_MESSAGES} Arrow messages")


def _unreadable(error: Exception) -> InvalidRequest:
    return InvalidRequest.at("body", f"cannot be read as an Arrow IPC stream: {str(error)[:200]}")
