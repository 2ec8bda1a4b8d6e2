"""Plain lines cut into tokens, all at once, and grouped by their shape.

A line is plain when nothing in it is escaped or quoted. Then every comma, blank and equals sign separates, and lines
of one shape (the same measurement, tag keys and field keys in the same order) are a table whose cells are tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Numbers = npt.NDArray[np.int64]
_SEPARATORS = b",= \n"
_IS_SEPARATOR = bytes(byte in _SEPARATORS for byte in range(256))
_COMMA, _EQUALS, _BLANK, _NEWLINE = b",= \n"


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of a text: `texts` has them without their separators, `separators` what follows each."""

    texts: pa.StringArray
    separators: npt.NDArray[np.uint8]
    # Where each token's text begins and ends in `packed`, the text without separators.
    bounds: npt.NDArray[np.int32]
    packed: npt.NDArray[np.uint8]

    def column(self, places: Numbers) -> pa.StringArray:
        """The tokens at these places."""
        return self.texts.take(pa.array(places))

    def last_bytes(self, places: Numbers, before_last: int = 0) -> npt.NDArray[np.uint8]:
        """The last byte of each of the tokens, or one before it; 0 where the token is not so long."""
        ends = self.bounds[places + 1] - 1 - before_last
        found = self.packed[np.maximum(ends, 0)] if len(self.packed) else np.zeros(len(places), np.uint8)
        return np.where(ends >= self.bounds[places], found, 0)

    def lengths(self, places: Numbers) -> npt.NDArray[np.int32]:
        """How many bytes each of the tokens has."""
        return self.bounds[places + 1] - self.bounds[places]


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
    first_tokens: Numbers


def tokens_of(text: bytes) -> Tokens:
    """The tokens of plain lines, each ended by a newline."""
    places = np.flatnonzero(np.frombuffer(text.translate(_IS_SEPARATOR), np.uint8))
    separators = np.frombuffer(text, np.uint8)[places]
    packed = text.translate(None, _SEPARATORS)
    bounds = np.zeros(len(places) + 1, np.int32)
    bounds[1:] = places - np.arange(len(places))
    texts = pa.StringArray.from_buffers(len(places), pa.py_buffer(bounds), pa.py_buffer(packed))
    return Tokens(texts, separators, bounds, np.frombuffer(packed, np.uint8))


def groups_of(tokens: Tokens) -> Iterator[Group]:
    """The lines by their shape."""
    ends = np.flatnonzero(tokens.separators == _NEWLINE)
    firsts = np.concatenate([[0], ends[:-1] + 1]).astype(np.int64)
    counts = ends - firsts + 1
    signatures = None
    for count in np.unique(counts):
        lines = np.flatnonzero(counts == count)
        if not _is_uniform(tokens, firsts[lines], int(count)):
            signatures = _signatures(tokens) if signatures is None else signatures
            yield from _split(tokens, signatures, lines, firsts, int(count))
        else:
            yield Group(_shape(tokens, int(firsts[lines[0]]), int(count)), lines, firsts[lines])


def _is_uniform(tokens: Tokens, firsts: Numbers, count: int) -> bool:
    """Whether all the lines have the same separators and names: most bodies hold a single shape."""
    first = int(firsts[0])
    for place in range(count):
        separator = tokens.separators[first + place]
        if (tokens.separators[firsts + place] != separator).any():
            return False
        if separator == _EQUALS or place == 0:
            name = tokens.texts[first + place]
            if not pc.all(pc.equal(tokens.column(firsts + place), name)).as_py():
                return False
    return True


def _signatures(tokens: Tokens) -> Numbers:
    """A number for each token: its separator, and its name where it is a key or a measurement."""
    is_name = tokens.separators == _EQUALS
    is_name[0] = True
    is_name[1:] |= tokens.separators[:-1] == _NEWLINE
    places = np.flatnonzero(is_name)
    codes = tokens.column(places).dictionary_encode().indices.to_numpy().astype(np.int64)
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
        yield Group(_shape(tokens, int(firsts[chosen[0]]), count), chosen, firsts[chosen])


def _shape(tokens: Tokens, first: int, count: int) -> Shape | None:
    """The shape of the line that begins with this token, or None where it has none."""
    texts: list[str] = tokens.texts.slice(first, count).to_pylist()
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
