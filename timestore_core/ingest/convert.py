"""Columns of any Arrow type into columns of the field types: exactly, or naming the row and column at fault."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from timestore_core.errors import InvalidRequest, Problem, TooLarge
from timestore_core.ingest.lenient import EXPECTED, MAX_PROBLEMS, lenient_column, row_path
from timestore_core.ingest.rows import ARROW_TYPES, FIRST_TIME_US, LAST_TIME_US
from timestore_core.ingest.texts import infer_type, text_column
from timestore_core.model import Field, FieldType

# How many of a unit make a second, for what Arrow calls a timestamp; days apart.
_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_DAY_US = 86_400_000_000


def field_columns(
    table: pa.Table, known: Mapping[str, FieldType], max_bytes: int, *, infer_texts: bool = False
) -> tuple[tuple[Field, ...], list[pa.ChunkedArray]]:
    """The table's columns as fields: of the known type where there is one, else of the type that they have.

    With `infer_texts` a column of strings whose type is not known is read as what all its values look like. A
    column without one value and without a known type is left out. Raises InvalidRequest naming each value that does
    not fit and each type that has no place here, TooLarge where columns would take more than `max_bytes`.
    """
    problems: list[Problem] = []
    fields: list[Field] = []
    columns = []
    if sum(map(_shared_bytes, table.columns)) > max_bytes:
        raise too_large("the text of all rows", max_bytes)
    for name, column in zip(table.column_names, table.columns, strict=True):
        try:
            natural = natural_type(_value_type(column.type))
            column = column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
        except _NoField as refused:
            problems.append(Problem(f"rows[*].{name}"[:300], str(refused)))
            continue
        is_plain_text = infer_texts and natural == "string" and name not in known
        type_ = infer_type(column) if is_plain_text else known.get(name, natural)
        if type_ is None:
            continue
        field = Field(name, type_)
        fields.append(field)
        columns.append(_converted(column, field, natural, problems))
        if len(problems) >= MAX_PROBLEMS:
            break
    if problems:
        raise InvalidRequest.of(problems)
    return tuple(fields), columns


def natural_type(type_: pa.DataType) -> FieldType | None:
    """The field type that holds every value of the Arrow type; None for Arrow's null. Raises for any other."""
    if pa.types.is_null(type_):
        return None
    if pa.types.is_timestamp(type_) or pa.types.is_date(type_):
        return "timestamp"
    if _is_text(type_):
        return "string"
    if pa.types.is_floating(type_):
        return "double"
    if pa.types.is_integer(type_):
        return "integer"
    if pa.types.is_boolean(type_):
        return "boolean"
    raise _NoField(
        f"has the type {str(type_)[:80]}, which has no place here; send a timestamp, string, double, 64-bit integer "
        "or boolean"
    )


class _NoField(Exception):
    pass


def _value_type(type_: pa.DataType) -> pa.DataType:
    return type_.value_type if pa.types.is_dictionary(type_) else type_


def _shared_bytes(column: pa.ChunkedArray) -> int:
    """The bytes of texts that may stand for many rows at once, as if each row had its own."""
    total = 0
    for chunk in column.chunks:
        if pa.types.is_dictionary(chunk.type) and _is_text(chunk.type.value_type):
            total += int(_lengths(chunk.dictionary)[_indices(chunk)].sum())
        elif pa.types.is_string_view(chunk.type):
            total += int(_lengths(chunk).sum())
    return total


def _is_text(type_: pa.DataType) -> bool:
    return bool(pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_string_view(type_))


def _lengths(texts: pa.Array) -> npt.NDArray[np.int64]:
    """The bytes of each of the texts, or any number where there is NULL."""
    if pa.types.is_string_view(texts.type):
        # Each view is sixteen bytes and begins with the length.
        views = np.frombuffer(texts.buffers()[1], np.int32)[::4]
        return views[texts.offset : texts.offset + len(texts)].astype(np.int64)
    lengths: npt.NDArray[np.int64] = pc.fill_null(pc.binary_length(texts).cast(pa.int64()), 0).to_numpy()
    return lengths


