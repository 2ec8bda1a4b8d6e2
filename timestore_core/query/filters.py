"""Conditions on columns and on partition keys: as a client writes them, as SQL, and against what is known of a file."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from timestore_core.errors import Problem
from timestore_core.model import ColumnStatistics, FieldType, Schema
from timestore_core.names import quote_identifier, quote_literal
from timestore_core.query.numbers import number_comparison
from timestore_core.settings import Settings
from timestore_core.times import parse_time_us, to_us

FilterType = Literal["string", "number", "timestamp", "boolean"]
Scalar = bool | int | float | str
Value = bool | int | float | str

MAX_TEXT = 4096
# More `%` between other characters than this are matched by an automaton: DuckDB's own LIKE goes back and forth.
_MAX_LIKE_GAPS = 1
_SPECIAL = re.compile(r"[\\.+*?()|\[\]{}^$]")
_OPERATORS: Mapping[str, str] = {"eq": "=", "ne": "<>", "gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
_OF_COLUMN: Mapping[FieldType, FilterType] = {
    "string": "string",
    "double": "number",
    "integer": "number",
    "timestamp": "timestamp",
    "boolean": "boolean",
}


class WireFilter(msgspec.Struct, frozen=True, rename={"in_": "in", "is_null": "isNull"}, forbid_unknown_fields=True):
    """What a column's value must be; all that is given must hold. A NULL meets nothing but `isNull: true`."""

    type: FilterType | None = None
    eq: Scalar | None = None
    ne: Scalar | None = None
    gt: Scalar | None = None
    gte: Scalar | None = None
    lt: Scalar | None = None
    lte: Scalar | None = None
    in_: list[Scalar] | None = None
    like: Annotated[str, Meta(max_length=MAX_TEXT)] | None = None
    is_null: bool | None = None


@dataclass(frozen=True, slots=True)
class Condition:
    """One comparison of a column. `operator` is eq, ne, gt, gte, lt, lte, in, like or isNull.

    Values are what the column holds: times as microseconds, numbers as they were written.
    """

    column: str
    type: FieldType
    operator: str
    values: tuple[Value, ...]


def structure_problems(filters: Mapping[str, WireFilter], path: str, settings: Settings) -> list[Problem]:
    """What is wrong with the filters whatever the columns are."""
    problems = []
    if len(filters) > settings.query_max_aggregations:
        limit = settings.query_max_aggregations
        return [Problem(path, f"names {len(filters)} columns; TIMESTORE_QUERY_MAX_AGGREGATIONS is {limit}")]
    for name, wire in filters.items():
        where = f"{path}.{name[:80]}"
        if not any(getattr(wire, one) is not None for one in (*_OPERATORS, "in_", "like", "is_null")):
            problems.append(Problem(where, "says nothing; give eq, ne, in, gt, gte, lt, lte, like or isNull"))
        if wire.in_ is not None and len(wire.in_) > settings.query_max_filter_values:
            limit = settings.query_max_filter_values
            problems.append(
                Problem(f"{where}.in", f"lists {len(wire.in_)} values; TIMESTORE_QUERY_MAX_FILTER_VALUES is {limit}")
            )
    return problems


def column_conditions(
    filters: Mapping[str, WireFilter], schema: Schema, path: str, problems: list[Problem]
) -> tuple[Condition, ...]:
    """The conditions, their values held against the columns' types; what is wrong is added to the problems."""
    conditions: list[Condition] = []
    for name, wire in sorted(filters.items()):
        found = schema.type_of(name)
        where = f"{path}.{name[:80]}"
        if found is None:
            problems.append(Problem(where, f"{name[:80]!r} is no column of this dataset"))
            continue
        if wire.type is not None and wire.type != _OF_COLUMN[found]:
            problems.append(Problem(f"{where}.type", f"is {wire.type}; the column is of type {found}"))
            continue
        conditions += _conditions(name, found, wire, where, problems)
    return tuple(conditions)


def key_conditions(filters: Mapping[str, WireFilter], path: str, problems: list[Problem]) -> tuple[Condition, ...]:
    """Conditions on partition keys, whose texts are read as what each filter's `type` says (string by default)."""
    types: Mapping[str, FieldType] = {
        "string": "string",
        "number": "double",
        "timestamp": "timestamp",
        "boolean": "boolean",
    }
    conditions: list[Condition] = []
    for name, wire in sorted(filters.items()):
        conditions += _conditions(name, types[wire.type or "string"], wire, f"{path}.{name[:80]}", problems)
    return tuple(conditions)


