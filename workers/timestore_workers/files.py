"""Files of time series, read in bounded memory as Arrow tables of the service's types.

`open_source` opens CSV, NDJSON or Parquet, `infer_layout` settles the columns' types and the time column from
the first rows, `read_tables` reads and converts everything. A value that does not fit ends the reading with a
`FileError` that names row, column, value and the option that helps; nothing is rounded or dropped silently.
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from timestore_core.errors import TimestoreError
from timestore_core.model import FieldType
from timestore_core.times import parse_time_us, to_us

if TYPE_CHECKING:
    import pyarrow as pa

SAMPLE_ROWS = 10_000
BLOCK_BYTES = 4 * 1024 * 1024
MAX_RECORD_BYTES = 16 * 1024 * 1024
NULL_TEXTS = ("", "NA", "N/A", "#N/A", "n/a", "NULL", "null", "None")
EPOCH_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
TIME_NAMES = ("timestamp", "time", "datetime", "date", "ts")
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
SUFFIXES = {
    **dict.fromkeys((".csv", ".tsv", ".txt"), "csv"),
    **dict.fromkeys((".ndjson", ".jsonl", ".json"), "ndjson"),
    **dict.fromkeys((".parquet", ".pq"), "parquet"),
}
COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".lz4": "lz4"}
UNFIT = (ValueError, OverflowError, NotImplementedError)
"""What a conversion that does not fit raises; Arrow's exceptions are subclasses of these."""


class FileError(TimestoreError):
    """A file cannot be read, or not as asked; the message names the place and the option that helps."""

    default_code = "file"


class _UnfitError(ValueError):
    """A value does not fit its column, and the text says why."""


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """What the caller knows better than inference. Names are the file's own."""

    format: str | None = None
    types: Mapping[str, FieldType] = field(default_factory=dict)
    skip: frozenset[str] = frozenset()
    time_column: str | None = None
    time_format: str | None = None
    keep_time_name: bool = False
    null_texts: tuple[str, ...] = ()
    nan_as_null: bool = False
    delimiter: str | None = None
    encoding: str = "utf-8"


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


@dataclass(frozen=True, slots=True)
class Layout:
    """How a file is read: its columns in order, which of them is the time, and what the user should know."""

    columns: tuple[Column, ...]
    time: Column
    sample_rows: int
    notes: tuple[str, ...]


class Source:
    """An open file. `position` of `size_bytes` is how far `batches` has come.

    `typed` says that the file itself tells text from numbers, `open_ended` that later rows may bring columns.
    """

    typed = True
    open_ended = False

    def __init__(self, path: Path, options: ReadOptions) -> None:  # noqa: ARG002
        self.path, self.position, self._opened_as = path, 0, path.stat()
        self.size_bytes = self._opened_as.st_size

    def changed(self) -> bool:
        """Whether somebody wrote to the file since it was opened."""
        now, then = self.path.stat(), self._opened_as
        return (now.st_size, now.st_mtime_ns) != (then.st_size, then.st_mtime_ns)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """All rows from the beginning, as the file has them."""
        raise NotImplementedError

    def line_of(self, row: int) -> int | None:  # noqa: ARG002
        """The line on which the row (1 is the first) ends; None where the file has no lines."""
        return None


