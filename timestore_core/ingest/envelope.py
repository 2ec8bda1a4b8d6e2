"""A batch as a client sends it: everything around the rows, checked."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from timestore_core.errors import InvalidRequest, Problem
from timestore_core.model import Field, FieldType, Schema, TimeRange
from timestore_core.names import first_clash, name_problem
from timestore_core.settings import Settings
from timestore_core.wire import WireTimeRange, checked_range, decode

MAX_KEY_LENGTH = 255
MAX_TABLE_NAME_LENGTH = 120


class WireField(msgspec.Struct, frozen=True):
    name: str
    type: FieldType


class WireSchema(msgspec.Struct, frozen=True):
    fields: Annotated[list[WireField], Meta(min_length=1)]


class WirePartition(msgspec.Struct, frozen=True, rename="camel"):
    key: dict[str, str]
    time_range: WireTimeRange


class WireActor(msgspec.Struct, frozen=True):
    id: str
    scopes: list[str] = []


class WireBatch(msgspec.Struct, frozen=True, rename="camel"):
    """The body of `POST /datasets/:slug/ingest`. The rows stay raw: they become columns, never objects."""

    schema: WireSchema
    partition: WirePartition
    rows: msgspec.Raw
    dataset_name: Annotated[str, Meta(min_length=1)] | None = None
    storage_target_id: str | None = None
    table_name: Annotated[str, Meta(min_length=1, max_length=MAX_TABLE_NAME_LENGTH)] | None = None
    idempotency_key: Annotated[str, Meta(min_length=1, max_length=MAX_KEY_LENGTH)] | None = None
    actor: WireActor | None = None


@dataclass(frozen=True, slots=True)
class Envelope:
    """What stands around a batch's rows, checked; of a JSON batch also the rows, not yet decoded."""

    dataset_name: str
    storage_target_id: str | None
    table_name: str
    schema: Schema
    partition_key: Mapping[str, str]
    time_range: TimeRange
    idempotency_key: str | None
    rows_json: msgspec.Raw | bytes = b"[]"


def parse_batch(body: bytes, slug: str, header_key: str | None, settings: Settings) -> Envelope:
    """The batch in the body. Raises InvalidRequest naming every field at fault."""
    wire = decode(body, WireBatch)
    problems: list[Problem] = []
    check_schema(wire.schema.fields, settings, problems, "schema.fields")
    check_key(wire.partition.key, settings, problems, "partition.key")
    time_range = checked_range(wire.partition.time_range, "partition.timeRange", problems)
    for path, text in (("datasetName", wire.dataset_name), ("tableName", wire.table_name)):
        wrong = None if text is None else name_problem(text, settings.max_name_length)
        if wrong:
            problems.append(Problem(path, wrong))
    key = idempotency_key(wire.idempotency_key or header_key, problems)
    if problems:
        raise InvalidRequest.of(problems)
    return Envelope(
        dataset_name=wire.dataset_name or slug,
        storage_target_id=wire.storage_target_id,
        table_name=wire.table_name or "records",
        schema=Schema(tuple(Field(field.name, field.type) for field in wire.schema.fields)),
        partition_key=wire.partition.key,
        time_range=time_range,
        idempotency_key=key,
        rows_json=wire.rows,
    )


def check_slug(slug: str, settings: Settings) -> None:
    """Raise InvalidRequest unless a dataset may be called this."""
    wrong = name_problem(slug, settings.max_slug_length)
    if wrong is None and not re.fullmatch(settings.slug_pattern, slug):
        wrong = f"does not match TIMESTORE_SLUG_PATTERN ({settings.slug_pattern})"
    if wrong:
        raise InvalidRequest.at("datasetSlug", wrong)


def idempotency_key(key: str | None, problems: list[Problem]) -> str | None:
    """The key; what is wrong with it is added to the problems."""
    if key is not None and len(key) > MAX_KEY_LENGTH:
        problems.append(Problem("idempotency-key", f"has more than {MAX_KEY_LENGTH} characters"))
    elif key is not None and "\0" in key:
        problems.append(Problem("idempotencyKey", "holds a NUL character"))
    return key


def check_schema(fields: Sequence[WireField | Field], settings: Settings, problems: list[Problem], path: str) -> None:
    """Add what is wrong with the columns' number and names to the problems."""
    if len(fields) > settings.ingest_max_columns:
        limit = settings.ingest_max_columns
        problems.append(Problem(path, f"has {len(fields)} fields; TIMESTORE_INGEST_MAX_COLUMNS is {limit}"))
        return
    for index, field in enumerate(fields):
        wrong = name_problem(field.name, settings.max_name_length)
        if wrong:
            problems.append(Problem(f"{path}[{index}].name", wrong))
    clash = first_clash(field.name for field in fields)
    if clash is not None:
        problems.append(Problem(path, f"{clash[0]!r} and {clash[1]!r} are one name to the engine"))


def check_key(key: Mapping[str, str], settings: Settings, problems: list[Problem], path: str) -> None:
    """Add what is wrong with the partition key's pairs to the problems."""
    if len(key) > settings.ingest_max_key_pairs:
        limit = settings.ingest_max_key_pairs
        problems.append(Problem(path, f"has {len(key)} pairs; TIMESTORE_INGEST_MAX_KEY_PAIRS is {limit}"))
        return
    for name, value in key.items():
        for place, text in ((path, name), (f"{path}.{name}", value)):
            wrong = name_problem(text, settings.max_name_length)
            if wrong:
                problems.append(Problem(place[:200], wrong))


def wire_schema() -> dict[str, Any]:
    """The JSON Schema of the body, made from the same types that validate it."""
    return msgspec.json.schema(WireBatch)
