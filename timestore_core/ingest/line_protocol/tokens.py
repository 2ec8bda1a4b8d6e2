"""Plain lines cut into tokens, all at once, and grouped by their shape.

A line is plain when nothing in it is escaped, and quotes stand around strings alone, which end in it. Then every comma,
blank and equals sign outside quotes separates, and lines of one shape (the same measurement, tag keys and field keys in
the same order) are a table whose cells are tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Numbers = npt.NDArray[np.int64]
_SEPARATORS = b",= \n"
_IS_SEPARATOR = bytes(byte in _SEPARATORS for byte in range(256))
_QUOTE = ord('"')
_IS_SEPARATOR_OR_QUOTE = bytes(byte in _SEPARATORS or byte == _QUOTE for byte in range(256))
_COMMA, _EQUALS, _BLANK, _NEWLINE = b",= \n"


@dataclass(frozen=True, slots=True)
class Rows:
    """Lines by their first tokens; `stride` tokens lie between them where it is the same everywhere, else it is 0."""

    first_tokens: Numbers
    stride: int

    @classmethod
    def of(cls, first_tokens: Numbers) -> Rows:
        """The lines with these first tokens."""
        steps = np.diff(first_tokens)
        return cls(first_tokens, int(steps[0]) if len(steps) and (steps == steps[0]).all() else 0)


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of a text, cut where a separator stands; token n lies between `bounds[n] + 1` and `bounds[n + 1]`."""

    text: bytes
    data: npt.NDArray[np.uint8]
    separators: npt.NDArray[np.uint8]
    bounds: npt.NDArray[np.int32]
    # Arrow reads 0x10 as sixteen.
    may_hold_hexadecimals: bool

    def column(self, rows: Rows, place: int, cut: int = 0, skip: int = 0) -> pa.StringArray:
        """The tokens at this place of the lines, without their first `skip` and last `cut` bytes."""
        # Over the text itself: each second text is what lies between two of them.
        offsets = np.empty(2 * len(rows.first_tokens), np.int32)
        offsets[0::2] = self.starts(rows, place) + np.int32(skip)
        offsets[1::2] = self.ends(rows, place)
        if cut:
            offsets[1::2] = np.maximum(offsets[1::2] - cut, offsets[0::2])
        texts = pa.StringArray.from_buffers(len(offsets) - 1, pa.py_buffer(offsets), pa.py_buffer(self.text))
        return texts.take(pa.array(np.arange(0, len(offsets), 2, dtype=np.int32)))

    def starts(self, rows: Rows, place: int) -> npt.NDArray[np.int32]:
        """Where the tokens at this place begin."""
        return at(self.bounds, rows, place) + np.int32(1)

    def ends(self, rows: Rows, place: int) -> npt.NDArray[np.int32]:
        """Where the tokens at this place end."""
        return at(self.bounds, rows, place + 1)

    def last_bytes(self, rows: Rows, place: int) -> npt.NDArray[np.uint8]:
        """The last byte of each of the tokens, or the separator before an empty one."""
        return self.data[self.ends(rows, place) - 1]


def at(values: npt.NDArray[Any], rows: Rows, place: int) -> npt.NDArray[Any]:
    """The values of the tokens at this place of the lines."""
    if not rows.stride:
        return values[rows.first_tokens + place]
    begin = int(rows.first_tokens[0]) + place
    return values[begin : begin + rows.stride * (len(rows.first_tokens) - 1) + 1 : rows.stride]


@dataclass(frozen=True, slots=True)
class Shape:
    """What lines of one shape have in common, by the place of each token in the line."""

    measurement: str
    tags: tuple[tuple[str, int], ...]
    fields: tuple[tuple[str, int], ...]
    time: int | None


@dataclass(frozen=True, slots=True)
class Group:
    """Lines of one shape: their places in the text, and where their first tokens are. No shape: they are malformed."""

    shape: Shape | None
    lines: Numbers
    rows: Rows


