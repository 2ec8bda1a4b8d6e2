"""Columns of text into columns of the field types: all at once where every value is plain, else by `lenient`."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc

from timestore_core.errors import Problem
from timestore_core.ingest.lenient import lenient_column
from timestore_core.ingest.rows import ARROW_TYPES, FIRST_TIME_US, LAST_TIME_US
from timestore_core.model import Field, FieldType

_SAMPLE = 32
_INFERRED: tuple[FieldType, ...] = ("integer", "double", "timestamp", "boolean")
_BOOLEANS = pa.array(["true", "false"])


def text_column(values: pa.ChunkedArray, field: Field, problems: list[Problem]) -> pa.ChunkedArray:
    """The texts as values of the field's type; what does not fit is named in the problems."""
    if field.type == "string":
        return values
    try:
        return _PLAIN[field.type](values)
    except pa.ArrowInvalid:
        arrow_type = ARROW_TYPES[field.type]
        return pa.chunked_array([lenient_column(values.to_pylist(), field, problems, arrow_type)])


def infer_type(values: pa.ChunkedArray) -> FieldType | None:
    """What all the texts can be read as: integer, double, boolean or timestamp, else string; None without a value."""
    if values.null_count == len(values):
        return None
    # Most texts are seen not to be numbers or times from a few of them.
    sample = values.slice(0, _SAMPLE)
    return next((type_ for type_ in _INFERRED if _fits(sample, type_) and _fits(values, type_)), "string")


def _fits(values: pa.ChunkedArray, type_: FieldType) -> bool:
    try:
        _PLAIN[type_](values)
    except pa.ArrowInvalid:
        return False
    return True


def is_utf8(body: bytes) -> bool:
    """Whether the bytes are valid UTF-8."""
    try:
        pa.array([body], pa.large_binary()).cast(pa.large_string())
    except pa.ArrowInvalid:
        return False
    return True


def _integers(values: pa.ChunkedArray) -> pa.ChunkedArray:
    numbers = values.cast(pa.int64())
    # Arrow reads 0x10 as sixteen.
    if pc.any(pc.match_substring(values, "x", ignore_case=True)).as_py():
        raise pa.ArrowInvalid("hexadecimal")
    return numbers


def _doubles(values: pa.ChunkedArray) -> pa.ChunkedArray:
    numbers = values.cast(pa.float64())
    if pc.all(pc.is_finite(numbers)).as_py() is False:
        raise pa.ArrowInvalid("not finite")
    return numbers


def _booleans(values: pa.ChunkedArray) -> pa.ChunkedArray:
    lower = pc.ascii_lower(values)
    if pc.any(pc.and_(pc.is_valid(lower), pc.invert(pc.is_in(lower, _BOOLEANS)))).as_py():
        raise pa.ArrowInvalid("neither true nor false")
    return lower.cast(pa.bool_())


def _times(values: pa.ChunkedArray) -> pa.ChunkedArray:
    try:
        times = values.cast(pa.timestamp("us", tz="UTC"))
    except pa.ArrowInvalid:
        times = values.cast(pa.timestamp("us"))
    numbers = times.cast(pa.int64())
    if len(numbers) > numbers.null_count:
        ends = pc.min_max(numbers).as_py()
        if ends["min"] < FIRST_TIME_US or ends["max"] > LAST_TIME_US:
            raise pa.ArrowInvalid("a time is out of range")
    return numbers.cast(ARROW_TYPES["timestamp"])


_PLAIN: dict[FieldType, Callable[[pa.ChunkedArray], pa.ChunkedArray]] = {
    "integer": _integers,
    "double": _doubles,
    "boolean": _booleans,
    "timestamp": _times,
}