def open_source(path: Path, options: ReadOptions) -> Source:
    """The file's reader, by `options.format` or by its name; FileError for a name that says nothing."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    kind = options.format or SUFFIXES.get(suffixes[-1] if suffixes else "")
    if kind is None:
        raise FileError(f"{path.name}: its name tells no format; give --format csv, ndjson or parquet")
    sources: dict[str, type[Source]] = {"csv": _CsvSource, "ndjson": _NdjsonSource, "parquet": _ParquetSource}
    return sources[kind](path, options)


def content_hash(path: Path, on_bytes: Callable[[int], None]) -> str:
    """SHA-256 of the file as it lies on disk; `on_bytes` is told the bytes read so far."""
    digest, read = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
            on_bytes(read := read + len(block))
    return digest.hexdigest()


def read_tables(source: Source, layout: Layout, options: ReadOptions, batch_rows: int) -> Iterator[pa.Table]:
    """The file's rows in tables of `batch_rows` (the last may be shorter), converted to the service's types.

    Times are `timestamp[us]` in UTC; the others `string`, `double`, `int64`, `bool`. Raises FileError at the
    first value that does not fit and at the first row without a time.
    """
    import pyarrow as pa

    held: list[pa.RecordBatch] = []
    held_rows = rows = 0
    for batch in source.batches():
        held.append(_converted(batch, rows, source, layout, options))
        rows += batch.num_rows
        held_rows += batch.num_rows
        if held_rows >= batch_rows:
            table = pa.Table.from_batches(held)
            whole = held_rows - held_rows % batch_rows
            for start in range(0, whole, batch_rows):
                yield table.slice(start, batch_rows)
            held, held_rows = table.slice(whole).to_batches(), held_rows - whole
    if held_rows:
        yield pa.Table.from_batches(held)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[IO[bytes], Any]]:
    """The raw file, whose `tell` is the progress, and the stream of its decompressed bytes."""
    import pyarrow as pa

    try:
        with path.open("rb") as raw:
            stream = pa.PythonFile(raw, mode="r")
            codec = COMPRESSIONS.get(path.suffix.lower())
            yield raw, pa.CompressedInputStream(stream, codec) if codec else stream
    except (OSError, pa.ArrowInvalid) as error:
        raise FileError(f"{path.name}: cannot be read: {error}") from error


class _CsvSource(Source):
    """Every column is read as text, so that conversion, and what to say when it fails, is ours."""

    typed = False

    def __init__(self, path: Path, options: ReadOptions) -> None:
        super().__init__(path, options)
        delimiter = options.delimiter or ("\t" if ".tsv" in path.name.lower() else ",")
        self._delimiter = "\t" if delimiter == r"\t" else delimiter
        self._encoding = options.encoding
        if len(self._delimiter) != 1 or self._delimiter in '"\r\n':
            raise FileError(f"--delimiter {delimiter!r} is not one character that can stand between values")
        try:
            codecs.lookup(options.encoding)
        except LookupError:
            raise FileError(f"--encoding {options.encoding}: there is no such encoding") from None
        self._names: list[str] = []
        with self._read(()) as (_, reader):
            self._names = reader.schema.names
        twice = next((name for name in self._names if self._names.count(name) > 1), None)
        if twice is not None:
            raise FileError(f'{path.name}: its first line names the column "{twice}" twice')
        if len(self._names) == 1 and (found := re.search(r"[;\t|]", self._names[0])):
            raise FileError(f"{path.name}: has one column only; give --delimiter '{found[0]}'")

    @contextmanager
    def _read(self, names: Iterable[str]) -> Iterator[tuple[IO[bytes], Any]]:
        import pyarrow as pa
        from pyarrow import csv as arrow_csv

        refused: list[Any] = []

        def refuse(row: Any) -> str:
            refused.append(row)
            return "error"

        # Without threads Arrow can number the rows that it refuses.
        reading = arrow_csv.ReadOptions(block_size=BLOCK_BYTES, use_threads=False, encoding=self._encoding)
        parsing = arrow_csv.ParseOptions(delimiter=self._delimiter, newlines_in_values=True, invalid_row_handler=refuse)
        converting = arrow_csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()),
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        )
        with _opened(self.path) as (raw, stream):
            try:
                yield raw, arrow_csv.open_csv(stream, reading, parsing, converting)
            except pa.ArrowInvalid as error:
                raise self._explained(str(error), refused) from error

    def batches(self) -> Iterator[pa.RecordBatch]:
        last: dict[str, str | None] = {}
        with self._read(self._names) as (raw, reader):
            for batch in reader:
                self.position = self.size_bytes if raw.closed else raw.tell()
                yield batch
                last = batch.slice(max(0, batch.num_rows - 1)).to_pylist()[0] if batch.num_rows else last
        # Arrow takes a quote that is never closed as one value up to the end of the file.
        if any("\n" in value for value in last.values() if value) and self._quotes() % 2:
            raise FileError(f"{self.path.name}: the last value has a quote that is opened and never closed")

    @contextmanager
    def _text(self) -> Iterator[IO[str]]:
        with _opened(self.path) as (_, stream):
            yield io.TextIOWrapper(io.BufferedReader(stream), self._encoding, "replace", newline="")

    def _quotes(self) -> int:
        with self._text() as text:
            return sum(block.count('"') for block in iter(lambda: text.read(BLOCK_BYTES), ""))

    def line_of(self, row: int) -> int | None:
        with self._text() as text:
            reader = csv.reader(text, delimiter=self._delimiter)
            try:
                return next(islice((reader.line_num for record in reader if record), row, None), None)
            except csv.Error:
                return None

    def _explained(self, reason: str, refused: Sequence[Any]) -> FileError:
        name = self.path.name
        if refused:
            bad, row = refused[-1], refused[-1].number - 1
            return FileError(
                f"{name} row {row:,} (line {self.line_of(row)}): has {bad.actual_columns} values, "
                f"but the first line names {bad.expected_columns} columns: {_shown(bad.text)}"
            )
        if "straddling" in reason:
            return FileError(f"{name}: a row is longer than {BLOCK_BYTES:,} bytes; is a quote never closed?")
        if "UTF8" in reason:
            return FileError(f"{name}: is not UTF-8 text; give its --encoding, such as latin-1 ({reason})")
        return FileError(f"{name}: {reason}")


class _NdjsonSource(Source):
    """Each line is decoded for itself: Arrow's JSON reader makes long integers doubles and names no row."""

    open_ended = True

    def _lines(self, stream: Any) -> Iterator[tuple[int, bytes]]:
        lines = io.BufferedReader(stream, BLOCK_BYTES)
        for number, line in enumerate(iter(lambda: lines.readline(MAX_RECORD_BYTES), b""), 1):
            if len(line) == MAX_RECORD_BYTES:
                raise FileError(
                    f"{self.path.name} line {number:,}: is longer than {MAX_RECORD_BYTES:,} bytes; each line "
                    "must be one JSON object (an array becomes lines with: jq -c '.[]')"
                )
            if text := line.removeprefix(b"\xef\xbb\xbf").strip():
                yield number, text

    def batches(self) -> Iterator[pa.RecordBatch]:
        with _opened(self.path) as (raw, stream):
            lines = self._lines(stream)
            while rows := [self._row(number, line) for number, line in islice(lines, SAMPLE_ROWS)]:
                self.position = self.size_bytes if raw.closed else raw.tell()
                yield _batch_of(rows)

    def _row(self, number: int, line: bytes) -> dict[str, Any]:
        import jiter

        try:
            row = jiter.from_json(line, catch_duplicate_keys=True)
        except ValueError as error:
            raise FileError(f"{self.path.name} line {number:,}: is not JSON: {error}") from None
        if not isinstance(row, dict):
            raise FileError(
                f"{self.path.name} line {number:,}: is not a JSON object; each line must be one "
                "(an array becomes lines with: jq -c '.[]')"
            )
        return row

    def line_of(self, row: int) -> int | None:
        with _opened(self.path) as (_, stream):
            return next(islice((number for number, _ in self._lines(stream)), row - 1, None), None)


