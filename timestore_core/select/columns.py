"""The columns of a SELECT's answer, from the engine's many types to the five of ours."""

from __future__ import annotations

import re
from collections.abc import Sequence

from timestore_core.model import FieldType, ResultField

_INTEGERS = {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT"}
_WIDE = {"HUGEINT", "UHUGEINT", "BIGNUM"}
_DOUBLES = {"FLOAT", "DOUBLE"}
# Numbers that JSON does not have, though the engine writes them and takes them for valid; and JSON's strings.
_NO_NUMBER = r"([\[:,])-?(?:NaN|Infinity)"
_STRING = r'"(?:\\.|[^"\\])*"'


def fields_of(described: Sequence[tuple[str, str]]) -> tuple[ResultField, ...]:
    """Each column with the type that it leaves as."""
    return tuple(ResultField(name, _type_and_sql(type_, "")[0]) for name, type_ in described)


def typed_sql(described: Sequence[tuple[str, str]], sql: str) -> str:
    """The statement's rows with columns of those types: lists and structs as JSON, dates and others as text."""
    names = [f"o{index}" for index in range(len(described))]
    values = ", ".join(_type_and_sql(type_, name)[1] for (_, type_), name in zip(described, names, strict=True))
    return f"SELECT {values} FROM (\n{sql}\n) AS answer({', '.join(names)})"


def _type_and_sql(type_: str, column: str) -> tuple[FieldType, str]:
    kind = re.split(r"[(\s]", type_, maxsplit=1)[0]
    if type_.endswith("]") or kind in ("STRUCT", "MAP", "UNION", "JSON", "VARIANT", "ROW"):
        return "string", _nested_sql(column)
    if kind == "BOOLEAN":
        return "boolean", column
    if kind in _INTEGERS:
        return "integer", column if kind == "UBIGINT" else f"CAST({column} AS BIGINT)"
    if kind in _WIDE:
        return "integer", column
    if kind in _DOUBLES or kind == "DECIMAL":
        return "double", f"CAST({column} AS DOUBLE)"
    if kind.startswith("TIMESTAMP"):
        return "timestamp", f"CAST({column} AS TIMESTAMP)"
    return "string", f"CAST({column} AS VARCHAR)"


def _nested_sql(column: str) -> str:
    """A list or a struct as JSON, with null for numbers that are none; as a text where a string looks like one."""
    json = f"to_json({column})::VARCHAR"
    bare = f"regexp_replace({json}, '{_STRING}', '\"\"', 'g')"
    found = [f"len(regexp_extract_all({one}, '{_NO_NUMBER}'))" for one in (json, bare)]
    return (
        f"CASE WHEN NOT regexp_matches({json}, 'NaN|Infinity') THEN to_json({column}) "
        f"WHEN {found[0]} = {found[1]} THEN regexp_replace({json}, '{_NO_NUMBER}', '\\1null', 'g')::JSON "
        f"ELSE to_json({column}::VARCHAR) END"
    )
