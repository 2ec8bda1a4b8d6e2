"""Minimum, maximum and NULLs of each column, for ruling files out without opening them."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import pyarrow as pa
import pyarrow.compute as pc

from timestore_core.model import ColumnStatistics, FieldType, Schema

# Bounds of a string column are cut to this many characters, so that one long text cannot bloat the catalog.
BOUND_LENGTH = 64
# A string column's values are all noted where they are few and short.
MAX_VALUES = 128
_MAX_VALUES_LENGTH = 2048


def column_statistics(schema: Schema, rows: pa.Table) -> Mapping[str, ColumnStatistics]:
    """The statistics of every column of the schema; times as microseconds."""
    return {field.name: _statistics(field.type, rows.column(field.name)) for field in schema.fields}


def _statistics(type_: FieldType, column: pa.ChunkedArray) -> ColumnStatistics:
    nulls = column.null_count
    if nulls == len(column):
        return ColumnStatistics(None, None, nulls)
    ends = pc.min_max(column.cast(pa.int64()) if type_ == "timestamp" else column).as_py()
    low, high = ends["min"], ends["max"]
    if type_ == "double":
        return _double_statistics(low, high, nulls, has_nan=pc.any(pc.is_nan(column)).as_py())
    if type_ != "string":
        return ColumnStatistics(low, high, nulls)
    distinct = pc.unique(column)
    values = few_values(distinct.to_pylist()) if len(distinct) <= MAX_VALUES + 1 else None
    # A cut maximum is below the true one: it is marked, and then only the minimum may rule a file out.
    return ColumnStatistics(_bound(low), _bound(high), nulls, (_bound(low), _bound(high)) == (low, high), values)


def few_values(found: Collection[str | None]) -> frozenset[str] | None:
    """The distinct values of a string column but NULL, or None where they are too many or too long to be noted."""
    values = frozenset(one for one in found if one is not None)
    if len(values) > MAX_VALUES or sum(map(len, values)) > _MAX_VALUES_LENGTH or any("\0" in one for one in values):
        return None
    return values


def _double_statistics(low: float, high: float, nulls: int, has_nan: bool) -> ColumnStatistics:
    """Exact where every value is finite. Bounds are finite or None: the catalog's JSON knows no other numbers.

    NaN stands outside the bounds of the rest, and where there is nothing else, or an infinity, there are none.
    """
    if not math.isfinite(low) or not math.isfinite(high):
        return ColumnStatistics(None, None, nulls, exact=False)
    return ColumnStatistics(low, high, nulls, exact=not has_nan)


def _bound(text: str) -> str:
    """A prefix that the catalog can hold: not too long, and without the NUL that PostgreSQL's JSON refuses."""
    return text[:BOUND_LENGTH].partition("\0")[0]