def tokens_of(text: bytes) -> Tokens:
    """The tokens of plain lines, each ended by a newline."""
    data = np.frombuffer(text, np.uint8)
    has_quotes = b'"' in text
    places = np.flatnonzero(
        np.frombuffer(text.translate(_IS_SEPARATOR_OR_QUOTE if has_quotes else _IS_SEPARATOR), np.bool_)
    )
    if has_quotes:
        is_quote = data[places] == _QUOTE
        places = places[~is_quote & ~np.bitwise_xor.accumulate(is_quote)]
    bounds = np.empty(len(places) + 1, np.int32)
    bounds[0], bounds[1:] = -1, places
    return Tokens(text, data, data[places], bounds, b"x" in text or b"X" in text)


def groups_of(tokens: Tokens) -> Iterator[Group]:
    """The lines by their shape."""
    ends = np.flatnonzero(tokens.separators == _NEWLINE)
    firsts = np.concatenate([[0], ends[:-1] + 1]).astype(np.int64)
    counts = ends - firsts + 1
    signatures = None
    for count in np.unique(counts):
        lines = np.flatnonzero(counts == count)
        rows = Rows.of(firsts[lines])
        if not _is_uniform(tokens, rows, int(count)):
            signatures = _signatures(tokens) if signatures is None else signatures
            yield from _split(tokens, signatures, lines, firsts, int(count))
        else:
            yield Group(_shape(tokens, int(firsts[lines[0]]), int(count)), lines, rows)


def _is_uniform(tokens: Tokens, rows: Rows, count: int) -> bool:
    """Whether all the lines have the same separators and names: most bodies hold a single shape."""
    first = int(rows.first_tokens[0])
    for place in range(count):
        separator = tokens.separators[first + place]
        if (at(tokens.separators, rows, place) != separator).any():
            return False
        if separator == _EQUALS or place == 0:
            names = tokens.column(rows, place)
            if not pc.all(pc.equal(names, names[0])).as_py():
                return False
    return True


def _signatures(tokens: Tokens) -> Numbers:
    """A number for each token: its separator, and its name where it is a key or a measurement."""
    is_name = tokens.separators == _EQUALS
    is_name[0] = True
    is_name[1:] |= tokens.separators[:-1] == _NEWLINE
    places = np.flatnonzero(is_name)
    codes = tokens.column(Rows(places, 0), 0).dictionary_encode().indices.to_numpy().astype(np.int64)
    signatures = tokens.separators.astype(np.int64)
    signatures[places] += (codes + 1) << 8
    return signatures


def _split(tokens: Tokens, signatures: Numbers, lines: Numbers, firsts: Numbers, count: int) -> Iterator[Group]:
    """Lines of as many tokens by the signatures of all their tokens, compared one place after the other."""
    group = np.zeros(len(lines), np.int64)
    for place in range(count):
        found = signatures[firsts[lines] + place]
        if (found == found[0]).all():
            continue
        _, code = np.unique(found, return_inverse=True)
        _, group = np.unique(group * (int(code.max()) + 1) + code, return_inverse=True)
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    for mine in np.split(order, starts[1:]):
        chosen = lines[mine]
        yield Group(_shape(tokens, int(firsts[chosen[0]]), count), chosen, Rows.of(firsts[chosen]))


def _shape(tokens: Tokens, first: int, count: int) -> Shape | None:
    """The shape of the line that begins with this token, or None where it has none."""
    bounds = tokens.bounds[first : first + count + 1].tolist()
    texts = [tokens.text[start + 1 : end].decode() for start, end in pairwise(bounds)]
    separators = tokens.separators[first : first + count].tolist()
    place, tags = 0, []
    while separators[place] == _COMMA:
        if place + 2 >= count or separators[place + 1] != _EQUALS:
            return None
        tags.append((texts[place + 1], place + 2))
        place += 2
    if not texts[0] or separators[place] != _BLANK:
        return None
    fields: list[tuple[str, int]] = []
    while not fields or separators[place] == _COMMA:
        if place + 2 >= count or separators[place + 1] != _EQUALS:
            return None
        fields.append((texts[place + 1], place + 2))
        place += 2
    time = None
    if separators[place] == _BLANK:
        place += 1
        time = place
    names = [name for name, _ in (*tags, *fields)]
    if separators[place] != _NEWLINE or "" in names or len(set(names)) < len(names):
        return None
    return Shape(texts[0], tuple(tags), tuple(fields), time)
