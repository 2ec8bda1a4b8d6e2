"""DuckDB's SQL around a plan's: the rows of an answer as text, one line each, or as typed columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from timestore_core.model import ResultField
from timestore_core.names import quote_identifier
from timestore_core.partitions.duckdb_file import SQL_TYPES
from timestore_core.query.sql import json_rows_sql, json_value

_SQL_TYPES = {**SQL_TYPES, "integers": "BIGINT[]"}
# From an answer's columns and the SQL of its rows to the SQL of what is sent, with the rows in the same order.
Render = Callable[[Sequence[ResultField], str], str]


def ndjson_sql(output: Sequence[ResultField], inner: str) -> str:
    """One JSON object a line."""
    return json_rows_sql(output, inner, "\n")


def csv_sql(output: Sequence[ResultField], inner: str) -> str:
    """One record a line; NULL, and what is no number, is an empty field, an empty text is `""`."""
    if len(output) == 1:
        # Readers skip a line that is empty.
        line = f"coalesce(nullif(({_csv_value(output[0], 'o0')})::VARCHAR, ''), '\"\"')"
    else:
        line = ", ',', ".join(_csv_value(field, f"o{index}") for index, field in enumerate(output))
    return f"SELECT concat({line}, chr(10)) FROM ({inner}) AS answer({_names(output)})"


def columns_sql(output: Sequence[ResultField], inner: str) -> str:
    """The values as themselves, NaN and infinities too, in columns o0, o1, …"""
    values = ", ".join(_typed(field, f"o{index}") for index, field in enumerate(output))
    return f"SELECT {values} FROM ({inner}) AS answer({_names(output)})"


def _names(output: Sequence[ResultField]) -> str:
    return ", ".join(f"o{index}" for index in range(len(output)))


def _csv_value(field: ResultField, column: str) -> str:
    """The field, for `concat`, which leaves out what is NULL."""
    if field.type == "integers":
        return f"'\"' || to_json({column})::VARCHAR || '\"'"
    if field.type == "double":
        # The digits of JSON, which are also made twice as fast as those of a cast.
        return f"CASE WHEN isfinite({column}) THEN to_json({column} + 0)::VARCHAR END"
    if field.type != "string":
        return json_value(field.type, column)
    # A list or a struct of a SELECT comes as JSON, which is another type to the engine.
    column = f"{column}::VARCHAR"
    special = " OR ".join(f"contains({column}, {one})" for one in ("'\"'", "','", "chr(10)", "chr(13)"))
    quoted = f"'\"' || replace({column}, '\"', '\"\"') || '\"'"
    return f"CASE WHEN {column} = '' OR {special} THEN {quoted} ELSE {column} END"


def _typed(field: ResultField, column: str) -> str:
    # Which of 0.0 and -0.0 is read is a matter of how the rows are laid out, see `json_value`.
    value = f"{column} + 0" if field.type == "double" else column
    return f"CAST({value} AS {_SQL_TYPES[field.type]}) AS {quote_identifier(column)}"
