"""How a file is to be read: the types of its columns, which of them is the time, and how times are written."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

from timestore_core.model import FieldType
from timestore_workers.columns import EPOCH_PER_SECOND, Column, attempt, cleaned, shown, timestamps
from timestore_workers.files import SAMPLE_ROWS, FileError, ReadOptions, Source

if TYPE_CHECKING:
    import pyarrow as pa

TIME_NAMES = ("timestamp", "time", "datetime", "date", "ts")
SAYS_TIME = re.compile(r"time|date|epoch|(^|_)(ts|at)(_|$)", re.IGNORECASE)
YEAR_2000_S, YEAR_2100_S = 946_684_800, 4_102_444_800
DATES = (
    "%Y-%m-%d",
    "%Y/%m/%d",
    "%Y.%m.%d",
    "%Y%m%d",
    "%d.%m.%Y",
    "%m/%d/%Y",
    "%d/%m/%Y",
    "%m-%d-%Y",
    "%d-%m-%Y",
)
CLOCKS = ("", " %H:%M", " %H:%M:%S", " %H:%M:%S.%f", " %H:%M:%S%z", " %I:%M %p", " %I:%M:%S %p")


@dataclass(frozen=True, slots=True)
class Layout:
    """How a file is read: its columns in order, which of them is the time, and what the user should know."""

    columns: tuple[Column, ...]
    time: Column
    sample_rows: int
    notes: tuple[str, ...]


def infer_layout(source: Source, options: ReadOptions) -> Layout:
    """Settles every column's type and which column is the time, from the first rows and what the caller said.

    Raises FileError when there are no rows, when an option names a column that is not there, when no column
    or only an ambiguous one reads as times, and for a column that the service has no type for.
    """
    batch = next((batch for batch in source.batches() if batch.num_rows), None)
    if batch is None:
        raise FileError(f"{source.path.name}: has no rows")
    batch = batch.slice(0, SAMPLE_ROWS)
    samples = {name: _sample(batch, name, options) for name in _names(batch, source, options)}
    time = _time_column(source, samples, options)
    columns, notes = [], []
    for name, values in samples.items():
        columns.append(time if name == time.name else _column(source, name, values, options))
        if not len(values) and name not in options.types and name != time.name:
            notes.append(
                f"{name} has no value in the first {batch.num_rows:,} rows and is sent as a string; "
                f"if it holds numbers give --type {name}=double"
            )
    return Layout(tuple(columns), time, batch.num_rows, tuple(notes))


def _names(batch: pa.RecordBatch, source: Source, options: ReadOptions) -> list[str]:
    """The columns to read, with those that the caller expects of later rows."""
    names = [name for name in batch.schema.names if name not in options.skip]
    names += [name for name in options.types if source.open_ended and name not in names]
    for option, asked in (("--type", options.types), ("--time-column", [options.time_column])):
        for name in asked:
            if name is not None and name not in names:
                close = get_close_matches(name, names, n=1) or names
                raise FileError(
                    f'{source.path.name}: there is no column "{name}", which {option} names; is it {_listed(close)}?'
                )
    return names


def _sample(batch: pa.RecordBatch, name: str, options: ReadOptions) -> pa.Array:
    """The column's values without the NULLs."""
    import pyarrow as pa

    return cleaned(batch.column(name), options).drop_null() if name in batch.schema.names else pa.nulls(0)


