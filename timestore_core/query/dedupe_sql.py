"""DuckDB's SQL for rows of which several may be one: the last written wins."""

from __future__ import annotations

from collections.abc import Sequence

from timestore_core.dedupe import VERSION_COLUMN, Dedupe
from timestore_core.names import quote_identifier

# Where a row stands among the rows of its version; see `engine.inline_tables`.
NUMBER_COLUMN = "number\x1f"
_VERSION, _NUMBER = quote_identifier(VERSION_COLUMN), quote_identifier(NUMBER_COLUMN)
_ORDER = f"({_VERSION}::BIGINT * 4294967296 + {_NUMBER}::BIGINT)"


def marked_sql(relation: str, version: int | None, number: str) -> str:
    """The relation with the version of each row, its own column where it has one, and where the row stands."""
    versioned = "" if version is None else f", {version:d} AS {_VERSION}"
    return f"(SELECT *{versioned}, {number} AS {_NUMBER} FROM {relation})"


def last_rows_sql(rows: str, dedupe: Dedupe, columns: Sequence[str], *, with_version: bool = False) -> str:
    """One row for each series and time out of `rows`, which have these columns and those of `marked_sql`.

    With `with_version` the winner's version stands beside it.
    """
    key = [name for name in dedupe.key if name in columns]
    pick = "arg_max_null" if dedupe.merge == "rows" else "arg_max"
    picked = ", ".join(
        quote_identifier(name)
        if name in key
        else f"{pick}({quote_identifier(name)}, {_ORDER}) AS {quote_identifier(name)}"
        for name in columns
    )
    version = f", max({_VERSION}) AS {_VERSION}" if with_version else ""
    grouped = ", ".join(map(quote_identifier, key))
    return f"SELECT {picked}{version} FROM ({rows}) GROUP BY {grouped}"


def distinct_count_sql(rows: str, dedupe: Dedupe, columns: Sequence[str]) -> str:
    """How many rows are left of these."""
    key = ", ".join(quote_identifier(name) for name in dedupe.key if name in columns)
    return f"SELECT count(*) FROM (SELECT DISTINCT {key} FROM ({rows}))"
