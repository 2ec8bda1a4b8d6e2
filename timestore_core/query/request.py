"""A query as a client asks it: its shape, its checks, its meaning."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from timestore_core.aggregations import Aggregation
from timestore_core.errors import InvalidRequest, Problem
from timestore_core.model import TimeRange
from timestore_core.names import first_clash, name_problem
from timestore_core.settings import Settings
from timestore_core.wire import WireTimeRange, checked_range, decode

IntervalUnit = Literal["second", "minute", "hour", "day", "week", "month"]
MAX_LIMIT = 10_000
MAX_INTERVAL = 100_000
MAX_VERSION = 2**31 - 1


class WireAggregation(msgspec.Struct, frozen=True):
    fn: str
    column: str | None = None
    alias: str | None = None
    percentile: float | None = None
    parameters: dict[str, float] = {}


class WireDownsample(msgspec.Struct, frozen=True, rename="camel"):
    aggregations: Annotated[list[WireAggregation], Meta(min_length=1)]
    interval_unit: IntervalUnit = "minute"
    interval_size: Annotated[int, Meta(ge=1, le=MAX_INTERVAL)] = 1


class WireFilters(msgspec.Struct, frozen=True, rename="camel"):
    partition_key: dict[str, list[str]] | None = None


class WireQuery(msgspec.Struct, frozen=True, rename="camel"):
    """The body of `POST /datasets/:slug/query`."""

    time_range: WireTimeRange
    timestamp_column: str = "timestamp"
    columns: list[str] | None = None
    limit: Annotated[int, Meta(ge=1, le=MAX_LIMIT)] | None = None
    filters: WireFilters | None = None
    downsample: WireDownsample | None = None
    as_of: Annotated[int, Meta(ge=1, le=MAX_VERSION)] | Annotated[str, Meta(min_length=1, max_length=255)] | None = None


@dataclass(frozen=True, slots=True)
class AskedAggregation:
    """One aggregation with its function known, its parameters checked and its alias decided."""

    fn: str
    column: str | None
    alias: str
    parameters: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class Bucket:
    """Buckets of `size` units, aligned to 1970-01-01 UTC (weeks to its Monday, 1969-12-29)."""

    unit: IntervalUnit
    size: int


@dataclass(frozen=True, slots=True)
class QueryRequest:
    """A checked query. Columns are not yet held against a schema."""

    time_range: TimeRange
    timestamp_column: str
    columns: tuple[str, ...] | None
    limit: int | None
    partition_key: tuple[tuple[str, frozenset[str]], ...]
    bucket: Bucket | None
    aggregations: tuple[AskedAggregation, ...]
    fingerprint: str
    as_of: int | str | None = None


def parse_query(body: bytes, functions: Mapping[str, Aggregation], settings: Settings) -> QueryRequest:
    """The query in the body. Raises InvalidRequest naming every field at fault."""
    wire = decode(body, WireQuery)
    problems: list[Problem] = []
    time_range = checked_range(wire.time_range, "timeRange", problems)
    filters = (wire.filters and wire.filters.partition_key) or {}
    _check_names(wire, settings, problems)
    for key, accepted in filters.items():
        if len(accepted) > settings.query_max_filter_values:
            limit = settings.query_max_filter_values
            problems.append(
                Problem(
                    f"filters.partitionKey.{key}",
                    f"lists {len(accepted)} values; TIMESTORE_QUERY_MAX_FILTER_VALUES is {limit}",
                )
            )
    aggregations = _aggregations(wire, functions, settings, problems)
    if isinstance(wire.as_of, str) and "\0" in wire.as_of:
        problems.append(Problem("asOf", "holds a NUL character"))
    if problems:
        raise InvalidRequest.of(problems)
    asked = wire.downsample
    bucket = None if asked is None else Bucket(asked.interval_unit, asked.interval_size)
    return QueryRequest(
        time_range=time_range,
        timestamp_column=wire.timestamp_column,
        columns=None if wire.columns is None else tuple(dict.fromkeys(wire.columns)),
        limit=wire.limit,
        partition_key=tuple((key, frozenset(accepted)) for key, accepted in sorted(filters.items())),
        bucket=bucket,
        aggregations=aggregations,
        as_of=wire.as_of,
        fingerprint=hashlib.blake2b(msgspec.json.encode(wire), digest_size=12).hexdigest(),
    )


def _check_names(wire: WireQuery, settings: Settings, problems: list[Problem]) -> None:
    named = [("timestampColumn", wire.timestamp_column)]
    if wire.columns is not None:
        if not wire.columns:
            problems.append(Problem("columns", "is empty; leave it out to get every column"))
        if len(wire.columns) > settings.ingest_max_columns:
            limit = settings.ingest_max_columns
            problems.append(Problem("columns", f"names {len(wire.columns)}; TIMESTORE_INGEST_MAX_COLUMNS is {limit}"))
            return
        named += [(f"columns[{index}]", name) for index, name in enumerate(wire.columns)]
    for path, name in named:
        wrong = name_problem(name, settings.max_name_length)
        if wrong:
            problems.append(Problem(path, wrong))


def _aggregations(
    wire: WireQuery, functions: Mapping[str, Aggregation], settings: Settings, problems: list[Problem]
) -> tuple[AskedAggregation, ...]:
    if wire.downsample is None:
        return ()
    path = "downsample.aggregations"
    asked = wire.downsample.aggregations
    if len(asked) > settings.query_max_aggregations:
        limit = settings.query_max_aggregations
        problems.append(Problem(path, f"has {len(asked)}; TIMESTORE_QUERY_MAX_AGGREGATIONS is {limit}"))
        return ()
    found = [_aggregation(one, f"{path}[{index}]", functions, settings, problems) for index, one in enumerate(asked)]
    aliases = [wire.timestamp_column, *(one.alias for one in found if one is not None)]
    clash = first_clash(aliases)
    if clash is not None:
        problems.append(Problem(path, f"two result columns are named {clash[1]!r}; give one an alias of its own"))
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
    return parameters
