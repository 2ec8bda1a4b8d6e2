"""A dataset as plain Python lists: what every answer of the service is compared with."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MONDAY = datetime(1969, 12, 29, tzinfo=UTC)
WIDTHS = {
    "second": timedelta(seconds=1),
    "minute": timedelta(minutes=1),
    "hour": timedelta(hours=1),
    "day": timedelta(days=1),
    "week": timedelta(days=7),
}


def iso(moment: datetime) -> str:
    text = moment.replace(tzinfo=None).isoformat(
        timespec="milliseconds" if moment.microsecond % 1000 == 0 else "microseconds"
    )
    return f"{text}Z"


def bucket_start(moment: datetime, unit: str, size: int) -> datetime:
    if unit == "month":
        months = (moment.year - 1970) * 12 + moment.month - 1
        first = months // size * size
        return datetime(1970 + first // 12, first % 12 + 1, 1, tzinfo=UTC)
    origin = MONDAY if unit == "week" else EPOCH
    width = WIDTHS[unit] * size
    return origin + (moment - origin) // width * width


@dataclass
class Row:
    """One stored row: its partition key and its values by column; columns that it lacks are NULL."""

    key: dict[str, str]
    values: dict[str, Any]


@dataclass
class Model:
    """The rows of a dataset, its columns in order with their types, and the batches by idempotency key."""

    columns: dict[str, str] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    keys: dict[str, Any] = field(default_factory=dict)
    version: int = 0

    def add(self, fields: dict[str, str], key: dict[str, str], rows: list[dict[str, Any]]) -> None:
        for name, type_ in fields.items():
            self.columns[name] = "double" if "double" in (type_, self.columns.get(name)) else type_
        self.rows += [Row(key, {name: row.get(name) for name in fields}) for row in rows]
        self.version += 1

    def selected(
        self, time: str, start: datetime, end: datetime, accepted: dict[str, list[str]]
    ) -> list[dict[str, Any]]:
        """The rows in range and with accepted keys, ascending by time."""
        found = []
        for row in self.rows:
            moment = row.values.get(time)
            if moment is None or not start <= moment <= end:
                continue
            if all(row.key.get(name) in values for name, values in accepted.items()):
                found.append({name: row.values.get(name) for name in self.columns})
        return sorted(found, key=lambda row: row[time])

    def buckets(
        self, rows: list[dict[str, Any]], time: str, unit: str, size: int, asked: list[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        groups: dict[datetime, list[dict[str, Any]]] = defaultdict(list)
        for row in rows:
            groups[bucket_start(row[time], unit, size)].append(row)
        return [
            {time: iso(start), **{one["alias"]: aggregate(one, groups[start]) for one in asked}}
            for start in sorted(groups)
        ]


def aggregate(asked: dict[str, Any], rows: list[dict[str, Any]]) -> Any:
    """The aggregation by its definition, NULLs left out."""
    if "column" not in asked:
        return len(rows)
    values = sorted(row[asked["column"]] for row in rows if row[asked["column"]] is not None)
    match asked["fn"]:
        case "count":
            return len(values)
        case "count_distinct":
            return len(set(values))
    if not values:
        return None
    match asked["fn"]:
        case "avg":
            return sum(values) / len(values)
        case "sum":
            return sum(values)
        case "min":
            return wire(values[0])
        case "max":
            return wire(values[-1])
        case "median":
            middle = len(values) // 2
            return values[middle] if len(values) % 2 else (values[middle - 1] + values[middle]) / 2
        case "percentile":
            # The smallest value whose share of the values up to it reaches the quantile.
            return wire(values[max(0, math.ceil(asked["percentile"] * len(values)) - 1)])
    raise AssertionError(asked["fn"])


def wire(value: Any) -> Any:
    return iso(value) if isinstance(value, datetime) else value


def same(expected: Any, found: Any) -> bool:
    """Equal, with a tolerance for the order in which doubles were added up."""
    if isinstance(expected, float) and isinstance(found, int | float) and not isinstance(found, bool):
        return math.isclose(expected, found, rel_tol=1e-9, abs_tol=1e-9)
    return bool(expected == found)


def multiset(rows: list[dict[str, Any]]) -> Counter[tuple[tuple[str, Any], ...]]:
    return Counter(tuple((name, wire(value)) for name, value in row.items()) for row in rows)
