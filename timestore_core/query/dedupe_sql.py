"""DuckDB's SQL for rows of which several may be one: the last written wins."""

from __future__ import annotations

from collections.abc import Sequence

from timestore_core.dedupe import VERSION_COLUMN, Dedupe
from timestore_core.engine.inline_tables import NUMBER_COLUMN, ROW_COLUMN
from timestore_core.model import Schema
from timestore_core.names import quote_identifier
from timestore_core.partitions.format import PartitionFormat

__all__ = ["NUMBER_COLUMN"]

_COUNTED = "row_number() OVER ()"
_VERSION, _NUMBER = quote_identifier(VERSION_COLUMN), quote_identifier(NUMBER_COLUMN)
_ORDER = f"({_VERSION}::BIGINT * 4294967296 + {_NUMBER}::BIGINT)"


def place_sql(format_: PartitionFormat, schema: Schema) -> str:
    """The SQL of where a row stands in a file of this format and these columns."""
    number: str = getattr(format_, "row_number", _COUNTED)
    # A column of that name hides it.
    return _COUNTED if any(name.casefold() == number for name in schema.names) else number


def marked_sql(relation: str, version: int | None, number: str | None) -> str:
    """The relation with the version of each row, its own column where it has one, and where the row stands.

    Without a `number` it is one of `engine.inline_tables`, and has both already: a row's place is its own there.
    """
    if number is None:
        return f"(SELECT * REPLACE ({quote_identifier(ROW_COLUMN)} AS {_NUMBER}) FROM {relation})"
    versioned = "" if version is None else f", {version:d} AS {_VERSION}"
    return f"(SELECT *{versioned}, {number} AS {_NUMBER} FROM {relation})"


def last_rows_sql(rows: str, dedupe: Dedupe, columns: Sequence[str]) -> str:
    """One row for each series and time out of `rows`, which have these columns and those of `marked_sql`."""
    key = [name for name in dedupe.key if name in columns]
    pick = "arg_max_null" if dedupe.merge == "rows" else "arg_max"
    picked = ", ".join(
        quote_identifier(name)
        if name in key
        else f"{pick}({quote_identifier(name)}, {_ORDER}) AS {quote_identifier(name)}"
        for name in columns
    )
    grouped = ", ".join(map(quote_identifier, key))
    return f"SELECT {picked} FROM ({rows}) GROUP BY {grouped}"


def unreplaced_sql(rows: str, dedupe: Dedupe, columns: Sequence[str], order: Sequence[str]) -> str:
    """Out of `rows`, marked, those that no later row of the same key makes meaningless, in order, with their versions.

    Rows that are merged by field stay, unless the next one has every field that they have: a row that is elsewhere may
    have been written between the two.
    """
    key = [name for name in dedupe.key if name in columns]
    window = (
        f"WINDOW later AS (PARTITION BY {', '.join(map(quote_identifier, key))} "
        f"ORDER BY {_VERSION} DESC, {_NUMBER} DESC)"
    )
    fields = [quote_identifier(name) for name in columns if name not in key]
    if dedupe.merge == "rows":
        stays = "row_number() OVER later = 1"
    else:
        covered = [f"({field} IS NULL OR lag({field}) OVER later IS NOT NULL)" for field in fields]
        stays = f"NOT ({' AND '.join([f'lag({_VERSION}) OVER later IS NOT NULL', *covered])})"
    names = ", ".join([*map(quote_identifier, columns), _VERSION])
    ordered = ", ".join([*map(quote_identifier, order), _VERSION, _NUMBER])
    kept = f"SELECT {names}, {_NUMBER} FROM ({rows}) {window} QUALIFY {stays}"
    return f"SELECT {names} FROM ({kept}) ORDER BY {ordered}"


def distinct_count_sql(rows: str, dedupe: Dedupe, columns: Sequence[str]) -> str:
    """How many rows are left of these."""
    key = ", ".join(quote_identifier(name) for name in dedupe.key if name in columns)
    return f"SELECT count(*) FROM (SELECT DISTINCT {key} FROM ({rows}))"
