"""How much room a Parquet column chunk takes when inflated: its page headers, read without decoding any page.

The footer says so too, but a hostile one says anything, and it is the page headers that a reader believes.
Layout: parquet.thrift (PageHeader) in Thrift's compact protocol, whose varints and field headers are read here.
"""

from __future__ import annotations

_I32, _LIST, _SET, _STRUCT = 5, 9, 10, 12
_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY = 1, 2, 3, 7, 8
_UNCOMPRESSED_SIZE, _COMPRESSED_SIZE = 2, 3
_MAX_DEPTH = 8


def inflated_bytes(body: bytes, start: int, size_bytes: int, enough: int) -> int:
    """The bytes of the chunk's pages once inflated; counting ends above `enough`. Raises ValueError or IndexError."""
    if start < 0 or size_bytes < 0:
        raise ValueError("a column chunk lies outside the file")
    at, end, total = start, min(start + size_bytes, len(body)), 0
    while at < end and total <= enough:
        header = _Compact(body, at)
        sizes = header.numbers_of_struct()
        compressed, inflated = sizes.get(_COMPRESSED_SIZE, -1), sizes.get(_UNCOMPRESSED_SIZE, -1)
        if compressed < 0 or inflated < 0:
            raise ValueError("a page header without its sizes")
        total += inflated
        at = header.at + compressed
    return total


class _Compact:
    """A position in Thrift's compact protocol."""

    def __init__(self, data: bytes, at: int) -> None:
        self._data = data
        self.at = at

    def numbers_of_struct(self, depth: int = 0) -> dict[int, int]:
        """The struct's 32-bit integers by their field's number; everything else is passed over."""
        if depth > _MAX_DEPTH:
            raise ValueError("a page header that is nested too deeply")
        found: dict[int, int] = {}
        field = 0
        while True:
            byte = self._byte()
            if byte == 0:
                return found
            field = field + (byte >> 4) if byte >> 4 else self._zigzag()
            if byte & 15 == _I32:
                found[field] = self._zigzag()
            else:
                self._skip(byte & 15, depth)

    def _skip(self, kind: int, depth: int) -> None:
        if kind in (_TRUE, _FALSE):
            return
        if kind == _BYTE:
            self.at += 1
        elif kind in (4, 5, 6):
            self._varint()
        elif kind == _DOUBLE:
            self.at += 8
        elif kind == _BINARY:
            size_bytes = self._varint()
            self.at += size_bytes
        elif kind in (_LIST, _SET):
            byte = self._byte()
            count = byte >> 4 if byte >> 4 < 15 else self._varint()
            if count > len(self._data):
                raise ValueError("a list longer than the file")
            for _ in range(count):
                self._skip_element(byte & 15, depth)
        elif kind == _STRUCT:
            self.numbers_of_struct(depth + 1)
        else:
            raise ValueError("a page header of an unknown form")

    def _skip_element(self, kind: int, depth: int) -> None:
        """In a list a boolean takes a byte."""
        if kind in (_TRUE, _FALSE):
            self.at += 1
        else:
            self._skip(kind, depth)

    def _byte(self) -> int:
        byte = self._data[self.at]
        self.at += 1
        return byte

    def _varint(self) -> int:
        number = shift = 0
        while shift < 70:
            byte = self._byte()
            number |= (byte & 127) << shift
            if byte < 128:
                return number
            shift += 7
        raise ValueError("a number of too many bytes")

    def _zigzag(self) -> int:
        number = self._varint()
        return (number >> 1) ^ -(number & 1)
