"""Aggregations as a client asks for them: functions known, parameters checked, aliases decided."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import msgspec

from timestore_core.aggregations import MAX_BOUNDS, Aggregation
from timestore_core.errors import Problem
from timestore_core.names import name_problem
from timestore_core.settings import Settings


class WireAggregation(msgspec.Struct, frozen=True):
    fn: str
    column: str | None = None
    alias: str | None = None
    percentile: float | None = None
    bounds: list[float] | None = None
    parameters: dict[str, float] = {}


@dataclass(frozen=True, slots=True)
class AskedAggregation:
    """One aggregation with its function known, its parameters checked and its alias decided."""

    fn: str
    column: str | None
    alias: str
    parameters: tuple[tuple[str, float | tuple[float, ...]], ...]


def asked_aggregations(
    wires: Sequence[WireAggregation],
    path: str,
    functions: Mapping[str, Aggregation],
    settings: Settings,
    problems: list[Problem],
) -> tuple[AskedAggregation, ...]:
    """Those that are right; what is wrong with the others is added to the problems."""
    found = [_aggregation(one, f"{path}[{index}]", functions, settings, problems) for index, one in enumerate(wires)]
    return tuple(one for one in found if one is not None)


def _aggregation(
    wire: WireAggregation,
    path: str,
    functions: Mapping[str, Aggregation],
    settings: Settings,
    problems: list[Problem],
) -> AskedAggregation | None:
    function = functions.get(wire.fn)
    if function is None:
        problems.append(Problem(f"{path}.fn", f"{wire.fn[:40]!r} is unknown; there are {', '.join(sorted(functions))}"))
        return None
    if wire.column is None and not function.column_optional:
        problems.append(Problem(f"{path}.column", f"is required by {wire.fn}"))
        return None
    parameters = _parameters(wire, path, function, problems)
    if parameters is None:
        return None
    alias = wire.alias if wire.alias is not None else function.default_alias(wire.column, parameters)
    for name, text in (("column", wire.column), ("alias", wire.alias)):
        wrong = None if text is None else name_problem(text, settings.max_name_length)
        if wrong:
            problems.append(Problem(f"{path}.{name}", wrong))
    return AskedAggregation(wire.fn, wire.column, alias, tuple(sorted(parameters.items())))


def _parameters(
    wire: WireAggregation, path: str, function: Aggregation, problems: list[Problem]
) -> dict[str, Any] | None:
    parameters: dict[str, Any] = {}
    for name, (low, high) in function.parameters.items():
        # The contract's one parameter stands beside `fn`; those of plugins in an object of their own.
        value = wire.percentile if name == "percentile" else wire.parameters.get(name)
        if value is None or not math.isfinite(value) or not low <= value <= high:
            where = path if name == "percentile" else f"{path}.parameters"
            problems.append(Problem(f"{where}.{name}", f"must be a number from {low:g} to {high:g}"))
            return None
        parameters[name] = value
    if function.takes_bounds:
        bounds = wire.bounds or []
        rising = all(low < high for low, high in pairwise(bounds))
        if not 1 <= len(bounds) <= MAX_BOUNDS or not rising or not all(map(math.isfinite, bounds)):
            problems.append(Problem(f"{path}.bounds", f"must be 1 to {MAX_BOUNDS} numbers, each above the one before"))
            return None
        parameters["bounds"] = tuple(bounds)
    return parameters
