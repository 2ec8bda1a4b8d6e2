"""Opens CSV, NDJSON and Parquet files, compressed or not, and gives their rows as Arrow batches."""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from timestore_workers.columns import UNFIT, shown
from timestore_workers.files import BLOCK_BYTES, SAMPLE_ROWS, FileError, FileFormat, ReadOptions, Source

if TYPE_CHECKING:
    import pyarrow as pa

MAX_RECORD_BYTES = 16 * 1024 * 1024
COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".lz4": "lz4"}
FORMATS: dict[str, FileFormat] = {
    **dict.fromkeys((".csv", ".tsv", ".txt"), "csv"),
    **dict.fromkeys((".ndjson", ".jsonl", ".json"), "ndjson"),
    **dict.fromkeys((".parquet", ".pq"), "parquet"),
}
FOR_AN_ARRAY = "(an array becomes lines with: jq -c '.[]')"


def open_source(path: Path, options: ReadOptions) -> Source:
    """The file's reader, by `options.format` or by its name; FileError for a name that says nothing."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    match options.format or FORMATS.get(suffixes[-1] if suffixes else ""):
        case "csv":
            return _CsvSource(path, options)
        case "ndjson":
            return _NdjsonSource(path)
        case "parquet":
            return _ParquetSource(path)
        case None:
            raise FileError(f"{path.name}: its name tells no format; give --format csv, ndjson or parquet")


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
        super().__init__(path)
        delimiter = options.delimiter or ("\t" if ".tsv" in path.name.lower() else ",")
        self._delimiter = "\t" if delimiter == r"\t" else delimiter
        self._encoding = options.encoding
        if len(self._delimiter) != 1 or self._delimiter in '"\r\n':
            raise FileError(f"--delimiter {delimiter!r} is not one character that can stand between values")
        try:
            codecs.lookup(options.encoding)
        except LookupError:
            raise FileError(f"--encoding {options.encoding}: there is no such encoding") from None
        with self._read(()) as (_, reader):
            self._names: list[str] = reader.schema.names
        twice = next((name for name in self._names if self._names.count(name) > 1), None)
        if twice is not None:
            raise FileError(f'{path.name}: its first line names the column "{twice}" twice')
        if len(self._names) == 1 and (found := re.search(r"[;\t|]", self._names[0])):
            raise FileError(f"{path.name}: has one column only; give --delimiter '{found[0]}'")

    def batches(self) -> Iterator[pa.RecordBatch]:
        last: dict[str, str | None] = {}
        with self._read(self._names) as (raw, reader):
            for batch in reader:
                self.position = self.size_bytes if raw.closed else raw.tell()
                yield batch
                last = batch.slice(batch.num_rows - 1).to_pylist()[0] if batch.num_rows else last
        # Arrow takes a quote that is never closed as one value up to the end of the file.
        if any("\n" in value for value in last.values() if value) and self._quotes() % 2:
            raise FileError(f"{self.path.name}: the last value has a quote that is opened and never closed")

    def line_of(self, row: int) -> int | None:
        with self._text() as text:
            reader = csv.reader(text, delimiter=self._delimiter)
            try:
                return next(islice((reader.line_num for record in reader if record), row, None), None)
            except csv.Error:
                return None

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

    def _explained(self, reason: str, refused: Sequence[Any]) -> FileError:
        name = self.path.name
        if refused:
            bad, row = refused[-1], refused[-1].number - 1
            return FileError(
                f"{name} row {row:,} (line {self.line_of(row)}): has {bad.actual_columns} values, "
                f"but the first line names {bad.expected_columns} columns: {shown(bad.text)}"
            )
        if "straddling" in reason:
            return FileError(f"{name}: a row is longer than {BLOCK_BYTES:,} bytes; is a quote never closed?")
        if "UTF8" in reason:
            return FileError(f"{name}: is not UTF-8 text; give its --encoding, such as latin-1 ({reason})")
        return FileError(f"{name}: {reason}")

    def _quotes(self) -> int:
        with self._text() as text:
            return sum(block.count('"') for block in iter(lambda: text.read(BLOCK_BYTES), ""))

    @contextmanager
    def _text(self) -> Iterator[IO[str]]:
        with _opened(self.path) as (_, stream):
            yield io.TextIOWrapper(io.BufferedReader(stream), self._encoding, "replace", newline="")


class _NdjsonSource(Source):
    """Each line is decoded for itself: Arrow's JSON reader makes long integers doubles and names no row."""

    open_ended = True

    def batches(self) -> Iterator[pa.RecordBatch]:
        with _opened(self.path) as (raw, stream):
            lines = self._lines(stream)
            while rows := [self._row(number, line) for number, line in islice(lines, SAMPLE_ROWS)]:
                self.position = self.size_bytes if raw.closed else raw.tell()
                yield _batch_of(rows)

    def line_of(self, row: int) -> int | None:
        with _opened(self.path) as (_, stream):
            return next(islice((number for number, _ in self._lines(stream)), row - 1, None), None)

    def _lines(self, stream: Any) -> Iterator[tuple[int, bytes]]:
        """The lines that are not blank, and their numbers."""
        lines = io.BufferedReader(stream, BLOCK_BYTES)
        for number, line in enumerate(iter(lambda: lines.readline(MAX_RECORD_BYTES), b""), 1):
            if len(line) == MAX_RECORD_BYTES:
                raise FileError(
                    f"{self.path.name} line {number:,}: is longer than {MAX_RECORD_BYTES:,} bytes; each line "
                    f"must be one JSON object {FOR_AN_ARRAY}"
                )
            if text := line.removeprefix(codecs.BOM_UTF8).strip():
                yield number, text

    def _row(self, number: int, line: bytes) -> dict[str, Any]:
        import jiter

        try:
            row = jiter.from_json(line, catch_duplicate_keys=True)
        except ValueError as error:
            raise FileError(f"{self.path.name} line {number:,}: is not JSON: {error}") from None
        if not isinstance(row, dict):
            raise FileError(
                f"{self.path.name} line {number:,}: is not a JSON object; each line must be one {FOR_AN_ARRAY}"
            )
        return row


def _batch_of(rows: Sequence[Mapping[str, Any]]) -> pa.RecordBatch:
    """JSON objects as columns; a column of mixed kinds, of objects or of arrays becomes their text."""
    import pyarrow as pa

    arrays = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row.get(name) for row in rows]
        try:
            array = pa.array(values)
        except (*UNFIT, TypeError):
            array = None
        if array is None or pa.types.is_nested(array.type):
            texts = (v if v is None or isinstance(v, str) else json.dumps(v, ensure_ascii=False) for v in values)
            array = pa.array(texts, pa.string())
        arrays[name] = array
    return pa.RecordBatch.from_pydict(arrays)


class _ParquetSource(Source):
    def batches(self) -> Iterator[pa.RecordBatch]:
        import pyarrow.parquet as pq

        with _opened(self.path) as (raw, _), pq.ParquetFile(raw, pre_buffer=False) as file:
            rows = 0
            for batch in file.iter_batches(SAMPLE_ROWS):
                rows += batch.num_rows
                self.position = self.size_bytes * rows // file.metadata.num_rows
                yield batch

    def line_of(self, row: int) -> int | None:
        """None: the file has no lines."""
