"""One column of a file in the service's types, and what to say of a value that does not fit."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from timestore_core.model import FieldType
from timestore_core.times import parse_time_us, to_us

if TYPE_CHECKING:
    import pyarrow as pa

    from timestore_workers.files import ReadOptions
    from timestore_workers.layout import Layout

NULL_TEXTS = ("", "NA", "N/A", "#N/A", "n/a", "NULL", "null", "None")
EPOCH_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
YEAR_1_US, YEAR_10000_US = -62_135_596_800_000_000, 253_402_300_800_000_000
TOO_FINE = "is finer than a microsecond, which would be rounded"
UNFIT = (ValueError, OverflowError, NotImplementedError)
"""What a conversion that does not fit raises; Arrow's exceptions are subclasses of these."""


class _UnfitError(ValueError):
    """A value does not fit its column, and the text says why."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its name in the file, the name and type it is sent with, and how its times are written.

    `time_format` is `iso`, `s`, `ms`, `us`, `ns` (since 1970), a strptime pattern, or `native` where the
    file's own type is a time; None for other types.
    """

    name: str
    sent_as: str
    type: FieldType
    time_format: str | None = None


def convert(array: pa.Array, column: Column, options: ReadOptions) -> pa.Array:
    """The array in the column's type. Raises one of UNFIT when a value does not fit or would change."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if column.type == "string":
        array = _plain(array)
        if pa.types.is_string(array.type):
            array = _without(array, options.null_texts)
        return array.cast(pa.string())
    array = cleaned(array, options)
    if column.time_format is not None:
        return timestamps(array, column.time_format)
    if column.type == "integer":
        return array.cast(pa.int64())
    if column.type == "boolean":
        return array.cast(pa.string()).cast(pa.bool_())
    doubles = array.cast(pa.float64())
    finite = pc.is_finite(doubles)
    if pc.all(finite).as_py() is False:
        if not options.nan_as_null:
            raise _UnfitError("is not a finite number, which JSON cannot hold")
        doubles = pc.if_else(finite, doubles, None)
    return doubles


def attempt(conversion: Callable[..., Any], *arguments: Any) -> Any:
    """The conversion's result, or None when the values do not fit."""
    try:
        return conversion(*arguments)
    except UNFIT:
        return None


def cleaned(array: pa.Array, options: ReadOptions) -> pa.Array:
    """The array without its encodings; of texts, those that stand for no value become NULL."""
    import pyarrow as pa
    import pyarrow.compute as pc

    array = _plain(array)
    if not pa.types.is_string(array.type):
        return array
    return _without(pc.utf8_trim_whitespace(array), (*NULL_TEXTS, *options.null_texts))


def timestamps(array: pa.Array, time_format: str) -> pa.Array:
    """Times in UTC to the microsecond, exactly; a time without a zone is UTC. Raises one of UNFIT."""
    import pyarrow as pa
    import pyarrow.compute as pc

    us = pa.timestamp("us")
    if pa.types.is_null(array.type):
        return array.cast(us)
    if time_format == "native":
        times = attempt(array.cast, us)
        if times is None:
            raise _UnfitError(TOO_FINE)
    elif time_format in EPOCH_PER_SECOND:
        times = _since_1970(array, EPOCH_PER_SECOND[time_format])
    elif time_format == "iso":
        times = _iso(array.cast(pa.string()))
    else:
        times = _by_pattern(array.cast(pa.string()), time_format)
    bounds = pc.min_max(times.cast(pa.int64())).as_py()
    if bounds["min"] is not None and not YEAR_1_US <= bounds["min"] <= bounds["max"] < YEAR_10000_US:
        raise _UnfitError("is not between the years 1 and 9999")
    return times


def first_unfit(array: pa.Array, column: Column, layout: Layout, options: ReadOptions) -> tuple[int, str]:
    """The index of the first value that `convert` refuses, and what to say of it: value, reason, remedy."""
    first, end = 0, len(array)
    while end - first > 1:
        middle = (first + end) // 2
        if attempt(convert, array.slice(first, middle - first), column, options) is None:
            end = middle
        else:
            first = middle
    try:
        convert(array.slice(first, 1), column, options)
    except UNFIT as error:
        return first, _advice(array[first], column, error, layout, options)
    raise AssertionError("the array converts after all")