def _time_column(source: Source, samples: Mapping[str, pa.Array], options: ReadOptions) -> Column:
    formats: dict[str, list[str]] = {}
    for name, values in samples.items():
        chosen = name == options.time_column
        if (options.time_column and not chosen) or options.types.get(name, "timestamp") != "timestamp":
            continue
        says_time = chosen or SAYS_TIME.search(name) is not None
        if options.time_format is None:
            found = _time_formats(values, says_time)
        else:
            found = [options.time_format] if says_time and _fits(values, options.time_format) else []
        if found:
            formats[name] = found
        elif chosen and len(values):
            raise FileError(
                f'{source.path.name} column "{name}": {shown(values[0].as_py())} does not read as a time'
                f"{' in the format ' + options.time_format if options.time_format else ''}; "
                "give --time-format iso, s, ms, us, ns or a pattern such as '%d/%m/%Y %H:%M'"
            )
    if not formats:
        raise FileError(
            f"{source.path.name}: no column looks like a time among {_listed(samples)}; "
            "name it with --time-column and, if need be, --time-format"
        )
    rank = {name: place for place, name in enumerate(TIME_NAMES)}
    name = min(formats, key=lambda name: rank.get(name.lower(), len(rank)))
    if len(formats[name]) > 1:
        raise FileError(
            f'{source.path.name} column "{name}": {shown(samples[name][0].as_py())} can be read as '
            f"{' and as '.join(formats[name])}; say which with --time-format"
        )
    taken = any(other.lower() == "timestamp" for other in samples if other != name)
    sent_as = name if taken or options.keep_time_name else "timestamp"
    return Column(name, sent_as, "timestamp", formats[name][0])


def _column(source: Source, name: str, values: pa.Array, options: ReadOptions) -> Column:
    kind = options.types.get(name) or _type_of(source, name, values)
    if kind != "timestamp":
        return Column(name, name, kind)
    formats = _time_formats(values, says_time=True)
    if len(formats) != 1:
        raise FileError(
            f'{source.path.name} column "{name}": does not read as times in one way; give --type {name}=string'
        )
    return Column(name, name, kind, formats[0])


def _type_of(source: Source, name: str, values: pa.Array) -> FieldType:
    import pyarrow as pa

    kind = values.type
    if not len(values) or pa.types.is_time(kind):
        return "string"
    if pa.types.is_boolean(kind):
        return "boolean"
    if pa.types.is_integer(kind):
        return "integer"
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return "double"
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return "timestamp"
    if not pa.types.is_string(kind):
        raise FileError(
            f'{source.path.name} column "{name}": the service has no type for {kind}; leave it out with --skip {name}'
        )
    found = None if source.typed else _type_of_texts(values)
    return found or ("timestamp" if len(_time_formats(values, says_time=False)) == 1 else "string")


def _type_of_texts(values: pa.Array) -> FieldType | None:
    """The type that all the texts spell; None when they are neither truth values nor numbers."""
    import pyarrow as pa
    import pyarrow.compute as pc

    def all_match(pattern: str) -> bool:
        return bool(pc.all(pc.match_substring_regex(values, pattern)).as_py())

    if all_match("^(?i:true|false)$"):
        return "boolean"
    if all_match(r"^-?\d+$"):
        # As numbers, codes such as 00420 and ids of more than 18 digits would not come back as they were.
        padded = pc.any(pc.match_substring_regex(values, r"^-?0\d")).as_py()
        return "integer" if not padded and attempt(values.cast, pa.int64()) is not None else "string"
    numbers = attempt(values.cast, pa.float64())
    return "double" if numbers is not None and pc.any(pc.is_finite(numbers)).as_py() else None


def _time_formats(values: pa.Array, says_time: bool) -> list[str]:
    """The formats in which all the values are times; more than one when month and day cannot be told apart.

    Numbers count as times only when the column's name says so, and only between the years 2000 and 2100.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if not len(values):
        return []
    if pa.types.is_timestamp(values.type) or pa.types.is_date(values.type):
        return ["native"]
    numbers = attempt(values.cast, pa.float64())
    if numbers is not None:
        if not says_time or pa.types.is_boolean(values.type):
            return []
        low, high = pc.min_max(numbers).as_py().values()
        for unit, scale in EPOCH_PER_SECOND.items():
            if YEAR_2000_S * scale <= low and high <= YEAR_2100_S * scale:
                return [unit]
        values = attempt(values.cast, pa.string())
    if values is None or not pa.types.is_string(values.type):
        return []
    if _fits(values, "iso"):
        return ["iso"]
    patterns = [date + clock for date in DATES for clock in CLOCKS if _fits(values.slice(0, 1), date + clock)]
    return [pattern for pattern in patterns if _fits(values, pattern)]


def _fits(values: pa.Array, time_format: str) -> bool:
    return attempt(timestamps, values, time_format) is not None


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(f'"{name}"' for name in names[:20]) + (" …" if len(names) > 20 else "")