class _ParquetSource(Source):
    def batches(self) -> Iterator[pa.RecordBatch]:
        import pyarrow.parquet as pq

        with _opened(self.path) as (raw, _), pq.ParquetFile(raw, pre_buffer=False) as file:
            rows = 0
            for batch in file.iter_batches(SAMPLE_ROWS):
                rows += batch.num_rows
                self.position = self.size_bytes * rows // file.metadata.num_rows
                yield batch


def _batch_of(rows: Sequence[Mapping[str, Any]]) -> pa.RecordBatch:
    """JSON objects as columns; a column of mixed kinds, of objects or of arrays becomes their text."""
    import pyarrow as pa

    names: dict[str, Any] = {}
    for row in rows:
        names.update(row)
    arrays = []
    for name in names:
        values = [row.get(name) for row in rows]
        try:
            array = pa.array(values)
        except (*UNFIT, TypeError):
            array = None
        if array is None or pa.types.is_nested(array.type):
            texts = (v if v is None or isinstance(v, str) else json.dumps(v, ensure_ascii=False) for v in values)
            array = pa.array(texts, pa.string())
        arrays.append(array)
    return pa.RecordBatch.from_arrays(arrays, names=list(names))


def infer_layout(source: Source, options: ReadOptions) -> Layout:
    """Settles every column's type and which column is the time, from the first rows and what the caller said.

    Raises FileError when there are no rows, when an option names a column that is not there, when no column
    or only an ambiguous one reads as times, and for a column that the service has no type for.
    """
    batch = next((batch for batch in source.batches() if batch.num_rows), None)
    if batch is None:
        raise FileError(f"{source.path.name}: has no rows")
    batch = batch.slice(0, SAMPLE_ROWS)
    known = [name for name in batch.schema.names if name not in options.skip]
    names = known + [name for name in options.types if source.open_ended and name not in known]
    for option, asked in (("--type", options.types), ("--time-column", [options.time_column])):
        for name in asked:
            if name is not None and name not in names:
                close = get_close_matches(name, names, n=1) or names
                raise FileError(
                    f'{source.path.name}: there is no column "{name}", which {option} names; is it {_listed(close)}?'
                )
    samples = {name: _sample(batch, name, options) for name in names}
    time = _time_column(source, samples, options)
    columns, notes = [], []
    for name in names:
        if name == time.name:
            columns.append(time)
            continue
        kind = options.types.get(name) or _type_of(source, name, samples[name])
        time_format = None
        if kind == "timestamp":
            formats = _time_formats(samples[name], says_time=True)
            if len(formats) != 1:
                raise FileError(
                    f'{source.path.name} column "{name}": does not read as times in one way; give --type {name}=string'
                )
            time_format = formats[0]
        elif not len(samples[name]) and name not in options.types:
            notes.append(
                f"{name} has no value in the first {batch.num_rows:,} rows and is sent as a string; "
                f"if it holds numbers give --type {name}=double"
            )
        columns.append(Column(name, name, kind, time_format))
    return Layout(tuple(columns), time, batch.num_rows, tuple(notes))


