"""A Parquet body into columns: its pages are measured before they are inflated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from timestore_core.errors import InvalidRequest
from timestore_core.ingest.convert import field_columns, too_large
from timestore_core.ingest.limits import Limits, check_names
from timestore_core.ingest.parquet_pages import inflated_bytes
from timestore_core.model import Field, FieldType


def read_parquet(
    body: bytes, known: Mapping[str, FieldType], limits: Limits
) -> tuple[tuple[Field, ...], list[pa.ChunkedArray]]:
    """The file's columns, exactly, or named where a value or a type has no place here."""
    try:
        table = _decoded(body, limits)
    except (pa.ArrowException, OSError, ValueError, EOFError, IndexError, OverflowError) as error:
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
    _measure(body, metadata, limits)
    texts = [field.name for field in schema if _is_text(field.type)]
    with pq.ParquetFile(pa.BufferReader(body), read_dictionary=texts, arrow_extensions_enabled=False) as file:
        table = file.read()
    limits.check_rows(table.num_rows, table.num_columns)
    table.validate(full=True)
    return table.replace_schema_metadata(None)


def _measure(body: bytes, metadata: Any, limits: Limits) -> None:
    """Raise where the pages say of themselves that they would take more than they may.

    A text of a dictionary is there once, however many rows have it: how much those take is counted later.
    """
    rows = size_bytes = 0
    for group in range(metadata.num_row_groups):
        chunks = metadata.row_group(group)
        rows += chunks.num_rows
        limits.check_rows(rows, metadata.num_columns)
        for index in range(chunks.num_columns):
            chunk = chunks.column(index)
            if chunk.num_values > limits.settings.ingest_max_rows:
                raise InvalidRequest.at("rows", "has a column with more values than rows are allowed")
            start = chunk.data_page_offset
            if chunk.dictionary_page_offset is not None:
                start = min(start, chunk.dictionary_page_offset)
            size_bytes += inflated_bytes(body, start, chunk.total_compressed_size, limits.decoded_bytes)
            if size_bytes > limits.decoded_bytes:
                raise too_large("the file", limits.decoded_bytes)


def _is_text(type_: pa.DataType) -> bool:
    return bool(pa.types.is_string(type_) or pa.types.is_large_string(type_))
