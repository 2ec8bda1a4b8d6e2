"""Rows that need a closer look: what the contract converts is converted, what it cannot is named.

Slower than the typed path (about half its speed), and the only one that reports faults.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import jiter
import pyarrow as pa

from timestore_core.errors import InvalidRequest, Problem
from timestore_core.model import Field, FieldType
from timestore_core.times import parse_time_us

MAX_PROBLEMS = 50
_INTEGER = re.compile(r"[+-]?\d{1,40}(\.0*)?", re.ASCII)
_DOUBLE = re.compile(r"[+-]?(\d{1,400}(\.\d*)?|\.\d+)([eE][+-]?\d{1,4})?", re.ASCII)
_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
EXPECTED: dict[FieldType, str] = {
    "timestamp": "a timestamp (an ISO-8601 string)",
    "string": "a string",
    "double": "a double",
    "integer": "a 64-bit integer",
    "boolean": "a boolean",
}


def lenient_columns(
    raw: bytes | list[dict[str, Any]], fields: Sequence[Field], arrow_types: Mapping[FieldType, pa.DataType]
) -> list[pa.Array]:
    """The columns of the rows. Raises InvalidRequest naming every value at fault, up to a limit."""
    rows = parse_rows(raw) if isinstance(raw, bytes) else raw
    problems: list[Problem] = []
    columns = []
    for field in fields:
        values = [row.get(field.name) for row in rows]
        columns.append(lenient_column(values, field, problems, arrow_types[field.type]))
        if len(problems) >= MAX_PROBLEMS:
            break
    if problems:
        raise InvalidRequest.of(problems)
    return columns


def parse_rows(raw: bytes) -> list[dict[str, Any]]:
    """The objects of a JSON array. Raises InvalidRequest for anything else."""
    try:
        rows = jiter.from_json(raw, allow_inf_nan=False, catch_duplicate_keys=True, cache_mode="keys")
    except ValueError as error:
        # The parser's text names the position and at most a key, never a value.
        raise InvalidRequest.at("rows", f"cannot be read: {error}") from None
    except RecursionError:
        raise InvalidRequest.at("rows", "is nested too deeply") from None
    if not isinstance(rows, list):
        raise InvalidRequest.at("rows", "must be of type array")
    if set(map(type, rows)) - {dict}:
        at = next(index for index, row in enumerate(rows) if not isinstance(row, dict))
        raise InvalidRequest.at(f"rows[{at}]", "must be of type object")
    return rows


def lenient_column(values: list[Any], field: Field, problems: list[Problem], arrow_type: pa.DataType) -> pa.Array:
    """The values as one column; what does not fit is NULL there and named in the problems, up to a limit."""
    convert = _CONVERSIONS[field.type]
    native = _NATIVE[field.type]
    converted: list[Any] = []
    for index, value in enumerate(values):
        if value is None or type(value) is native:
            converted.append(value)
            continue
        try:
            converted.append(convert(value))
        except _Unfit as unfit:
            converted.append(None)
            if len(problems) < MAX_PROBLEMS:
                shown = "" if unfit.reason else f"{_shown(value)} is not {EXPECTED[field.type]}"
                problems.append(Problem(row_path(index, field.name), unfit.reason or shown))
    return pa.array(converted, arrow_type)


class _Unfit(Exception):
    def __init__(self, reason: str | None = None) -> None:
        self.reason = reason


def _to_timestamp(value: Any) -> int:
    if not isinstance(value, str):
        raise _Unfit
    try:
        return parse_time_us(value)
    except ValueError as error:
        raise _Unfit(f"{_shown(value)} {error}") from None


def _to_string(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and math.isfinite(value):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    if isinstance(value, int):
        return str(value) if value.bit_length() < 4096 else _refuse()
    return _refuse()


def _to_double(value: Any) -> float:
    if isinstance(value, str) and _DOUBLE.fullmatch(value.strip()):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _Unfit
    try:
        result = float(value)
    except OverflowError:
        raise _Unfit from None
    return result if math.isfinite(result) else _refuse()


def _to_integer(value: Any) -> int:
    if isinstance(value, str) and _INTEGER.fullmatch(value.strip()):
        value = int(value.strip().partition(".")[0])
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise _Unfit
    return value if -(2**63) <= value < 2**63 else _refuse()


def _to_boolean(value: Any) -> bool:
    if isinstance(value, str):
        value = _BOOLEANS.get(value.strip().lower())
    elif isinstance(value, int | float):
        value = bool(value) if value in (0, 1) else None
    return value if isinstance(value, bool) else _refuse()


def _refuse() -> NoReturn:
    raise _Unfit


_BOOLEANS = {"true": True, "false": False, "1": True, "0": False}
_CONVERSIONS: dict[FieldType, Callable[[Any], Any]] = {
    "timestamp": _to_timestamp,
    "string": _to_string,
    "double": _to_double,
    "integer": _to_integer,
    "boolean": _to_boolean,
}
# Values of this very type need no conversion. Doubles are looked at for infinities, integers for their size.
_NATIVE: dict[FieldType, type | None] = {
    "timestamp": None,
    "string": str,
    "double": None,
    "integer": None,
    "boolean": bool,
}


def row_path(index: int, name: str) -> str:
    """How errors name one value: `rows[17].temperature_c`."""
    return f"rows[{index}].{name}" if _PLAIN_NAME.fullmatch(name) else f"rows[{index}][{name!r}]"


def _shown(value: Any) -> str:
    """A value in an error: short, and never the insides of a structure."""
    if isinstance(value, str):
        return f'"{value[:40]}…"' if len(value) > 40 else f'"{value}"'
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, int):
        return str(value) if value.bit_length() < 256 else "an integer of many digits"
    if isinstance(value, float):
        return repr(value)
    return "an object" if isinstance(value, dict) else "an array"
