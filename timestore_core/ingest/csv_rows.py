"""A CSV body into columns: a header line, then a row a line. An empty cell is NULL, `""` an empty string."""

from __future__ import annotations

import csv
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from timestore_core.errors import InvalidRequest
from timestore_core.ingest.convert import field_columns
from timestore_core.ingest.limits import Limits, check_names
from timestore_core.ingest.rows import ARROW_TYPES
from timestore_core.ingest.texts import is_utf8
from timestore_core.model import Field, FieldType

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# One character of a header costs more as a Python string than as a cell.
_MAX_HEADER_BYTES = 1_000_000


def read_csv(
    body: bytes, known: Mapping[str, FieldType], limits: Limits
) -> tuple[tuple[Field, ...], list[pa.ChunkedArray]]:
    """The rows' columns, named by the header. Raises InvalidRequest for what is no CSV of these types."""
    if not is_utf8(body):
        raise InvalidRequest.at("rows", "are not UTF-8")
    names, start = _header(body)
    check_names(names, limits)
    quoted = b'"' in body
    if quoted and body.count(b'"') % 2:
        raise InvalidRequest.at("rows", "hold an odd number of quotes: one is not closed")
    if not quoted:
        limits.check_rows(body.count(b"\n", start))
    rows = memoryview(body)[start:]
    # Arrow reads 0x10 as sixteen. One letter is found much faster than two.
    may_be_hexadecimal = (b"x" in body and b"0x" in body) or (b"X" in body and b"0X" in body)
    table = None if may_be_hexadecimal else _typed(rows, names, known)
    if table is None:
        table = _table(rows, names, dict.fromkeys(names, pa.string()))
    limits.check_rows(table.num_rows)
    return field_columns(table, known, limits.decoded_bytes, infer_texts=True)


def _header(body: bytes) -> tuple[list[str], int]:
    """The names of the first line, and where the rows begin."""
    begin = len(_BYTE_ORDER_MARK) if body.startswith(_BYTE_ORDER_MARK) else 0
    end = body.find(b"\n", begin)
    line = body[begin : end if end >= 0 else len(body)]
    if len(line) > _MAX_HEADER_BYTES:
        raise InvalidRequest.at("header", f"has more than {_MAX_HEADER_BYTES} bytes")
    try:
        names = next(csv.reader([line.decode().rstrip("\r")], strict=True), [])
    except csv.Error as error:
        raise InvalidRequest.at("header", f"cannot be read: {error}") from None
    if not names:
        raise InvalidRequest.at("header", "is missing: the first line names the columns")
    return names, end + 1 if end >= 0 else len(body)


def _typed(rows: memoryview, names: list[str], known: Mapping[str, FieldType]) -> pa.Table | None:
    """The cells by Arrow's own conversions, or None where they do not fit or it reads more than we do."""
    # Times are left to Arrow: whether they have a zone is seen from them.
    types = {name: ARROW_TYPES[known[name]] for name in names if known.get(name, "timestamp") != "timestamp"}
    try:
        table = _table(rows, names, types)
    except InvalidRequest:
        return None
    return (
        table
        if all(_is_plain(column, known.get(name)) for name, column in zip(names, table.columns, strict=True))
        else None
    )


def _is_plain(column: pa.ChunkedArray, known: FieldType | None) -> bool:
    """Whether what Arrow made of the cells is what they would be by our rules."""
    if pa.types.is_floating(column.type):
        return pc.all(pc.is_finite(column)).as_py() is not False
    if known == "timestamp":
        return bool(
            pa.types.is_timestamp(column.type) or pa.types.is_date(column.type) or pa.types.is_null(column.type)
        )
    return not pa.types.is_time(column.type) and not pa.types.is_binary(column.type)


def _table(rows: memoryview, names: list[str], types: Mapping[str, pa.DataType]) -> pa.Table:
    """The cells, of the given types or of those that Arrow finds for the whole column."""
    if not len(rows):
        return pa.table({name: pa.nulls(0, types.get(name, pa.null())) for name in names})
    try:
        return pa_csv.read_csv(
            pa.BufferReader(pa.py_buffer(rows)),
            # In one block: types are found from the first, and a quoted text may go over lines.
            read_options=pa_csv.ReadOptions(column_names=names, block_size=len(rows) + 1),
            parse_options=pa_csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=len(names) > 1),
            convert_options=pa_csv.ConvertOptions(
                column_types=types,
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
                check_utf8=False,
            ),
        )
    except pa.ArrowInvalid as error:
        # "CSV parse error: Expected 2 columns, got 3: <the row>": without what the row holds.
        text = str(error).split(": ")
        raise InvalidRequest.at("rows", f"cannot be read: {': '.join(text[:2])[:200]}") from None
