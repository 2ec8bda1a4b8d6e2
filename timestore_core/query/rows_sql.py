"""DuckDB's SQL for rows that are rewritten as they are: gathered, sorted, exported, or without those that go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from timestore_core.model import Field, FieldType, Schema
from timestore_core.names import quote_identifier
from timestore_core.partitions.duckdb_file import SQL_TYPES


@dataclass(frozen=True, slots=True)
class StoredRows:
    """The SQL of one file's rows, and the columns that the file has."""

    relation: str
    schema: Schema


def gathered_sql(sources: Sequence[StoredRows], schema: Schema, order: Sequence[str] = (), where: str = "") -> str:
    """All rows of the sources with the schema's columns; missing ones are NULL, integers widen to double.

    `where` is a condition over the schema's columns, made by `kept_sql` or its like.
    """
    union = " UNION ALL ".join(
        f"SELECT {', '.join(_read_as(field, one.schema.type_of(field.name)) for field in schema.fields)} "
        f"FROM {one.relation}"
        for one in sources
    )
    condition = f" WHERE {where}" if where else ""
    ordered = f" ORDER BY {', '.join(quote_identifier(name) for name in order)}" if order else ""
    return f"SELECT * FROM ({union}){condition}{ordered}" if condition or ordered else union


def distinct_sql(rows: str, columns: Sequence[str]) -> str:
    """About how many values each of the columns has in the rows, as one row."""
    counted = ", ".join(f"approx_count_distinct({quote_identifier(name)})" for name in columns)
    return f"SELECT {counted} FROM ({rows})"


def outside_range_sql(time_column: str, start_us: int, end_us: int) -> str:
    """The rows whose time is not in the range, both ends inclusive; those without a time are in none."""
    time = quote_identifier(time_column)
    return f"NOT coalesce({time} BETWEEN make_timestamp({start_us:d}) AND make_timestamp({end_us:d}), false)"


def every_value_sql(relation: str, columns: Sequence[str]) -> str:
    """One row that depends on every value: a minimum would be answered from the file's own statistics."""
    return f"SELECT {', '.join(f'bit_xor(hash({quote_identifier(name)}))' for name in columns)} FROM {relation}"


def count_sql(rows: str) -> str:
    """How many rows there are."""
    return f"SELECT count(*) FROM ({rows})"


def _read_as(field: Field, stored: FieldType | None) -> str:
    name = quote_identifier(field.name)
    if stored == field.type:
        return name
    value = "NULL" if stored is None else name
    return f"CAST({value} AS {SQL_TYPES[field.type]}) AS {name}"
