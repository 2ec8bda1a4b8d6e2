"""What a JSON batch says around its rows, said in the query string for bodies that are nothing but rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qs

from timestore_core.errors import InvalidRequest, Problem
from timestore_core.ingest.envelope import (
    MAX_TABLE_NAME_LENGTH,
    WireSchema,
    check_key,
    check_schema,
    idempotency_key,
)
from timestore_core.model import FIELD_TYPES, Field, Schema, TimeRange
from timestore_core.names import name_problem
from timestore_core.settings import Settings
from timestore_core.wire import WireTimeRange, checked_range, decode

MAX_PARAMETERS = 2_000
_KNOWN = (
    "schema",
    "partitionKey",
    "start",
    "end",
    "timestampColumn",
    "tableName",
    "storageTargetId",
    "datasetName",
    "idempotencyKey",
)


@dataclass(frozen=True, slots=True)
class Parameters:
    """The checked query string of a batch. `schema` names the types of some or all of its columns."""

    schema: Schema
    partition_key: Mapping[str, str]
    time_range: TimeRange | None
    timestamp_column: str | None
    table_name: str
    storage_target_id: str | None
    dataset_name: str | None
    idempotency_key: str | None


def read_parameters(query_string: str, header_key: str | None, settings: Settings) -> Parameters:
    """The parameters of the query string; the header's idempotency key counts where none is in it.

    Raises InvalidRequest naming every parameter at fault; a name that is not known is one, since a mistyped one
    would silently change what is stored.
    """
    given = _given(query_string)
    problems = [Problem(name[:80], f"is no parameter; there are {', '.join(_KNOWN)}") for name in given.keys() - _KNOWN]
    one = {name: _only(name, values, problems) for name, values in given.items() if name not in _REPEATED}
    schema = _schema(given.get("schema", []), settings, problems)
    partition_key = _partition_key(given.get("partitionKey", []), settings, problems)
    for name, limit in (("datasetName", None), ("tableName", MAX_TABLE_NAME_LENGTH), ("timestampColumn", None)):
        wrong = name_problem(one[name], limit or settings.max_name_length) if name in one else None
        if wrong:
            problems.append(Problem(name, wrong))
    time_range = _time_range(one.get("start"), one.get("end"), problems)
    key = idempotency_key(one.get("idempotencyKey") or header_key, problems)
    if problems:
        raise InvalidRequest.of(problems[:50])
    return Parameters(
        schema,
        partition_key,
        time_range,
        one.get("timestampColumn"),
        one.get("tableName", "records"),
        one.get("storageTargetId"),
        one.get("datasetName"),
        key,
    )


_REPEATED = ("schema", "partitionKey")


def _given(query_string: str) -> dict[str, list[str]]:
    try:
        return parse_qs(query_string, keep_blank_values=True, errors="strict", max_num_fields=MAX_PARAMETERS)
    except (ValueError, UnicodeDecodeError):
        raise InvalidRequest.at("query", f"is not UTF-8, or has more than {MAX_PARAMETERS} parameters") from None


def _only(name: str, values: list[str], problems: list[Problem]) -> str:
    if len(values) > 1:
        problems.append(Problem(name[:80], "is given more than once"))
    return values[0]


def _schema(texts: list[str], settings: Settings, problems: list[Problem]) -> Schema:
    """`name:type,…`, once or more; or, for names with a comma, the JSON of a batch's `schema`."""
    fields: list[Field] = []
    for text in texts:
        if text.startswith("{"):
            wire = decode(text.encode("utf-8", "replace"), WireSchema)
            fields += [Field(one.name, one.type) for one in wire.fields]
            continue
        for part in text.split(",") if text else []:
            name, colon, type_ = part.rpartition(":")
            if not colon or type_ not in FIELD_TYPES:
                problems.append(
                    Problem("schema", f"{part[:80]!r} is not name:type, with a type of {', '.join(FIELD_TYPES)}")
                )
                continue
            fields.append(Field(name, type_))
    check_schema(fields, settings, problems, "schema")
    return Schema(tuple(fields))


def _partition_key(pairs: list[str], settings: Settings, problems: list[Problem]) -> dict[str, str]:
    """`key:value`, once for each pair; the value may hold colons."""
    found: dict[str, str] = {}
    for pair in pairs:
        key, colon, value = pair.partition(":")
        if not colon:
            problems.append(Problem("partitionKey", f"{pair[:80]!r} is not key:value"))
        elif key in found:
            problems.append(Problem("partitionKey", f"{key[:80]!r} is given more than once"))
        found[key] = value
    check_key(found, settings, problems, "partitionKey")
    return found


def _time_range(start: str | None, end: str | None, problems: list[Problem]) -> TimeRange | None:
    if start is None and end is None:
        return None
    if start is None or end is None:
        name = "start" if start is None else "end"
        problems.append(Problem(name, "is missing: send both start and end, or neither to have them from the rows"))
        return None
    return checked_range(WireTimeRange(start, end), "", problems)
