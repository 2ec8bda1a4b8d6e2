"""How much room an Arrow message says it will take: its header's flatbuffer, read without decoding anything.

Layout: https://arrow.apache.org/docs/format/Columnar.html#encapsulated-message-format and Message.fbs of the format.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

_DICTIONARY_BATCH = 2
# Positions of the fields in Message, DictionaryBatch and RecordBatch.
_HEADER_TYPE, _HEADER = 1, 2
_DICTIONARY_DATA = 1
_LENGTH, _BUFFERS, _COMPRESSION = 0, 2, 3


@dataclass(frozen=True, slots=True)
class Declared:
    """What a batch says of itself: its rows, and the bytes of its buffers once they are inflated."""

    rows: int
    size_bytes: int


def declared_by(message: Any) -> Declared:
    """What the record batch or dictionary batch says of itself. Raises ValueError or struct.error for a broken one."""
    header = bytes(message.metadata)
    root = _offset(header, 0)
    batch = _table(header, root, _HEADER)
    if batch is None:
        raise ValueError("a message without a header")
    kind = _field(header, root, _HEADER_TYPE)
    if kind is not None and header[kind] == _DICTIONARY_BATCH:
        batch = _table(header, batch, _DICTIONARY_DATA)
        if batch is None:
            raise ValueError("a dictionary without values")
    at = _field(header, batch, _LENGTH)
    rows = 0 if at is None else _unpack("<q", header, at)
    if rows < 0:
        raise ValueError("a batch with a negative length")
    body_bytes = 0 if message.body is None else message.body.size
    if _table(header, batch, _COMPRESSION) is None or message.body is None:
        return Declared(rows, body_bytes)
    return Declared(rows, body_bytes + _inflated_bytes(header, batch, memoryview(message.body)))


def _inflated_bytes(header: bytes, batch: int, body: memoryview) -> int:
    """A compressed buffer begins with the length that it has when inflated; -1 says that it is not compressed."""
    vector = _table(header, batch, _BUFFERS)
    if vector is None:
        return 0
    total = 0
    for index in range(_unpack("<I", header, vector)):
        start, length = (_unpack("<q", header, vector + 4 + 16 * index + 8 * part) for part in (0, 1))
        if length > 0:
            total += max(_unpack("<q", body, start), 0)
    return total


def _field(header: bytes, table: int, index: int) -> int | None:
    """Where the table's field stands, or None where it has its default."""
    fields = table - _unpack("<i", header, table)
    entry = 4 + 2 * index
    if entry + 2 > _unpack("<H", header, fields):
        return None
    place = _unpack("<H", header, fields + entry)
    return table + place if place else None


def _table(header: bytes, table: int, index: int) -> int | None:
    """Where the table or vector begins that the field points to."""
    at = _field(header, table, index)
    return None if at is None else at + _offset(header, at)


def _offset(header: bytes, at: int) -> int:
    return _unpack("<I", header, at)


def _unpack(kind: str, data: bytes | memoryview, at: int) -> int:
    if at < 0:
        raise ValueError("a position before the beginning")
    number: int = struct.unpack_from(kind, data, at)[0]
    return number
