"""A body of lines into pieces: plain lines all at once, the others one by one."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from timestore_core.errors import TooLarge
from timestore_core.ingest.line_protocol.plain import PlainPiece, plain_pieces
from timestore_core.ingest.line_protocol.points import (
    MAX_LINE_BYTES,
    MAX_MEASUREMENTS,
    BadLines,
    FieldColumn,
    LineError,
    Lines,
    Piece,
)
from timestore_core.ingest.line_protocol.precision import Precision
from timestore_core.ingest.line_protocol.scanner import OpenStringError, Point, scan
from timestore_core.ingest.rows import ARROW_TYPES
from timestore_core.ingest.texts import is_utf8
from timestore_core.model import FieldType

_ODD = b"\\#\r\t"
_SLICE_BYTES = 8 * 1024 * 1024
# A string may go over so many lines.
_MAX_STRING_LINES = 1_000
# Bytes that are read again, in search of a string's end, beyond twice the body: each line that may end it costs all
# lines since its begin.
_MOST_AGAIN_BYTES = 16 * 1024 * 1024
_UNESCAPED_QUOTE = re.compile(rb'(?<!\\)(?:\\\\)*"')
_IS_ODD = bytes(byte in _ODD for byte in range(256))
_IS_ODD_OR_NO_ASCII = bytes(byte in _ODD or byte >= 128 for byte in range(256))


@dataclass(slots=True)
class Parsed:
    """The good lines of a body by measurement, and the bad ones."""

    measurements: dict[str, list[Piece]] = field(default_factory=dict)
    bad: BadLines = field(default_factory=BadLines)

    def add(self, measurement: str, piece: Piece) -> None:
        """Take one more piece. Raises TooLarge for too many measurements."""
        self.measurements.setdefault(measurement, []).append(piece)
        if len(self.measurements) > MAX_MEASUREMENTS:
            raise TooLarge(f"body: has more than {MAX_MEASUREMENTS} measurements; send fewer at once")


def parse_lines(body: bytes, precision: Precision, now_us: int, max_lines: int) -> Parsed:
    """Every line of the body; `now_us` is the time of lines without one. Raises TooLarge for too many lines."""
    parsed = Parsed()
    if not body.endswith(b"\n"):
        body += b"\n"
    count = body.count(b"\n")
    if count > max_lines:
        raise TooLarge(f"body: has {count} lines; TIMESTORE_INGEST_MAX_ROWS is {max_lines}")
    ends = np.flatnonzero(np.frombuffer(body, np.uint8) == ord("\n"))
    starts = np.concatenate([[0], ends[:-1] + 1])
    odd = _odd_lines(body, starts, ends)
    if odd.any():
        # A string may go on in the next line: the others are known once these are read.
        odd = _scan_odd(body, starts, ends, odd, precision, now_us, parsed)
        numbers = np.flatnonzero(~odd)
        text = b"".join(body[starts[number] : ends[number] + 1] for number in numbers.tolist())
    else:
        numbers, text = np.arange(len(ends)), body
    if len(numbers):
        _parse_plain(text, numbers + 1, precision, now_us, parsed)
    return parsed


def _odd_lines(body: bytes, starts: Lines, ends: Lines) -> Any:
    """Which lines are empty, too long, end in a string, or hold a character that needs care."""
    lengths = ends - starts
    odd = (lengths == 0) | (lengths > MAX_LINE_BYTES)
    table = _IS_ODD if is_utf8(body) else _IS_ODD_OR_NO_ASCII
    # Looking for each of them costs less than a table of all bytes, which is needed where there is one.
    if table is _IS_ODD_OR_NO_ASCII or any(bytes([byte]) in body for byte in _ODD):
        odd |= np.logical_or.reduceat(np.frombuffer(body.translate(table), np.bool_), starts)
    data = np.frombuffer(body, np.uint8)
    if b'"' in body:
        odd |= _oddly_quoted(data, starts)
    return odd | (data[starts] == ord(" "))


def _oddly_quoted(data: npt.NDArray[np.uint8], starts: Lines) -> Any:
    """Which lines have quotes that are not a field's: one before the first blank, one that no equals sign is before,
    or one that is left over. There is no string to be found in the others but from each such quote to the next."""
    quotes, blanks = np.flatnonzero(data == ord('"')), np.flatnonzero(data == ord(" "))
    firsts = np.searchsorted(quotes, starts)
    lines = np.searchsorted(starts, quotes, side="right") - 1
    rank = np.arange(len(quotes)) - firsts[lines]
    odd = np.diff(firsts, append=len(quotes)) % 2 == 1
    odd[lines[(rank % 2 == 0) & (data[quotes - 1] != ord("="))]] = True
    first_blanks = np.append(blanks, len(data))[np.searchsorted(blanks, starts)]
    odd[lines[(rank == 0) & (quotes < first_blanks[lines])]] = True
    return odd


def _scan_odd(
    body: bytes, starts: Lines, ends: Lines, odd: Any, precision: Precision, now_us: int, parsed: Parsed
) -> Any:
    """Scan the odd lines; all lines that are done with, also those that a string went on in."""
    done = odd.copy()
    points: list[tuple[int, Point]] = []
    next_line, again = 0, _Again(2 * len(body) + _MOST_AGAIN_BYTES)
    for number in np.flatnonzero(odd).tolist():
        if number < next_line:
            continue
        last = number
        try:
            last, point = _scan_from(body, number, starts, ends, precision, now_us, again)
        except LineError as error:
            parsed.bad.add(number + 1, str(error), body[starts[number] : ends[number]])
        else:
            if point is not None:
                points.append((number + 1, point))
        next_line = last + 1
        done[number:next_line] = True
    _add_points(points, parsed)
    return done


@dataclass(slots=True)
class _Again:
    """How many bytes of a body may still be read again."""

    bytes_left: int


def _scan_from(
    body: bytes, number: int, starts: Lines, ends: Lines, precision: Precision, now_us: int, again: _Again
) -> tuple[int, Point | None]:
    """The point that begins with this line, and the line where it ends: a string may go over several."""
    try:
        return number, _scanned(body[starts[number] : ends[number]], precision, now_us)
    except OpenStringError as error:
        # Where no later line closes the string well, it is this line alone that is bad.
        reason = error
    for last in range(number + 1, min(number + _MAX_STRING_LINES, len(ends))):
        size = int(ends[last] - starts[number])
        if size > MAX_LINE_BYTES or again.bytes_left <= 0:
            break
        if _UNESCAPED_QUOTE.search(body, starts[last], ends[last]) is None:
            continue
        again.bytes_left -= size
        try:
            return last, _scanned(body[starts[number] : ends[last]], precision, now_us)
        except OpenStringError:
            continue
        except LineError:
            break
    raise reason


def _scanned(line: bytes, precision: Precision, now_us: int) -> Point | None:
    """The line's point; None for an empty one and a comment."""
    if len(line) > MAX_LINE_BYTES:
        raise LineError(f"has more than {MAX_LINE_BYTES} bytes")
    try:
        text = line.decode().lstrip(" \t").removesuffix("\r")
    except UnicodeDecodeError:
        raise LineError("is not UTF-8") from None
    if not text.strip() or text.startswith("#"):
        return None
    return scan(text, precision, now_us)


