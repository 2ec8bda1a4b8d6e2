"""Minimum, maximum and NULLs of each column, for ruling files out without opening them."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from timestore_core.model import ColumnStatistics, FieldType, Partition, Schema

# Bounds of a string column are cut to this many characters, so that one long text cannot bloat the catalog.
BOUND_LENGTH = 64
# A string column's values are all noted where they are few and short.
MAX_VALUES = 128
_MAX_VALUES_LENGTH = 2048
# Digits after the point that are looked for in a double column.
MAX_DECIMALS = 6
_SAMPLE = 64
# Scaled values up to this are rounded to an integer without an error.
_MOST_SCALED = 2.0**51


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
        known = _double_statistics(low, high, nulls, has_nan=pc.any(pc.is_nan(column)).as_py())
        return replace(known, decimals=_decimals(column, known)) if known.exact else known
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


def common_decimals(name: str, partitions: Iterable[Partition]) -> int | None:
    """The digits after the point that a double column has at most over all the partitions, or None."""
    most = 0
    for partition in partitions:
        known, type_ = partition.statistics.get(name), partition.schema.type_of(name)
        if type_ in (None, "integer") or (known.nulls if known else 0) == partition.row_count:
            continue
        if known is None or known.decimals is None:
            return None
        most = max(most, known.decimals)
    return most


def _decimals(column: pa.ChunkedArray, known: ColumnStatistics) -> int | None:
    """With how many digits after the point each value of the column, which are all finite, is what it is."""
    values = (column.drop_null() if known.nulls else column).to_numpy()
    sample = values[:: max(1, len(values) // _SAMPLE)]
    largest = max(abs(float(known.minimum or 0)), abs(float(known.maximum or 0)))
    for decimals in range(MAX_DECIMALS + 1):
        factor = 10.0**decimals
        if largest * factor > _MOST_SCALED:
            return None
        if _are_decimal(sample, factor) and (len(sample) == len(values) or _are_decimal(values, factor)):
            return decimals
    return None


def _are_decimal(values: npt.NDArray[np.float64], factor: float) -> bool:
    return bool((np.rint(values * factor) / factor == values).all())


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