def _sample(batch: pa.RecordBatch, name: str, options: ReadOptions) -> pa.Array:
    """The column's values without the NULLs."""
    import pyarrow as pa

    if name not in batch.schema.names:
        return pa.nulls(0)
    array = _plain(batch.column(name))
    return (_cleaned(array, options) if pa.types.is_string(array.type) else array).drop_null()


def _time_column(source: Source, samples: Mapping[str, pa.Array], options: ReadOptions) -> Column:
    formats: dict[str, list[str]] = {}
    for name, values in samples.items():
        chosen = name == options.time_column
        if (options.time_column or name) != name or options.types.get(name, "timestamp") != "timestamp":
            continue
        says_time = chosen or re.search(r"time|date|epoch|(^|_)(ts|at)(_|$)", name, re.IGNORECASE) is not None
        if options.time_format is None:
            found = _time_formats(values, says_time)
        else:
            found = [options.time_format] if says_time and _fits(values, options.time_format) else []
        if found:
            formats[name] = found
        elif chosen and len(values):
            raise FileError(
                f'{source.path.name} column "{name}": {_shown(values[0].as_py())} does not read as a time'
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
            f'{source.path.name} column "{name}": {_shown(samples[name][0].as_py())} can be read as '
            f"{' and as '.join(formats[name])}; say which with --time-format"
        )
    free = not any(other.lower() == "timestamp" for other in samples if other != name)
    return Column(name, "timestamp" if free and not options.keep_time_name else name, "timestamp", formats[name][0])


def _type_of(source: Source, name: str, values: pa.Array) -> FieldType:
    import pyarrow as pa
    import pyarrow.compute as pc

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

    def all_match(pattern: str) -> bool:
        return bool(pc.all(pc.match_substring_regex(values, pattern)).as_py())

    if not source.typed:
        if all_match("^(?i:true|false)$"):
            return "boolean"
        if all_match(r"^-?\d+$"):
            # As numbers, codes such as 00420 and ids of more than 18 digits would not come back as they were.
            padded = pc.any(pc.match_substring_regex(values, r"^-?0\d")).as_py()
            return "integer" if not padded and _attempt(values.cast, pa.int64()) is not None else "string"
        numbers = _attempt(values.cast, pa.float64())
        if numbers is not None and pc.any(pc.is_finite(numbers)).as_py():
            return "double"
    return "timestamp" if len(_time_formats(values, says_time=False)) == 1 else "string"


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
    numbers = _attempt(values.cast, pa.float64())
    if numbers is not None:
        if not says_time or pa.types.is_boolean(values.type):
            return []
        low, high = pc.min_max(numbers).as_py().values()
        for unit, scale in EPOCH_PER_SECOND.items():
            if 946_684_800 * scale <= low and high <= 4_102_444_800 * scale:
                return [unit]
        values = _attempt(values.cast, pa.string())
    if values is None or not pa.types.is_string(values.type):
        return []
    if _fits(values, "iso"):
        return ["iso"]
    patterns = [date + clock for date in DATES for clock in CLOCKS if _fits(values.slice(0, 1), date + clock)]
    return [pattern for pattern in patterns if _fits(values, pattern)]


