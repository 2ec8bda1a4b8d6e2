"""A query as a client asks it: its shape, its checks, its meaning."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, UnsetType

from timestore_core.aggregations import Aggregation
from timestore_core.errors import InvalidRequest, Problem
from timestore_core.model import TimeRange
from timestore_core.names import first_clash, name_problem
from timestore_core.query.asked import AskedAggregation, WireAggregation, asked_aggregations
from timestore_core.query.buckets import Bucket, IntervalUnit
from timestore_core.query.cursor import Position, read_cursor
from timestore_core.query.downsampling import Fill, FillWord, checked_bucket, checked_fill
from timestore_core.query.filters import Condition, WireFilter, key_conditions, structure_problems
from timestore_core.settings import Settings
from timestore_core.wire import WireTimeRange, checked_range, decode

MAX_LIMIT = 500_000
# Rows of a page where no limit is asked for.
DEFAULT_PAGE = 10_000
MAX_INTERVAL = 100_000
MAX_VERSION = 2**31 - 1
MAX_CURSOR = 1024


class WireDownsample(msgspec.Struct, frozen=True, rename="camel"):
    aggregations: Annotated[list[WireAggregation], Meta(min_length=1)]
    interval_unit: IntervalUnit = "minute"
    interval_size: Annotated[int, Meta(ge=1, le=MAX_INTERVAL)] = 1
    fill: FillWord | float | UnsetType | None = msgspec.UNSET
    timezone: str | None = None
    origin: str | None = None


class WireFilters(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    partition_key: dict[str, list[str] | WireFilter] | None = None
    columns: dict[str, WireFilter] | None = None


class WireQuery(msgspec.Struct, frozen=True, rename="camel"):
    """The body of `POST /datasets/:slug/query`."""

    time_range: WireTimeRange
    timestamp_column: str = "timestamp"
    columns: list[str] | None = None
    limit: Annotated[int, Meta(ge=1, le=MAX_LIMIT)] | None = None
    filters: WireFilters | None = None
    downsample: WireDownsample | None = None
    group_by: list[str] | None = None
    aggregations: Annotated[list[WireAggregation], Meta(min_length=1)] | None = None
    latest: bool = False
    order: Literal["asc", "desc"] = "asc"
    cursor: Annotated[str, Meta(max_length=MAX_CURSOR)] | UnsetType | None = msgspec.UNSET
    as_of: Annotated[int, Meta(ge=1, le=MAX_VERSION)] | Annotated[str, Meta(min_length=1, max_length=255)] | None = None
    explain: bool = False


@dataclass(frozen=True, slots=True)
class QueryRequest:
    """A checked query. Columns are not yet held against a schema.

    `mode` says what rows the answer has: stored ones, one a bucket (and group), one a group, or each group's newest.
    `paged` says that the client reads page by page and `position` where this one begins. `fingerprint` tells one
    question from another, and `question` does so too, but is the same for each page of one.
    """

    time_range: TimeRange
    timestamp_column: str
    columns: tuple[str, ...] | None
    limit: int | None
    partition_key: tuple[tuple[str, frozenset[str]], ...]
    bucket: Bucket | None
    aggregations: tuple[AskedAggregation, ...]
    fingerprint: str
    as_of: int | str | None = None
    key_conditions: tuple[Condition, ...] = ()
    column_filters: tuple[tuple[str, WireFilter], ...] = ()
    group_by: tuple[str, ...] | None = None
    fill: Fill | None = None
    latest: bool = False
    descending: bool = False
    paged: bool = False
    position: Position | None = None
    question: str = ""
    explain: bool = False

    @property
    def mode(self) -> Literal["raw", "downsampled", "aggregated", "latest"]:
        if self.bucket is not None:
            return "downsampled"
        if self.latest:
            return "latest"
        return "raw" if self.group_by is None and not self.aggregations else "aggregated"


def parse_query(body: bytes, functions: Mapping[str, Aggregation], settings: Settings, dataset_id: str) -> QueryRequest:
    """The query in the body, its cursor one of this dataset's. Raises InvalidRequest naming every field at fault."""
    wire = decode(body, WireQuery)
    problems: list[Problem] = []
    time_range = checked_range(wire.time_range, "timeRange", problems)
    _check_names(wire, settings, problems)
    _check_shape(wire, problems)
    partition_key, conditions = _partition_key(wire, settings, problems)
    columns = (wire.filters and wire.filters.columns) or {}
    problems += structure_problems(columns, "filters.columns", settings)
    aggregations = _aggregations(wire, functions, settings, problems)
    asked = wire.downsample
    bucket = None
    if asked is not None:
        bucket = checked_bucket(asked.interval_unit, asked.interval_size, asked.timezone, asked.origin, problems)
    fill = None if asked is None or asked.fill is msgspec.UNSET else checked_fill(asked.fill, problems)
    if bucket is not None and fill is not None and bucket.count_up_to(time_range) > settings.query_max_rows:
        problems.append(
            Problem(
                "downsample.fill",
                f"would make more rows than {settings.query_max_rows} (TIMESTORE_QUERY_MAX_ROWS) of the time range; "
                "ask for larger buckets or a shorter range",
            )
        )
    if isinstance(wire.as_of, str) and "\0" in wire.as_of:
        problems.append(Problem("asOf", "holds a NUL character"))
    same = msgspec.structs.replace(wire, cursor=msgspec.UNSET, limit=None, as_of=None, explain=False)
    question = _fingerprint(same, dataset_id)
    position = None
    if isinstance(wire.cursor, str) and wire.cursor:
        position = read_cursor(wire.cursor, question, problems)
    if problems:
        raise InvalidRequest.of(problems)
    return QueryRequest(
        time_range=time_range,
        timestamp_column=wire.timestamp_column,
        columns=None if wire.columns is None else tuple(dict.fromkeys(wire.columns)),
        limit=DEFAULT_PAGE if wire.limit is None and wire.cursor is not msgspec.UNSET else wire.limit,
        partition_key=partition_key,
        bucket=bucket,
        aggregations=aggregations,
        as_of=wire.as_of if position is None else position.version,
        fingerprint=_fingerprint(wire),
        key_conditions=conditions,
        column_filters=tuple(sorted(columns.items())),
        group_by=None if wire.group_by is None else tuple(dict.fromkeys(wire.group_by)),
        fill=fill,
        latest=wire.latest,
        descending=wire.order == "desc",
        paged=wire.cursor is not msgspec.UNSET,
        position=position,
        question=question,
        explain=wire.explain,
    )


