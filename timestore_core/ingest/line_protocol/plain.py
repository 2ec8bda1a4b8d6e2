"""Plain lines of one shape into columns; lines that need care are handed back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from timestore_core.ingest.line_protocol.points import FieldColumn, Lines, Piece
from timestore_core.ingest.line_protocol.precision import Precision, times_us
from timestore_core.ingest.line_protocol.tokens import Group, Numbers, Rows, Shape, Tokens, groups_of, tokens_of
from timestore_core.model import FieldType

# So few lines of one shape are read as fast one by one. A group with a line that does not fit is halved down to these.
_SCANNED = 24
_TRUE = pa.array(["t", "T", "true", "True", "TRUE"])
_FALSE = pa.array(["f", "F", "false", "False", "FALSE"])
_BOOLEANS = pa.concat_arrays([_TRUE, _FALSE])
_KINDS: dict[int, FieldType] = {
    **dict.fromkeys(b"0123456789.", "double"),
    **dict.fromkeys(b"iu", "integer"),
    **dict.fromkeys(b"tTfFeE", "boolean"),
    ord('"'): "string",
}
_KIND_CODES = np.zeros(256, np.uint8)
for _byte, _kind in _KINDS.items():
    _KIND_CODES[_byte] = ("double", "integer", "boolean", "string").index(_kind) + 1


class _UnfitError(Exception):
    """A line of the group is not what its shape says."""


@dataclass(frozen=True, slots=True)
class PlainPiece:
    """A piece, its measurement, and the lines that have to be scanned (places in the text)."""

    measurement: str
    piece: Piece


def plain_pieces(text: bytes, numbers: Lines, precision: Precision, now_us: int) -> Iterator[PlainPiece | Numbers]:
    """The lines' columns, shape by shape; or the places of lines in the text that have to be scanned.

    `numbers` are the lines' numbers in the body.
    """
    tokens = tokens_of(text)
    for group in groups_of(tokens):
        if group.shape is None:
            yield group.lines
        else:
            yield from _pieces(tokens, group, group.shape, numbers, precision, now_us)


def _pieces(
    tokens: Tokens, group: Group, shape: Shape, numbers: Lines, precision: Precision, now_us: int
) -> Iterator[PlainPiece | Numbers]:
    if len(group.lines) <= _SCANNED:
        yield group.lines
        return
    try:
        yield PlainPiece(shape.measurement, _piece(tokens, group, shape, numbers, precision, now_us))
    except (_UnfitError, pa.ArrowInvalid):
        for part in _parts(tokens, group, shape):
            yield from _pieces(tokens, part, shape, numbers, precision, now_us)


def _kinds(tokens: Tokens, group: Group, place: int) -> npt.NDArray[np.uint8]:
    return _KIND_CODES[tokens.last_bytes(group.rows, place)]


def _parts(tokens: Tokens, group: Group, shape: Shape) -> list[Group]:
    """The lines by the types of their fields where these differ, else in halves."""
    kinds = np.zeros(len(group.lines), np.int64)
    for _, place in shape.fields:
        _, kinds = np.unique(kinds * 5 + _kinds(tokens, group, place), return_inverse=True)
    if kinds.any():
        masks = [np.flatnonzero(kinds == kind) for kind in range(int(kinds.max()) + 1)]
    else:
        masks = np.array_split(np.arange(len(group.lines)), 2)
    firsts = group.rows.first_tokens
    return [Group(shape, group.lines[mask], Rows.of(firsts[mask])) for mask in masks if len(mask)]


def _piece(tokens: Tokens, group: Group, shape: Shape, numbers: Lines, precision: Precision, now_us: int) -> Piece:
    tags = {}
    for name, place in shape.tags:
        if (tokens.ends(group.rows, place) <= tokens.starts(group.rows, place)).any():
            raise _UnfitError
        tags[name] = tokens.column(group.rows, place)
    fields = {name: _field(tokens, group, place) for name, place in shape.fields}
    if shape.time is None:
        times = np.full(len(group.lines), now_us)
    else:
        found = _integers(tokens, group.rows, shape.time).to_numpy()
        converted = times_us(found, precision)
        if converted is None:
            raise _UnfitError
        times = converted
    return Piece(numbers[group.lines], pa.array(times, pa.int64()), tags, fields)


def _field(tokens: Tokens, group: Group, place: int) -> FieldColumn:
    last = tokens.last_bytes(group.rows, place)
    kind = _KINDS.get(int(last[0]))
    if kind == "double":
        doubles = tokens.column(group.rows, place).cast(pa.float64())
        if not pc.all(pc.is_finite(doubles)).as_py():
            raise _UnfitError
        return FieldColumn("double", doubles)
    if kind == "boolean":
        texts = tokens.column(group.rows, place)
        if not pc.all(pc.is_in(texts, _BOOLEANS)).as_py():
            raise _UnfitError
        return FieldColumn("boolean", pc.is_in(texts, _TRUE))
    if kind == "string":
        return FieldColumn("string", _strings(tokens, group.rows, place))
    if kind != "integer" or (last != last[0]).any():
        raise _UnfitError
    if last[0] == ord("u") and (tokens.data[tokens.starts(group.rows, place)] == ord("-")).any():
        raise _UnfitError
    return FieldColumn("integer", _integers(tokens, group.rows, place, cut=1))


def _strings(tokens: Tokens, rows: Rows, place: int) -> pa.StringArray:
    """What stands between two quotes, which are all of the token's."""
    starts, ends = tokens.starts(rows, place), tokens.ends(rows, place)
    if (
        (ends - starts < 2).any()
        or (tokens.data[starts] != ord('"')).any()
        or (tokens.data[ends - 1] != ord('"')).any()
    ):
        raise _UnfitError
    texts = tokens.column(rows, place, cut=1, skip=1)
    if pc.any(pc.match_substring(texts, '"')).as_py():
        raise _UnfitError
    return texts


def _integers(tokens: Tokens, rows: Rows, place: int, cut: int = 0) -> pa.Int64Array:
    texts = tokens.column(rows, place, cut)
    if tokens.may_hold_hexadecimals and pc.any(pc.match_substring(texts, "x", ignore_case=True)).as_py():
        raise _UnfitError
    return texts.cast(pa.int64())