def _fits(values: pa.Array, time_format: str) -> bool:
    return _attempt(_timestamps, values, time_format) is not None


def _attempt(convert: Callable[..., Any], *arguments: Any) -> Any:
    """The conversion's result, or None when the values do not fit."""
    try:
        return convert(*arguments)
    except UNFIT:
        return None


def _converted(
    batch: pa.RecordBatch, rows_before: int, source: Source, layout: Layout, options: ReadOptions
) -> pa.RecordBatch:
    import pyarrow as pa

    def place(name: str, index: int) -> str:
        row = rows_before + index + 1
        line = source.line_of(row)
        return f'{source.path.name} row {row:,}{f" (line {line:,})" if line else ""}, column "{name}"'

    late = set(batch.schema.names) - {column.name for column in layout.columns} - options.skip
    for name in sorted(late):
        index = batch.column(name).is_valid().index(True).as_py()
        if index < 0:
            continue
        raise FileError(
            f"{place(name, index)}: the first {layout.sample_rows:,} rows have no such column; "
            f"give --type {name}=string (or double, integer, boolean, timestamp) or --skip {name}"
        )
    arrays = []
    for column in layout.columns:
        given = batch.column(column.name) if column.name in batch.schema.names else pa.nulls(batch.num_rows)
        try:
            array = _convert(given, column, options)
        except UNFIT:
            index, reason = _first_unfit(given, column, options)
            raise FileError(
                f"{place(column.name, index)}: {_advice(given[index], column, reason, layout, options)}"
            ) from None
        if column is layout.time and array.null_count:
            index = array.is_null().index(True).as_py()
            raise FileError(f"{place(column.name, index)}: has no time; every row needs one")
        arrays.append(array)
    return pa.RecordBatch.from_arrays(arrays, names=[column.sent_as for column in layout.columns])


def _first_unfit(array: pa.Array, column: Column, options: ReadOptions) -> tuple[int, Exception]:
    """Halves the array until one value is left that does not convert."""
    low, high = 0, len(array)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (
            (low, middle)
            if _attempt(_convert, array.slice(low, middle - low), column, options) is None
            else (middle, high)
        )
    try:
        _convert(array.slice(low, 1), column, options)
    except UNFIT as error:
        return low, error
    raise AssertionError("the array converts after all")


def _advice(value: pa.Scalar, column: Column, reason: Exception, layout: Layout, options: ReadOptions) -> str:
    import pyarrow as pa

    name = column.name
    # Python's own times hold no nanoseconds.
    shown = _shown((value.cast(pa.string()) if pa.types.is_timestamp(value.type) else value).as_py())
    if column.type == "double" and isinstance(reason, _UnfitError):
        return f"{shown} {reason}; --nan-as-null sends such values as NULL"
    if column.type == "timestamp":
        why = str(reason) if isinstance(reason, _UnfitError) else f"is not a time of the format {column.time_format}"
        return f"{shown} {why}" if column is layout.time else f"{shown} {why}; give --type {name}=string"
    if column.type == "string":
        return f"cannot be sent as text ({reason}); leave the column out with --skip {name}"
    as_double = Column(name, name, "double")
    fits_double = _attempt(_convert, pa.array([value.as_py()], value.type), as_double, options) is not None
    wider = "double" if column.type == "integer" and fits_double else "string"
    article = "an" if column.type == "integer" else "a"
    asked = "as --type says" if name in options.types else f"as the first {layout.sample_rows:,} rows are"
    return (
        f"{shown} is not {article} {column.type}, {asked}; give --type {name}={wider}, "
        f"or --null with that text if it stands for no value"
    )


def _plain(array: pa.Array) -> pa.Array:
    """The array without dictionary encoding, and with one kind of text instead of three."""
    import pyarrow as pa

    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    text = pa.types.is_large_string(array.type) or pa.types.is_string_view(array.type)
    return array.cast(pa.string()) if text else array


def _cleaned(texts: pa.Array, options: ReadOptions) -> pa.Array:
    import pyarrow as pa
    import pyarrow.compute as pc

    texts = pc.utf8_trim_whitespace(texts)
    nulls = pa.array([*NULL_TEXTS, *options.null_texts])
    return pc.if_else(pc.is_in(texts, value_set=nulls), pa.scalar(None, pa.string()), texts)