def _indices(chunk: pa.DictionaryArray) -> npt.NDArray[np.int64]:
    indices: npt.NDArray[np.int64] = pc.drop_null(chunk.indices).cast(pa.int64()).to_numpy()
    return indices


def too_large(what: str, max_bytes: int) -> TooLarge:
    """The error of a body that would take too much room once it is decoded."""
    return TooLarge(
        f"body: {what} takes more than {max_bytes} bytes when decoded, "
        "8 times TIMESTORE_INGEST_MAX_BODY_BYTES; send it in smaller parts",
        code="body_too_large",
    )


def _converted(
    column: pa.ChunkedArray, field: Field, natural: FieldType | None, problems: list[Problem]
) -> pa.ChunkedArray:
    target = ARROW_TYPES[field.type]
    if natural is None:
        return pa.chunked_array([pa.nulls(len(column), target)])
    if natural == "string" and field.type != "string":
        return text_column(column.cast(pa.string()), field, problems)
    if natural != field.type:
        return _other_type(column, field, natural, problems)
    if natural == "timestamp":
        return _times(column, field, problems)
    if natural == "integer" and column.type == pa.uint64():
        _refuse_where(
            pc.greater(column, pa.scalar(2**63 - 1, pa.uint64())), field.name, f"is not {EXPECTED['integer']}", problems
        )
        return column.cast(target, safe=False)
    return column if column.type == target else column.cast(target)


def _other_type(column: pa.ChunkedArray, field: Field, natural: FieldType, problems: list[Problem]) -> pa.ChunkedArray:
    """What JSON's rules convert, converted by them."""
    if natural == "timestamp" or field.type == "timestamp":
        problems.append(Problem(row_path(0, field.name), f"is {EXPECTED[natural]} and not {EXPECTED[field.type]}"))
        return pa.chunked_array([pa.nulls(len(column), ARROW_TYPES[field.type])])
    if natural == "integer" and field.type == "double":
        return column.cast(pa.float64(), safe=False)
    return pa.chunked_array([lenient_column(column.to_pylist(), field, problems, ARROW_TYPES[field.type])])


def _times(column: pa.ChunkedArray, field: Field, problems: list[Problem]) -> pa.ChunkedArray:
    """Times of any unit and zone as microseconds of UTC: a zone says how to show a time, not which one it is."""
    if pa.types.is_date32(column.type):
        numbers, unit_us, per_us = column.cast(pa.int32()).cast(pa.int64()), _DAY_US, 1
    else:
        per_second = _PER_SECOND["ms" if pa.types.is_date64(column.type) else column.type.unit]
        numbers = column.cast(pa.int64())
        unit_us, per_us = max(1_000_000 // per_second, 1), max(per_second // 1_000_000, 1)
    if per_us > 1:
        # Nanoseconds in 64 bits end in 2262.
        whole = pc.divide(numbers, per_us)
        too_fine = pc.not_equal(pc.multiply(whole, per_us), numbers)
        reason = "is finer than a microsecond, which would be rounded; send microseconds"
        _refuse_where(too_fine, field.name, reason, problems)
        return whole.cast(ARROW_TYPES["timestamp"])
    too_early = pc.less(numbers, -(-FIRST_TIME_US // unit_us))
    too_late = pc.greater(numbers, LAST_TIME_US // unit_us)
    reason = "is not a time between 0001-01-01 and 9999-12-31T23:59:59.999999Z"
    if _refuse_where(pc.or_(too_early, too_late), field.name, reason, problems):
        return pa.chunked_array([pa.nulls(len(column), ARROW_TYPES["timestamp"])])
    return (numbers if unit_us == 1 else pc.multiply(numbers, unit_us)).cast(ARROW_TYPES["timestamp"])


def _refuse_where(mask: Any, name: str, reason: str, problems: list[Problem]) -> bool:
    """Whether the mask is true for any row; a problem for the first of them."""
    if not pc.any(mask).as_py():
        return False
    rows = pc.indices_nonzero(pc.fill_null(mask, False))
    for row in rows.slice(0, max(MAX_PROBLEMS - len(problems), 0)).to_pylist():
        problems.append(Problem(row_path(row, name), reason))
    return True
