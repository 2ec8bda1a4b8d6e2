"""The records that everything passes around. All frozen; times are timezone-aware UTC or integer microseconds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal
from uuid import uuid4

FieldType = Literal["timestamp", "string", "double", "integer", "boolean"]
# Of a result's column, which may also be a list of counts.
ResultType = FieldType | Literal["integers"]
FIELD_TYPES: tuple[FieldType, ...] = ("timestamp", "string", "double", "integer", "boolean")

IdPrefix = Literal["ds", "dsv", "dm", "part", "st", "ing", "ljr", "la"]


def new_id(prefix: IdPrefix) -> str:
    """A fresh id: the kind's prefix and a random UUID. Never reused."""
    return f"{prefix}-{uuid4()}"


@dataclass(frozen=True, slots=True)
class Field:
    """One column of a dataset."""

    name: str
    type: FieldType


@dataclass(frozen=True, slots=True)
class ResultField:
    """One column of an answer."""

    name: str
    type: ResultType


@dataclass(frozen=True, slots=True)
class Schema:
    """The columns of a dataset or of one file, in order; names are unique."""

    fields: tuple[Field, ...]

    def type_of(self, name: str) -> FieldType | None:
        """The column's type, or None where there is no such column. Names are matched exactly."""
        for one in self.fields:
            if one.name == name:
                return one.type
        return None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(one.name for one in self.fields)

    def to_json(self) -> dict[str, Any]:
        return {"fields": [{"name": one.name, "type": one.type} for one in self.fields]}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Schema:
        return cls(tuple(Field(one["name"], one["type"]) for one in value.get("fields", [])))

    @property
    def checksum(self) -> str:
        """SHA-1 of the compact JSON `[{"name","type"},…]`, as existing deployments compute it."""
        compact = json.dumps(self.to_json()["fields"], separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha1(compact.encode(), usedforsecurity=False).hexdigest()


@dataclass(frozen=True, slots=True)
class TimeRange:
    """Both ends inclusive, in microseconds since 1970-01-01 UTC."""

    start_us: int
    end_us: int


@dataclass(frozen=True, slots=True)
class StorageTarget:
    """A place where partition files live; `kind` names the driver that reads `config`."""

    id: str
    name: str
    kind: str
    description: str | None
    config: Mapping[str, Any]
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Dataset:
    """A named series of snapshots."""

    id: str
    slug: str
    name: str
    description: str | None
    status: str
    write_format: str
    default_storage_target_id: str | None
    metadata: Mapping[str, Any]
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class ColumnStatistics:
    """What is known of one column of one file.

    `minimum` and `maximum` are JSON scalars (times as microseconds, strings cut to a prefix) or None when
    every value is NULL; `exact` is False where a string was cut, so that the bounds only enclose, and where a
    double's values include NaN (which lies between no bounds) or infinities (then there are no bounds at all).
    `values` are all those of a string column that has few, or None; `decimals` are the digits after the point that the
    values of a double column have at most, or None where they are many.
    """

    minimum: int | float | str | bool | None
    maximum: int | float | str | bool | None
    nulls: int
    exact: bool = True
    values: frozenset[str] | None = None
    decimals: int | None = None

    def to_json(self) -> dict[str, Any]:
        value: dict[str, Any] = {"min": self.minimum, "max": self.maximum, "nulls": self.nulls}
        if self.values is not None:
            value["values"] = sorted(self.values)
        if self.decimals is not None:
            value["decimals"] = self.decimals
        return value if self.exact else {**value, "exact": False}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ColumnStatistics:
        low, high = value.get("min"), value.get("max")
        if value.get("type") == "double":
            # PostgreSQL's JSON writes 1e23 as an integer, which is another number than the double.
            low, high = (None if end is None else float(end) for end in (low, high))
        values = value.get("values")
        few = None if values is None else frozenset(values)
        return cls(low, high, value.get("nulls", 0), value.get("exact", True), few, value.get("decimals"))


@dataclass(frozen=True, slots=True)
class Partition:
    """One immutable file of a dataset. It is in snapshot v when added_version <= v < removed_version.

    `members` are the ids of the partitions that this one stands for, where it stands for several (`catalog.joined`).
    `version` is the one that wrote its rows, also where a later one brought them back.
    """

    id: str
    dataset_id: str
    manifest_id: str
    partition_key: Mapping[str, str]
    storage_target_id: str
    file_format: str
    file_path: str
    file_size_bytes: int
    row_count: int
    start_time: datetime
    end_time: datetime
    checksum: str | None
    metadata: Mapping[str, Any]
    created_at: datetime
    schema: Schema
    statistics: Mapping[str, ColumnStatistics] = field(default_factory=dict)
    members: tuple[str, ...] = ()
    version: int = 0

    @property
    def table_name(self) -> str:
        name: str = self.metadata.get("tableName", "records")
        return name


@dataclass(frozen=True, slots=True)
class Manifest:
    """A snapshot of a dataset: its version, totals over the whole snapshot, and what this publish added."""

    id: str
    dataset_id: str
    version: int
    status: str
    schema_version_id: str | None
    parent_manifest_id: str | None
    summary: Mapping[str, Any]
    statistics: Mapping[str, Any]
    metadata: Mapping[str, Any]
    partition_count: int
    total_rows: int
    total_bytes: int
    created_by: str | None
    created_at: datetime
    updated_at: datetime
    published_at: datetime | None


@dataclass(frozen=True, slots=True)
class Actor:
    """Who asks: an id where one is known, and the scopes that they hold.

    `authenticated` is False where credentials are expected and none came: a refusal is then 401, not 403.
    """

    id: str | None
    scopes: frozenset[str]
    authenticated: bool = True