def _convert(array: pa.Array, column: Column, options: ReadOptions) -> pa.Array:
    """The array in the column's type. Raises one of UNFIT when a value does not fit or would change."""
    import pyarrow as pa
    import pyarrow.compute as pc

    array = _plain(array)
    text = pa.types.is_string(array.type)
    if column.type == "string":
        if text and options.null_texts:
            null = pc.is_in(array, value_set=pa.array(options.null_texts))
            array = pc.if_else(null, pa.scalar(None, pa.string()), array)
        return array.cast(pa.string())
    if text:
        array = _cleaned(array, options)
    if column.type == "timestamp":
        return _timestamps(array, column.time_format or "native")
    if column.type == "integer":
        return array.cast(pa.int64())
    if column.type == "boolean":
        return array.cast(pa.string()).cast(pa.bool_())
    doubles = array.cast(pa.float64())
    finite = pc.is_finite(doubles)
    if pc.all(finite).as_py() is False:
        if not options.nan_as_null:
            raise _UnfitError("is not a finite number, which JSON cannot hold")
        doubles = pc.if_else(finite, doubles, pa.scalar(None, pa.float64()))
    return doubles


def _timestamps(array: pa.Array, time_format: str) -> pa.Array:
    """Times in UTC to the microsecond, exactly; a time without a zone is UTC."""
    import pyarrow as pa
    import pyarrow.compute as pc

    us = pa.timestamp("us")
    if pa.types.is_null(array.type):
        return array.cast(us)
    if time_format == "native":
        times = _attempt(array.cast, us)
        if times is None:
            raise _UnfitError("is finer than a microsecond, which would be rounded")
    elif time_format in EPOCH_PER_SECOND:
        times = _from_epoch(array, EPOCH_PER_SECOND[time_format])
    elif time_format == "iso":
        texts = array.cast(pa.string())
        times = _attempt(texts.cast, us) or _attempt(texts.cast, pa.timestamp("us", "UTC"))
        times = times.cast(us) if times is not None else _one_by_one(texts, parse_time_us)
    else:
        texts = array.cast(pa.string())
        times = None
        if not re.search("%[fzZ]", time_format):
            seconds = pc.strptime(texts, format=time_format, unit="s", error_is_null=True)
            # Arrow reads 30 February as 1 March: only what it writes back the same was a time.
            same = pc.equal(pc.strftime(seconds, format=time_format), texts)
            if pc.all(pc.fill_null(same, pc.is_null(texts))).as_py() is not False:
                times = seconds.cast(us)
        if times is None:
            times = _one_by_one(texts, lambda text: _strptime_us(text, time_format))
    year_1, year_10000 = -62_135_596_800_000_000, 253_402_300_800_000_000
    bounds = pc.min_max(times.cast(pa.int64())).as_py()
    if bounds["min"] is not None and not year_1 <= bounds["min"] <= bounds["max"] < year_10000:
        raise _UnfitError("is not between the years 1 and 9999")
    return times


def _from_epoch(array: pa.Array, per_second: int) -> pa.Array:
    import pyarrow as pa
    import pyarrow.compute as pc

    whole = _attempt(array.cast, pa.int64())
    if whole is None:
        # A double holds the microsecond of a time of this century, and nothing finer.
        whole = pc.round(pc.multiply(array.cast(pa.float64()), 1_000_000 / per_second)).cast(pa.int64())
    elif per_second <= 1_000_000:
        whole = pc.multiply_checked(whole, 1_000_000 // per_second)
    else:
        fine, whole = whole, pc.divide(whole, 1000)
        if pc.all(pc.equal(pc.multiply(whole, 1000), fine)).as_py() is False:
            raise _UnfitError("is finer than a microsecond, which would be rounded")
    return whole.cast(pa.timestamp("us"))


def _one_by_one(texts: pa.Array, parse_us: Callable[[str], int]) -> pa.Array:
    import pyarrow as pa

    try:
        values = [None if text is None else parse_us(text) for text in texts.to_pylist()]
    except ValueError as error:
        raise _UnfitError(str(error)) from None
    return pa.array(values, pa.int64()).cast(pa.timestamp("us"))


def _strptime_us(text: str, pattern: str) -> int:
    try:
        moment = datetime.strptime(text, pattern)
    except ValueError:
        raise ValueError(f"is not a time of the format {pattern}") from None
    return to_us(moment if moment.tzinfo else moment.replace(tzinfo=UTC))


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else text[:80] + "…"


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(f'"{name}"' for name in names[:20]) + (" …" if len(names) > 20 else "")
