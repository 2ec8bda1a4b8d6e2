"""DuckDB's SQL around a plan's: the rows of an answer as text, one line each, or as typed columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from timestore_core.model import ResultField, ResultType
from timestore_core.names import quote_identifier, quote_literal
from timestore_core.partitions.duckdb_file import SQL_TYPES

_SQL_TYPES = {**SQL_TYPES, "integers": "BIGINT[]"}


@dataclass(frozen=True, slots=True)
class Render:
    """What is sent of a row: one text, or typed columns; `values` is its SQL over an answer's columns o0, o1, …"""

    values: Callable[[Sequence[ResultField]], str]
    is_text: bool

    def sql(self, output: Sequence[ResultField], inner: str) -> str:
        """What is sent of the rows of `inner`, in their order."""
        return f"SELECT {self.values(output)} FROM ({inner}) AS answer({_names(output)})"

    def ordered_sql(self, output: Sequence[ResultField], rows: str, order: Sequence[str], *, descending: bool) -> str:
        """What is sent of `rows`, which have the columns `order` behind the output's, by these.

        DuckDB makes what follows a sort in one thread, so texts are made before it. `descending` is for the first.
        """
        keys = [f"k{index}" for index in range(len(order))]
        names = ", ".join([*(f"o{index}" for index in range(len(output))), *keys])
        made = f"SELECT {self.values(output)} AS sent, {', '.join(keys)} FROM ({rows}) AS answer({names})"
        first, *rest = keys
        return f"SELECT sent FROM ({made}) ORDER BY {', '.join([first + (' DESC' if descending else ''), *rest])}"


def json_value(type_: ResultType, column: str) -> str:
    """The column as JSON has it: times as ISO-8601, NULL for what JSON cannot write."""
    if type_ == "timestamp":
        return (
            f"CASE WHEN epoch_us({column}) % 1000 = 0 THEN strftime({column}, '%Y-%m-%dT%H:%M:%S.%gZ') "
            f"ELSE strftime({column}, '%Y-%m-%dT%H:%M:%S.%fZ') END"
        )
    if type_ == "double":
        # The sum takes the sign from -0.0. DuckDB holds it equal to 0.0, in its files too, where a run of both may
        # become one of either: which one is read is a matter of how the rows are laid out.
        return f"CASE WHEN isfinite({column}) THEN {column} + 0 END"
    return column


def _json(output: Sequence[ResultField], end: str) -> str:
    members = ", ".join(
        f"{quote_literal(field.name)}: {json_value(field.type, f'o{index}')}" for index, field in enumerate(output)
    )
    return f"to_json({{{members}}})::VARCHAR || {quote_literal(end)}"


def _csv(output: Sequence[ResultField]) -> str:
    """One record a line; NULL, and what is no number, is an empty field, an empty text is `""`."""
    if len(output) == 1:
        # Readers skip a line that is empty.
        line = f"coalesce(nullif(({_csv_value(output[0], 'o0')})::VARCHAR, ''), '\"\"')"
    else:
        line = ", ',', ".join(_csv_value(field, f"o{index}") for index, field in enumerate(output))
    return f"concat({line}, chr(10))"


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


# One JSON object and a comma a row.
JSON_ROWS = Render(lambda output: _json(output, ","), is_text=True)
# One JSON object a line.
NDJSON_ROWS = Render(lambda output: _json(output, "\n"), is_text=True)
CSV_ROWS = Render(_csv, is_text=True)
# The values as themselves, NaN and infinities too, in columns o0, o1, …
COLUMNS = Render(
    lambda output: ", ".join(_typed(field, f"o{index}") for index, field in enumerate(output)), is_text=False
)
