"""How much room a Parquet file takes when inflated: its footer and page headers, read without decoding any page.

The footer says so too, but a hostile one says anything, and it is the page headers that a reader believes. PyArrow's
own metadata objects are no help: a damaged footer makes some of them end the process (seen in 26.0.1).
Layout: parquet.thrift of the format (FileMetaData, RowGroup, ColumnChunk, ColumnMetaData, PageHeader).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

from timestore_core.ingest.thrift_compact import CompactReader, Struct

_T = TypeVar("_T")
_MAGIC = b"PAR1"
_MAX_FOOTER_VALUES = 2_000_000
_MAX_HEADER_VALUES = 10_000
# FileMetaData, RowGroup, ColumnChunk, ColumnMetaData, PageHeader.
_ROW_GROUPS = 4
_COLUMNS, _NUM_ROWS = 1, 3
_META_DATA = 3
_NUM_VALUES, _COMPRESSED_BYTES, _DATA_PAGE, _INDEX_PAGE, _DICTIONARY_PAGE = 5, 7, 9, 10, 11
_UNCOMPRESSED_SIZE, _COMPRESSED_SIZE = 2, 3


@dataclass(frozen=True, slots=True)
class Chunk:
    """One column of one row group, as the footer tells."""

    rows: int
    values: int
    start: int
    size_bytes: int


def chunks_of(body: bytes) -> Iterator[Chunk]:
    """The column chunks of the file. Raises ValueError, IndexError or struct.error for a footer that is none."""
    if len(body) < 12 or not body.endswith(_MAGIC):
        raise ValueError("no Parquet footer")
    start = len(body) - 8 - struct.unpack_from("<I", body, len(body) - 8)[0]
    if start < 0:
        raise ValueError("a footer larger than the file")
    groups = CompactReader(body, start, _MAX_FOOTER_VALUES).struct().get(_ROW_GROUPS, [])
    for group in groups:
        for chunk in _field(group, _COLUMNS, list):
            known = _field(chunk, _META_DATA, dict)
            places = [known[one] for one in (_DATA_PAGE, _INDEX_PAGE, _DICTIONARY_PAGE) if known.get(one)]
            yield Chunk(
                _field(group, _NUM_ROWS, int),
                _field(known, _NUM_VALUES, int),
                min(places, default=0),
                _field(known, _COMPRESSED_BYTES, int),
            )


def inflated_bytes(body: bytes, chunk: Chunk, enough: int) -> int:
    """The bytes of the chunk's pages once inflated; counting ends above `enough`. Raises ValueError or IndexError."""
    if chunk.start < 0 or chunk.size_bytes < 0:
        raise ValueError("a column chunk lies outside the file")
    at, end, total = chunk.start, min(chunk.start + chunk.size_bytes, len(body)), 0
    while at < end and total <= enough:
        reader = CompactReader(body, at, _MAX_HEADER_VALUES)
        header = reader.struct()
        compressed, inflated = _field(header, _COMPRESSED_SIZE, int), _field(header, _UNCOMPRESSED_SIZE, int)
        if compressed < 0 or inflated < 0:
            raise ValueError("a page of a negative size")
        total += inflated
        at = reader.at + compressed
    return total


def _field(values: Struct, number: int, kind: type[_T]) -> _T:
    value = values.get(number) if isinstance(values, dict) else None
    if not isinstance(value, kind):
        raise ValueError("a footer or page header without one of its fields")
    return value
