"""A Parquet body into columns: its pages are measured before they are inflated."""

from __future__ import annotations

import struct
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.parquet as pq

from timestore_core.errors import InvalidRequest
from timestore_core.ingest.convert import field_columns, too_large
from timestore_core.ingest.limits import Limits, check_names
from timestore_core.ingest.parquet_sizes import chunks_of, inflated_bytes
from timestore_core.model import Field, FieldType


def read_parquet(
    body: bytes, known: Mapping[str, FieldType], limits: Limits
) -> tuple[tuple[Field, ...], list[pa.ChunkedArray]]:
    """The file's columns, exactly, or named where a value or a type has no place here."""
    try:
        table = _decoded(body, limits)
    except (pa.ArrowException, OSError, ValueError, EOFError, IndexError, OverflowError, struct.error) as error:
        if "Not yet implemented" in str(error):
            # What differences of texts stand for cannot be told before they are written out.
            why = "texts encoded as differences are not taken; write them plain or with a dictionary"
            raise InvalidRequest.at("body", f"cannot be read as Parquet: {why}") from None
        raise InvalidRequest.at("body", f"cannot be read as Parquet: {str(error)[:200]}") from None
    return field_columns(table, known, limits.decoded_bytes)


def _decoded(body: bytes, limits: Limits) -> pa.Table:
    source = pa.BufferReader(body)
    metadata = pq.read_metadata(source)
    schema = metadata.schema.to_arrow_schema()
    check_names(schema.names, limits)
    limits.check_rows(metadata.num_rows, len(schema))
    if any(pa.types.is_nested(field.type) for field in schema):
        return pa.table({field.name: pa.array([], field.type) for field in schema})
    _measure(body, max(len(schema), 1), limits)
    texts = [field.name for field in schema if _is_text(field.type)]
    with pq.ParquetFile(pa.BufferReader(body), read_dictionary=texts, arrow_extensions_enabled=False) as file:
        table = file.read()
    limits.check_rows(table.num_rows, table.num_columns)
    table.validate(full=True)
    return table.replace_schema_metadata(None)


def _measure(body: bytes, columns: int, limits: Limits) -> None:
    """Raise where the pages say of themselves that they would take more than they may.

    A text of a dictionary is there once, however many rows have it: how much those take is counted later.
    """
    values = size_bytes = 0
    for chunk in chunks_of(body):
        limits.check_rows(max(chunk.rows, chunk.values))
        values += max(chunk.rows, chunk.values)
        limits.check_rows(values // columns, columns)
        size_bytes += inflated_bytes(body, chunk, limits.decoded_bytes)
        if size_bytes > limits.decoded_bytes:
            raise too_large("the file", limits.decoded_bytes)


def _is_text(type_: pa.DataType) -> bool:
    return bool(pa.types.is_string(type_) or pa.types.is_large_string(type_))
