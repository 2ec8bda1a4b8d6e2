"""Structures in Thrift's compact protocol, read as what they are: fields by their numbers, whatever they mean.

Specification: https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
"""

from __future__ import annotations

from typing import Any

_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(1, 13)
_MAX_DEPTH = 16

Struct = dict[int, Any]


class CompactReader:
    """Reads from a position on. No more than `budget` values, so that a small text cannot become a large structure."""

    def __init__(self, data: bytes, at: int, budget: int) -> None:
        self._data = data
        self._budget = budget
        self.at = at

    def struct(self, depth: int = 0) -> Struct:
        """The structure that begins here: integers, lists and structures by their field's number.

        Texts and doubles are passed over. Raises ValueError or IndexError for what is none.
        """
        if depth > _MAX_DEPTH:
            raise ValueError("a structure that is nested too deeply")
        found: Struct = {}
        field = 0
        while True:
            byte = self._byte()
            if byte == 0:
                return found
            field = field + (byte >> 4) if byte >> 4 else self._zigzag()
            kind = byte & 15
            # Of a boolean the value is in its type.
            found[field] = kind == _TRUE if kind in (_TRUE, _FALSE) else self._value(kind, depth)

    def _value(self, kind: int, depth: int) -> Any:
        self._budget -= 1
        if self._budget < 0:
            raise ValueError("a structure of too many values")
        if kind in (_I16, _I32, _I64):
            return self._zigzag()
        if kind in (_TRUE, _FALSE, _BYTE):
            return self._byte()
        if kind == _STRUCT:
            return self.struct(depth + 1)
        if kind in (_LIST, _SET):
            byte = self._byte()
            count = byte >> 4 if byte >> 4 < 15 else self._varint()
            return [self._value(byte & 15, depth) for _ in range(min(count, self._budget + 1))]
        if kind == _MAP:
            return self._map(depth)
        if kind not in (_DOUBLE, _BINARY):
            raise ValueError("a structure of an unknown form")
        size_bytes = 8 if kind == _DOUBLE else self._varint()
        self.at += size_bytes
        return None

    def _map(self, depth: int) -> None:
        count = self._varint()
        kinds = self._byte() if count else 0
        for _ in range(count):
            self._value(kinds >> 4, depth)
            self._value(kinds & 15, depth)

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