def _parse_plain(text: bytes, numbers: Lines, precision: Precision, now_us: int, parsed: Parsed) -> None:
    """Plain lines, some megabytes at a time: what is made of them on the way takes several times their size."""
    ends = np.flatnonzero(np.frombuffer(text, np.uint8) == ord("\n"))
    first = start = 0
    while first < len(ends):
        last = max(int(np.searchsorted(ends, start + _SLICE_BYTES)), first + 1)
        end = int(ends[last - 1]) + 1
        part = text if last - first == len(ends) else text[start:end]
        _parse_slice(part, ends[first:last] - start, numbers[first:last], precision, now_us, parsed)
        first, start = last, end


def _parse_slice(text: bytes, ends: Lines, numbers: Lines, precision: Precision, now_us: int, parsed: Parsed) -> None:
    points: list[tuple[int, Point]] = []
    for found in plain_pieces(text, numbers, precision, now_us):
        if isinstance(found, PlainPiece):
            parsed.add(found.measurement, found.piece)
            continue
        for place in found.tolist():
            line = text[ends[place - 1] + 1 if place else 0 : ends[place]]
            try:
                point = _scanned(line, precision, now_us)
            except LineError as error:
                parsed.bad.add(int(numbers[place]), str(error), line)
            else:
                if point is not None:
                    points.append((int(numbers[place]), point))
    _add_points(points, parsed)


def _add_points(points: list[tuple[int, Point]], parsed: Parsed) -> None:
    """Scanned points as pieces: one for each measurement and types of fields."""
    grouped: dict[tuple[str, frozenset[tuple[str, FieldType]]], list[tuple[int, Point]]] = {}
    for number, point in points:
        types = frozenset((name, type_) for name, (type_, _) in point.fields.items())
        grouped.setdefault((point.measurement, types), []).append((number, point))
    for (measurement, _), mine in grouped.items():
        parsed.add(measurement, _piece(mine))


def _piece(points: list[tuple[int, Point]]) -> Piece:
    tags = dict.fromkeys(name for _, point in points for name in point.tags)
    fields = {name: type_ for name, (type_, _) in points[0][1].fields.items()}
    return Piece(
        np.array([number for number, _ in points], np.int64),
        pa.array([point.time_us for _, point in points], pa.int64()),
        {name: pa.array([point.tags.get(name) for _, point in points], pa.string()) for name in tags},
        {
            name: FieldColumn(type_, _values([point.fields[name][1] for _, point in points], type_))
            for name, type_ in fields.items()
        },
    )


def _values(values: list[Any], type_: FieldType) -> pa.Array:
    return pa.array(values, pa.int64() if type_ == "timestamp" else ARROW_TYPES[type_]).cast(ARROW_TYPES[type_])
