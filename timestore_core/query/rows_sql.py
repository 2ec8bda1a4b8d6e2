"""DuckDB's SQL for rows that are rewritten as they are: gathered, sorted, exported, or without those that go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from timestore_core.dedupe import VERSION_COLUMN
from timestore_core.model import Field, FieldType, Schema
from timestore_core.names import quote_identifier
from timestore_core.partitions.duckdb_file import SQL_TYPES
from timestore_core.query.dedupe_sql import NUMBER_COLUMN, marked_sql


@dataclass(frozen=True, slots=True)
class StoredRows:
    """The SQL of one file's rows, and the columns that the file has.

    `version` is that of its rows, None where each has its own beside it; `number` is where one stands in the file, None
    where it has that beside it too.
    """

    relation: str
    schema: Schema
    version: int | None = 0
    number: str | None = "0"


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


def marked_rows_sql(sources: Sequence[StoredRows], schema: Schema, where: str = "") -> str:
    """All rows of the sources with the schema's columns, each with its version and place: several may be one."""
    marks = [Field(name, "integer") for name in (VERSION_COLUMN, NUMBER_COLUMN)]
    marked = [
        StoredRows(marked_sql(one.relation, one.version, one.number), Schema((*one.schema.fields, *marks)))
        for one in sources
    ]
    return gathered_sql(marked, Schema((*schema.fields, *marks)), where=where)


def distinct_sql(rows: str, columns: Sequence[str]) -> str:
    """About how many values each of the columns has in the rows, as one row."""
    counted = ", ".join(f"approx_count_distinct({quote_identifier(name)})" for name in columns)
    return f"SELECT {counted} FROM ({rows})"


def prefixes_sql(rows: str, columns: Sequence[str]) -> str:
    """About how many values the first column has, how many pairs the first two, and so on, as one row."""
    quoted = [quote_identifier(name) for name in columns]
    counted = ", ".join(f"approx_count_distinct(hash({', '.join(quoted[: n + 1])}))" for n in range(len(quoted)))
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