def condition_sql(condition: Condition) -> str:
    """The condition as SQL that is true, false or NULL."""
    name = quote_identifier(condition.column)
    operator, values = condition.operator, condition.values
    if operator == "isNull":
        return f"{name} IS NULL" if values[0] else f"{name} IS NOT NULL"
    if operator == "like":
        return _like_sql(name, str(values[0]))
    if condition.type in ("integer", "double"):
        return _number_sql(name, condition)
    if operator == "in":
        return f"{name} IN ({', '.join(literal(condition.type, one) for one in values)})" if values else "false"
    return f"{name} {_OPERATORS[operator]} {literal(condition.type, values[0])}"


def rules_out(condition: Condition, known: ColumnStatistics | None, rows: int, *, has_column: bool) -> bool:
    """Whether no row of a file can meet the condition, by what is known of its column there."""
    wants_null = condition.operator == "isNull" and condition.values[0]
    if not has_column:
        return not wants_null
    if known is None:
        return False
    if wants_null:
        return known.nulls == 0
    if known.nulls >= rows:
        return True
    if condition.operator == "isNull":
        return False
    return _outside(condition, known)


def key_meets(condition: Condition, text: str | None) -> bool:
    """Whether a partition key's value meets the condition; one that cannot be read as its type does not."""
    if condition.operator == "isNull":
        return (text is None) == condition.values[0]
    value = None if text is None else _read(text, condition.type)
    if value is None:
        return False
    return meets(value, condition)


def _conditions(name: str, type_: FieldType, wire: WireFilter, where: str, problems: list[Problem]) -> list[Condition]:
    conditions = []
    for operator in _OPERATORS:
        asked = getattr(wire, operator)
        if asked is not None:
            value = _value(asked, type_, f"{where}.{operator}", problems)
            conditions.append(Condition(name, type_, operator, () if value is None else (value,)))
            if type_ == "boolean" and operator not in ("eq", "ne"):
                problems.append(Problem(f"{where}.{operator}", "means nothing for a boolean; give eq, ne or in"))
    if wire.in_ is not None:
        values = [_value(one, type_, f"{where}.in[{index}]", problems) for index, one in enumerate(wire.in_)]
        conditions.append(Condition(name, type_, "in", tuple(one for one in values if one is not None)))
    if wire.like is not None:
        if type_ != "string":
            problems.append(Problem(f"{where}.like", f"is for strings; the column is of type {type_}"))
        conditions.append(Condition(name, type_, "like", (wire.like,)))
    if wire.is_null is not None:
        conditions.append(Condition(name, type_, "isNull", (wire.is_null,)))
    return conditions


def _value(asked: Scalar, type_: FieldType, where: str, problems: list[Problem]) -> Value | None:
    """The value as the column holds it, or None where it is of another type."""
    right: type | tuple[type, ...] = {"string": str, "timestamp": str, "boolean": bool}.get(type_, (int, float))
    if not isinstance(asked, right) or (type_ != "boolean" and isinstance(asked, bool)):
        wanted = {"timestamp": "an ISO-8601 time", "double": "a number", "integer": "a number"}.get(type_, f"a {type_}")
        problems.append(Problem(where, f"must be {wanted}"))
        return None
    if isinstance(asked, str) and len(asked) > MAX_TEXT:
        problems.append(Problem(where, f"has {len(asked)} characters; the limit is {MAX_TEXT}"))
        return None
    if type_ != "timestamp":
        return asked
    try:
        return parse_time_us(str(asked))
    except ValueError as error:
        problems.append(Problem(where, f"{str(asked)[:40]!r} {error}"))
        return None


def literal(type_: FieldType, value: Value) -> str:
    """The value as SQL: a time in microseconds, a boolean, or a text."""
    if type_ == "timestamp":
        return f"make_timestamp({int(value):d})"
    if type_ == "boolean":
        return "true" if value else "false"
    # DuckDB reads a statement up to its first NUL.
    return " || chr(0) || ".join(quote_literal(part) for part in str(value).split("\0"))