def shown(value: Any) -> str:
    """The value as an error message quotes it: as JSON, and cut when long."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else text[:80] + "…"


def _advice(value: pa.Scalar, column: Column, reason: Exception, layout: Layout, options: ReadOptions) -> str:
    import pyarrow as pa

    name = column.name
    # Python's own times hold no nanoseconds.
    text = shown((value.cast(pa.string()) if pa.types.is_timestamp(value.type) else value).as_py())
    if column.type == "double" and isinstance(reason, _UnfitError):
        return f"{text} {reason}; --nan-as-null sends such values as NULL"
    if column.type == "timestamp":
        why = str(reason) if isinstance(reason, _UnfitError) else f"is not a time of the format {column.time_format}"
        return f"{text} {why}" if column is layout.time else f"{text} {why}; give --type {name}=string"
    if column.type == "string":
        return f"cannot be sent as text ({reason}); leave the column out with --skip {name}"
    as_double = Column(name, name, "double")
    fits_double = attempt(convert, pa.array([value.as_py()], value.type), as_double, options) is not None
    wider = "double" if column.type == "integer" and fits_double else "string"
    article = "an" if column.type == "integer" else "a"
    asked = "as --type says" if name in options.types else f"as the first {layout.sample_rows:,} rows are"
    return (
        f"{text} is not {article} {column.type}, {asked}; give --type {name}={wider}, "
        f"or --null with that text if it stands for no value"
    )


def _plain(array: pa.Array) -> pa.Array:
    """The array without dictionary encoding, and with one kind of text instead of three."""
    import pyarrow as pa

    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    text = pa.types.is_large_string(array.type) or pa.types.is_string_view(array.type)
    return array.cast(pa.string()) if text else array


def _without(texts: pa.Array, null_texts: tuple[str, ...]) -> pa.Array:
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.if_else(pc.is_in(texts, value_set=pa.array(null_texts, pa.string())), None, texts)


def _since_1970(array: pa.Array, per_second: int) -> pa.Array:
    import pyarrow as pa
    import pyarrow.compute as pc

    whole = attempt(array.cast, pa.int64())
    if whole is None:
        # A double holds the microsecond of a time of this century, and nothing finer.
        whole = pc.round(pc.multiply(array.cast(pa.float64()), 1_000_000 / per_second)).cast(pa.int64())
    elif per_second <= 1_000_000:
        whole = pc.multiply_checked(whole, 1_000_000 // per_second)
    else:
        fine, whole = whole, pc.divide(whole, 1000)
        if pc.all(pc.equal(pc.multiply(whole, 1000), fine)).as_py() is False:
            raise _UnfitError(TOO_FINE)
    return whole.cast(pa.timestamp("us"))


def _iso(texts: pa.Array) -> pa.Array:
    import pyarrow as pa

    # Arrow reads a column of times that all have a zone, or all none.
    for kind in (pa.timestamp("us"), pa.timestamp("us", "UTC")):
        times = attempt(texts.cast, kind)
        if times is not None:
            return times.cast(pa.timestamp("us"))
    try:
        return _one_by_one(texts, parse_time_us)
    except ValueError as error:
        raise _UnfitError(str(error)) from None


def _by_pattern(texts: pa.Array, pattern: str) -> pa.Array:
    import pyarrow as pa
    import pyarrow.compute as pc

    if not re.search("%[fzZ]", pattern):
        seconds = pc.strptime(texts, format=pattern, unit="s", error_is_null=True)
        # Arrow reads 30 February as 1 March: only what it writes back the same was a time.
        same = pc.equal(pc.strftime(seconds, format=pattern), texts)
        if pc.all(pc.fill_null(same, pc.is_null(texts))).as_py() is not False:
            return seconds.cast(pa.timestamp("us"))

    def parse_us(text: str) -> int:
        moment = datetime.strptime(text, pattern)
        return to_us(moment if moment.tzinfo else moment.replace(tzinfo=UTC))

    return _one_by_one(texts, parse_us)


def _one_by_one(texts: pa.Array, parse_us: Callable[[str], int]) -> pa.Array:
    import pyarrow as pa

    values = [None if text is None else parse_us(text) for text in texts.to_pylist()]
    return pa.array(values, pa.int64()).cast(pa.timestamp("us"))
