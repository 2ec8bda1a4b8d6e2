"""Comparing a column of numbers with a number from JSON, exactly: neither becomes another number on the way."""

from __future__ import annotations

import math
from dataclasses import dataclass

from timestore_core.model import FieldType

# Beyond every 64-bit integer, and well inside of DuckDB's 128 bits.
_FAR = 2**100


@dataclass(frozen=True, slots=True)
class Comparison:
    """A comparison in SQL; without a literal it holds for every number or for none."""

    operator: str
    literal: str | None
    always: bool = False

    def sql(self, name: str) -> str:
        """The comparison of the column of this quoted name; NULL stays NULL."""
        if self.literal is None:
            return f"{name} IS NOT NULL" if self.always else "false"
        return f"{name} {self.operator} {self.literal}"


def number_comparison(operator: str, value: float, type_: FieldType) -> Comparison:
    """The comparison of an integer or double column with the value. `operator` is eq, ne, gt, gte, lt or lte."""
    return _with_integers(operator, value) if type_ == "integer" else _with_doubles(operator, value)


def _with_integers(operator: str, value: float) -> Comparison:
    value = max(-_FAR, min(_FAR, value))
    if value == math.floor(value):
        symbol = {"eq": "=", "ne": "<>", "gt": ">", "gte": ">=", "lt": "<", "lte": "<="}[operator]
        return Comparison(symbol, f"{math.floor(value):d}")
    match operator:
        case "eq":
            return Comparison("=", None)
        case "ne":
            return Comparison("<>", None, always=True)
        case "gt" | "gte":
            return Comparison(">", f"{math.floor(value):d}")
    return Comparison("<", f"{math.ceil(value):d}")


def _with_doubles(operator: str, value: float) -> Comparison:
    nearest = _nearest(value)
    literal = f"'{nearest!r}'::DOUBLE"
    if nearest == value:
        symbol = {"eq": "=", "ne": "<>", "gt": ">", "gte": ">=", "lt": "<", "lte": "<="}[operator]
        return Comparison(symbol, literal)
    # An integer that no double is: between two of them.
    match operator:
        case "eq":
            return Comparison("=", None)
        case "ne":
            return Comparison("<>", None, always=True)
        case "gt" | "gte":
            return Comparison(">" if nearest < value else ">=", literal)
    return Comparison("<=" if nearest < value else "<", literal)


def _nearest(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