def _number_sql(name: str, condition: Condition) -> str:
    comparisons = [
        number_comparison("eq" if condition.operator == "in" else condition.operator, one, condition.type)
        for one in condition.values
        if not isinstance(one, str)
    ]
    if condition.operator != "in":
        return comparisons[0].sql(name)
    literals = [one.literal for one in comparisons if one.literal is not None]
    return f"{name} IN ({', '.join(literals)})" if literals else "false"


def _like_sql(name: str, pattern: str) -> str:
    if "\0" not in pattern and pattern.strip("%").count("%") <= _MAX_LIKE_GAPS:
        return f"{name} LIKE {quote_literal(pattern)}"
    return f"regexp_full_match({name}, {literal('string', _expression(pattern))}, 's')"


def _expression(pattern: str) -> str:
    """The LIKE pattern as a regular expression."""
    pieces = re.split("([%_])", pattern)
    return "".join({"%": ".*", "_": "."}.get(piece, _SPECIAL.sub(r"\\\g<0>", piece)) for piece in pieces)


def _is_like(text: str, pattern: str) -> bool:
    """Whether the text is like the pattern, in time that grows with the product of their lengths at most."""
    at, here, after_gap, resumed = 0, 0, None, 0
    while at < len(text):
        if here < len(pattern) and pattern[here] == "%":
            after_gap, resumed = here + 1, at
            here += 1
        elif here < len(pattern) and pattern[here] in ("_", text[at]):
            at, here = at + 1, here + 1
        elif after_gap is not None:
            resumed += 1
            at, here = resumed, after_gap
        else:
            return False
    return not pattern[here:].strip("%")


def _outside(condition: Condition, known: ColumnStatistics) -> bool:
    """Whether the bounds of the column's values in a file leave no room for the condition."""
    low, high = known.minimum, known.maximum
    if low is None or high is None:
        return False
    upper = high if known.exact else None
    if condition.operator == "like":
        prefix = re.split("[%_]", str(condition.values[0]), maxsplit=1)[0]
        return bool(prefix) and (str(low)[: len(prefix)] > prefix or (upper is not None and str(upper) < prefix))
    values: Sequence[Value] = condition.values
    if condition.operator == "in":
        if known.values is not None and condition.type == "string":
            return not any(one in known.values for one in values)
        return all(_below(one, low) or (upper is not None and _below(upper, one)) for one in values)
    value = values[0]
    match condition.operator:
        case "eq":
            if known.values is not None and condition.type == "string":
                return value not in known.values
            return _below(value, low) or (upper is not None and _below(upper, value))
        case "ne":
            return known.exact and low == value == high
        case "gt":
            return upper is not None and not _below(value, upper)
        case "gte":
            return upper is not None and _below(upper, value)
        case "lt":
            return not _below(low, value)
        case "lte":
            return _below(value, low)
    return False


def _below(one: Value, other: Value) -> bool:
    return one < other  # type: ignore[operator]


def _read(text: str, type_: FieldType) -> Value | None:
    try:
        match type_:
            case "double":
                return _number(text)
            case "timestamp":
                return parse_time_us(text) if "-" in text else to_us(datetime.fromisoformat(text))
            case "boolean":
                return {"true": True, "false": False}.get(text.lower())
    except (ValueError, TypeError):
        return None
    return text


def _number(text: str) -> float | None:
    """The number that a text is, exactly where it is an integer; None where it is none, or NaN."""
    if re.fullmatch(r"[+-]?\d{1,40}", text, re.ASCII):
        return int(text)
    if "_" in text:
        return None
    number = float(text)
    return None if math.isnan(number) else number


def meets(value: Value, condition: Condition) -> bool:
    """Whether a value that is not NULL meets the condition, as the engine would have it."""
    values = condition.values
    match condition.operator:
        case "in":
            return value in values
        case "like":
            return _is_like(str(value), str(values[0]))
        case "eq":
            return value == values[0]
        case "ne":
            return value != values[0]
        case "gt":
            return _below(values[0], value)
        case "gte":
            return not _below(value, values[0])
        case "lt":
            return _below(value, values[0])
        case "lte":
            return not _below(values[0], value)
    return False
