"""What a finished file holds, found out by DuckDB from its bytes: the row count and each column's statistics."""

from __future__ import annotations

import math
from typing import Any

import duckdb

from timestore_core.model import ColumnStatistics, Field, Schema
from timestore_core.names import quote_identifier
from timestore_core.partitions.format import WrittenFile
from timestore_core.partitions.statistics import BOUND_LENGTH, MAX_VALUES, few_values

# What is counted about is off by a few in a hundred.
_FEW = MAX_VALUES * 3 // 2


def inspect(cursor: duckdb.DuckDBPyConnection, relation: str, schema: Schema) -> WrittenFile:
    """The rows and statistics of the relation, which has the schema's columns.

    Every value is read, so that a damaged block is noticed. Raises duckdb.Error where the file cannot be read.
    """
    asked = [expression for field in schema.fields for expression in _expressions(field)]
    row = cursor.execute(f"SELECT count(*), {', '.join(asked)} FROM {relation}").fetchone()
    assert row is not None
    rows, values = row[0], row[1:]
    per_column = len(values) // len(schema.fields)
    found = {field: values[index * per_column : (index + 1) * per_column] for index, field in enumerate(schema.fields)}
    few = [field for field, (*_, distinct) in found.items() if field.type == "string" and distinct <= _FEW]
    noted = _values(cursor, relation, few)
    return WrittenFile(
        rows, {field.name: _statistics(field, rows, some[:-1], noted.get(field.name)) for field, some in found.items()}
    )


def _values(cursor: duckdb.DuckDBPyConnection, relation: str, fields: list[Field]) -> dict[str, frozenset[str] | None]:
    """All values of columns that have few."""
    if not fields:
        return {}
    asked = ", ".join(f"list(DISTINCT {quote_identifier(field.name)})" for field in fields)
    row = cursor.execute(f"SELECT {asked} FROM {relation}").fetchone()
    assert row is not None
    return {field.name: few_values(some or []) for field, some in zip(fields, row, strict=True)}


def _expressions(field: Field) -> list[str]:
    """How many values are not NULL, how many of these are NaN, the bounds of the rest, a hash of all, and how many
    there are of a string column, about.

    The hash keeps DuckDB from answering out of the file's own statistics.
    """
    name = quote_identifier(field.name)
    value, nans = name, "0"
    if field.type == "double":
        value, nans = f"CASE WHEN NOT isnan({name}) THEN {name} END", f"count(*) FILTER (WHERE isnan({name}))"
    elif field.type == "timestamp":
        value = f"epoch_us({name})"
    distinct = f"approx_count_distinct({name})" if field.type == "string" else "0"
    return [f"count({name})", nans, f"min({value})", f"max({value})", f"bit_xor(hash({name}))", distinct]


def _statistics(field: Field, rows: int, found: tuple[Any, ...], noted: frozenset[str] | None) -> ColumnStatistics:
    values, nans, low, high, _ = found
    nulls = rows - values
    if field.type == "string" and low is not None:
        cut_low, cut_high = (text[:BOUND_LENGTH].partition("\0")[0] for text in (low, high))
        return ColumnStatistics(cut_low, cut_high, nulls, (cut_low, cut_high) == (low, high), noted)
    if field.type == "double" and (nans or any(end is not None and math.isinf(end) for end in (low, high))):
        # JSON, and so the catalog, knows no infinity; NaN has no place between two bounds.
        bounded = low is not None and math.isfinite(low) and math.isfinite(high)
        return ColumnStatistics(low if bounded else None, high if bounded else None, nulls, exact=False)
    return ColumnStatistics(low, high, nulls)