def _fingerprint(wire: WireQuery, dataset_id: str = "") -> str:
    return hashlib.blake2b(msgspec.json.encode([wire, dataset_id]), digest_size=12).hexdigest()


def _partition_key(
    wire: WireQuery, settings: Settings, problems: list[Problem]
) -> tuple[tuple[tuple[str, frozenset[str]], ...], tuple[Condition, ...]]:
    """Which values of which keys are accepted, and the conditions on the others."""
    filters = (wire.filters and wire.filters.partition_key) or {}
    conditions: dict[str, WireFilter] = {}
    accepted: list[tuple[str, frozenset[str]]] = []
    for key, one in sorted(filters.items()):
        if isinstance(one, WireFilter):
            conditions[key] = one
            continue
        accepted.append((key, frozenset(one)))
        if len(one) > settings.query_max_filter_values:
            limit = settings.query_max_filter_values
            problems.append(
                Problem(
                    f"filters.partitionKey.{key}",
                    f"lists {len(one)} values; TIMESTORE_QUERY_MAX_FILTER_VALUES is {limit}",
                )
            )
    problems += structure_problems(conditions, "filters.partitionKey", settings)
    return tuple(accepted), key_conditions(conditions, "filters.partitionKey", problems)


def _check_shape(wire: WireQuery, problems: list[Problem]) -> None:
    """Which fields have no meaning beside each other."""
    if wire.aggregations is not None and wire.downsample is not None:
        problems.append(Problem("aggregations", "stand inside `downsample` where there is one"))
    if wire.latest and (wire.downsample is not None or wire.aggregations is not None):
        problems.append(Problem("latest", "gives whole rows; leave out `downsample` and `aggregations`"))
    if wire.group_by == [] and not (wire.latest or wire.downsample or wire.aggregations):
        problems.append(Problem("groupBy", "is empty; name columns, or give aggregations over everything"))
    if wire.columns is not None and not wire.latest and (wire.group_by is not None or wire.aggregations is not None):
        problems.append(Problem("columns", "are those of `groupBy` and `aggregations` here; leave it out"))


def _check_names(wire: WireQuery, settings: Settings, problems: list[Problem]) -> None:
    named = [("timestampColumn", wire.timestamp_column)]
    for path, names in (("columns", wire.columns), ("groupBy", wire.group_by)):
        if names is None:
            continue
        if not names and path == "columns":
            problems.append(Problem("columns", "is empty; leave it out to get every column"))
        if len(names) > settings.ingest_max_columns:
            limit = settings.ingest_max_columns
            problems.append(Problem(path, f"names {len(names)}; TIMESTORE_INGEST_MAX_COLUMNS is {limit}"))
            return
        named += [(f"{path}[{index}]", name) for index, name in enumerate(names)]
    for path, name in named:
        wrong = name_problem(name, settings.max_name_length)
        if wrong:
            problems.append(Problem(path, wrong))


def _aggregations(
    wire: WireQuery, functions: Mapping[str, Aggregation], settings: Settings, problems: list[Problem]
) -> tuple[AskedAggregation, ...]:
    asked: list[WireAggregation] = wire.aggregations or []
    path, taken = "aggregations", list(dict.fromkeys(wire.group_by or []))
    if wire.downsample is not None:
        asked, path, taken = wire.downsample.aggregations, "downsample.aggregations", [wire.timestamp_column, *taken]
    if len(asked) > settings.query_max_aggregations:
        limit = settings.query_max_aggregations
        problems.append(Problem(path, f"has {len(asked)}; TIMESTORE_QUERY_MAX_AGGREGATIONS is {limit}"))
        return ()
    found = asked_aggregations(asked, path, functions, settings, problems)
    clash = first_clash([*taken, *(one.alias for one in found)])
    if clash is not None and asked:
        problems.append(Problem(path, f"two result columns are named {clash[1]!r}; give one an alias of its own"))
    return found
