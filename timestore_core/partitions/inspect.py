"""What a finished file holds, found out by DuckDB from its bytes: the row count and each column's statistics."""

from __future__ import annotations

import math
from typing import Any

import duckdb

from timestore_core.model import ColumnStatistics, Field, Schema
from timestore_core.names import quote_identifier
from timestore_core.partitions.format import WrittenFile
from timestore_core.partitions.statistics import BOUND_LENGTH


def inspect(cursor: duckdb.DuckDBPyConnection, relation: str, schema: Schema) -> WrittenFile:
    """The rows and statistics of the relation, which has the schema's columns.

    Every value is read, so that a damaged block is noticed. Raises duckdb.Error where the file cannot be read.
    """
    asked = [expression for field in schema.fields for expression in _expressions(field)]
    row = cursor.execute(f"SELECT count(*), {', '.join(asked)} FROM {relation}").fetchone()
    assert row is not None
    rows, values = row[0], row[1:]
    per_column = len(values) // len(schema.fields)
    return WrittenFile(
        rows,
        {
            field.name: _statistics(field, rows, values[index * per_column : (index + 1) * per_column])
            for index, field in enumerate(schema.fields)
        },
    )


def _expressions(field: Field) -> list[str]:
    """How many values are not NULL, how many of these are NaN, the bounds of the rest, and a hash of all.

    The hash keeps DuckDB from answering out of the file's own statistics.
    """
    name = quote_identifier(field.name)
    value, nans = name, "0"
    if field.type == "double":
        value, nans = f"CASE WHEN NOT isnan({name}) THEN {name} END", f"count(*) FILTER (WHERE isnan({name}))"
    elif field.type == "timestamp":
        value = f"epoch_us({name})"
    return [f"count({name})", nans, f"min({value})", f"max({value})", f"bit_xor(hash({name}))"]


def _statistics(field: Field, rows: int, found: tuple[Any, ...]) -> ColumnStatistics:
    values, nans, low, high, _ = found
    nulls = rows - values
    if field.type == "string" and low is not None:
        cut_low, cut_high = (text[:BOUND_LENGTH].partition("\0")[0] for text in (low, high))
        return ColumnStatistics(cut_low, cut_high, nulls, (cut_low, cut_high) == (low, high))
    if field.type == "double" and (nans or any(end is not None and math.isinf(end) for end in (low, high))):
        # JSON, and so the catalog, knows no infinity; NaN has no place between two bounds.
        bounded = low is not None and math.isfinite(low) and math.isfinite(high)
        return ColumnStatistics(low if bounded else None, high if bounded else None, nulls, exact=False)
    return ColumnStatistics(low, high, nulls)
