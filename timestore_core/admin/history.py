"""What a dataset was and is: manifests, their partitions, schemas, and the audit log."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from timestore_core.admin import datasets
from timestore_core.admin.paging import decode_cursor, encode_cursor
from timestore_core.admin.versions import require_readable
from timestore_core.catalog.audit import audit_json
from timestore_core.catalog.database import Connection, Row
from timestore_core.catalog.records import manifest_json, manifest_of, partition_json, partition_of
from timestore_core.errors import InvalidRequest, NotFound
from timestore_core.model import Partition, Schema
from timestore_core.runtime import Runtime
from timestore_core.times import format_time, from_us, parse_time_us

# A manifest with more partitions than this answers the first ones; `…/partitions` pages through all of them.
MAX_MANIFEST_PARTITIONS = 10_000

_MANIFEST = """
SELECT m.*, s.schema FROM dataset_manifests m LEFT JOIN dataset_schema_versions s ON s.id = m.schema_version_id
WHERE m.dataset_id = %(dataset)s AND CASE WHEN %(version)s::integer IS NULL THEN m.status = 'published'
    ELSE m.version = %(version)s AND m.status <> 'draft' END
"""

_PARTITIONS_AT = """
SELECT p.*, s.schema FROM dataset_partitions p
LEFT JOIN dataset_manifests m ON p.columns IS NULL AND m.id = p.manifest_id
LEFT JOIN dataset_schema_versions s ON s.id = m.schema_version_id
WHERE p.dataset_id = %(dataset)s AND p.added_version <= %(version)s
    AND (p.removed_version IS NULL OR p.removed_version > %(version)s) AND p.id > %(after)s
    AND (%(from)s::timestamptz IS NULL OR p.end_time >= %(from)s)
    AND (%(to)s::timestamptz IS NULL OR p.start_time <= %(to)s)
    AND (%(key)s::jsonb IS NULL OR p.partition_key @> %(key)s::jsonb)
ORDER BY p.id LIMIT %(limit)s
"""

_MANIFESTS = """
SELECT m.*,
    (SELECT count(*) FROM dataset_partitions p WHERE p.dataset_id = m.dataset_id AND p.added_version = m.version)
        AS added_partitions,
    (SELECT coalesce(sum(row_count), 0)::bigint FROM dataset_partitions p
        WHERE p.dataset_id = m.dataset_id AND p.added_version = m.version) AS added_rows,
    (SELECT count(*) FROM dataset_partitions p WHERE p.dataset_id = m.dataset_id AND p.removed_version = m.version)
        AS removed_partitions,
    (SELECT coalesce(sum(row_count), 0)::bigint FROM dataset_partitions p
        WHERE p.dataset_id = m.dataset_id AND p.removed_version = m.version) AS removed_rows
FROM dataset_manifests m
WHERE m.dataset_id = %(dataset)s AND m.status <> 'draft' AND (%(before)s::integer IS NULL OR m.version < %(before)s)
ORDER BY m.version DESC LIMIT %(limit)s
"""

_SCHEMAS = """
SELECT * FROM dataset_schema_versions WHERE dataset_id = %(dataset)s
    AND (%(before)s::integer IS NULL OR version < %(before)s)
ORDER BY version DESC LIMIT %(limit)s
"""

_AUDIT = """
SELECT * FROM lifecycle_audit_log
WHERE (%(dataset)s::text IS NULL OR dataset_id = %(dataset)s) AND (%(event)s::text IS NULL OR event_type = %(event)s)
    AND (%(created)s::timestamptz IS NULL OR (created_at, id) < (%(created)s, %(id)s))
ORDER BY created_at DESC, id DESC LIMIT %(limit)s
"""


def manifest(runtime: Runtime, key: str, version: int | None) -> dict[str, Any]:
    """The published manifest, or that of a version, with all the partitions of its snapshot.

    Raises NotFound, and Gone for a version of which partitions may be deleted already.
    """
    dataset = datasets.find(runtime, key)
    values = {"dataset": dataset.id, "version": version}
    row = runtime.database.read(lambda connection: connection.execute(_MANIFEST, values).fetchone())
    if row is None:
        raise NotFound("no published manifest" if version is None else f"no manifest of version {version}")
    found = manifest_of(row)
    bounds = {"from": None, "to": None, "key": None, "after": "", "limit": MAX_MANIFEST_PARTITIONS}
    partitions = _partitions(runtime, {"dataset": dataset.id, "version": found.version, **bounds})
    if version is not None:
        # Asked last: a collection that began meanwhile has taken partitions from what was read.
        runtime.database.read(lambda connection: require_readable(connection, dataset, version))
    answer = manifest_json(found, partitions)
    if found.partition_count > len(partitions):
        answer["partitionsTruncated"] = True
    return {"datasetId": dataset.id, "manifest": answer}


def manifests(runtime: Runtime, key: str, limit: int, cursor: str | None) -> dict[str, Any]:
    """The history, newest first, with what each version added and removed."""
    rows, next_cursor, dataset_id = _versions(runtime, _MANIFESTS, key, limit, cursor)
    shown = []
    for row in rows:
        one = manifest_json(manifest_of(row), ())
        del one["partitions"]
        one["added"] = {"partitions": row["added_partitions"], "rows": row["added_rows"]}
        one["removed"] = {"partitions": row["removed_partitions"], "rows": row["removed_rows"]}
        shown.append(one)
    return {"datasetId": dataset_id, "manifests": shown, "nextCursor": next_cursor}


def schemas(runtime: Runtime, key: str, limit: int, cursor: str | None) -> dict[str, Any]:
    """The versions of the schema, newest first."""
    rows, next_cursor, dataset_id = _versions(runtime, _SCHEMAS, key, limit, cursor)
    shown = [
        {
            "id": row["id"],
            "version": row["version"],
            "description": row["description"],
            "fields": Schema.from_json(row["schema"]).to_json()["fields"],
            "checksum": row["checksum"],
            "createdAt": format_time(row["created_at"]),
        }
        for row in rows
    ]
    return {"datasetId": dataset_id, "schemas": shown, "nextCursor": next_cursor}


def partitions_page(
    runtime: Runtime,
    key: str,
    *,
    limit: int,
    cursor: str | None,
    version: int | None,
    start: str | None,
    end: str | None,
    partition_key: Mapping[str, str],
) -> dict[str, Any]:
    """The partitions of a snapshot that touch the time range and have the key's values, with column statistics.

    The cursor pins the version, so that later pages are of the same snapshot. Raises NotFound, and Gone once
    partitions of the version may be deleted already.
    """
    from psycopg.types.json import Jsonb

    dataset = datasets.find(runtime, key)
    position = decode_cursor(cursor, ("after",)) if cursor is not None else {"after": ""}
    pinned = position.get("version", version)
    if pinned is not None and (isinstance(pinned, bool) or not isinstance(pinned, int) or not 0 <= pinned < 2**31):
        raise InvalidRequest("invalid cursor")
    values = {"dataset": dataset.id, "version": pinned}
    row = runtime.database.read(lambda connection: connection.execute(_MANIFEST, values).fetchone())
    if row is None:
        raise NotFound("no published manifest" if pinned is None else f"no manifest of version {pinned}")
    bounds = {
        "from": _time("from", start),
        "to": _time("to", end),
        "key": Jsonb(dict(partition_key)) if partition_key else None,
        "after": position["after"],
        "limit": limit + 1,
    }
    found = _partitions(runtime, {"dataset": dataset.id, "version": row["version"], **bounds})
    runtime.database.read(lambda connection: require_readable(connection, dataset, row["version"]))
    more = len(found) > limit
    next_cursor = encode_cursor({"after": found[limit - 1].id, "version": row["version"]}) if more else None
    return {
        "datasetId": dataset.id,
        "version": row["version"],
        "partitions": [{**partition_json(one), "columns": _columns_json(one)} for one in found[:limit]],
        "nextCursor": next_cursor,
    }


def audit(
    runtime: Runtime, key: str | None, *, limit: int, cursor: str | None, event_type: str | None
) -> dict[str, Any]:
    """The audit log, newest first: of one dataset or of everything."""
    dataset_id = None if key is None else datasets.find(runtime, key).id
    position = decode_cursor(cursor, ("createdAt", "id")) if cursor is not None else {}
    created = _time("cursor", position.get("createdAt")) if position else None
    values = {
        "dataset": dataset_id,
        "event": event_type,
        "created": created,
        "id": position.get("id", ""),
        "limit": limit + 1,
    }
    rows = runtime.database.read(lambda connection: connection.execute(_AUDIT, values).fetchall())
    shown = rows[:limit]
    more = len(rows) > limit
    last = shown[-1] if more else None
    next_cursor = (
        None if last is None else encode_cursor({"createdAt": format_time(last["created_at"]), "id": last["id"]})
    )
    return {"events": [audit_json(row) for row in shown], "nextCursor": next_cursor}


def _versions(
    runtime: Runtime, statement: Any, key: str, limit: int, cursor: str | None
) -> tuple[list[Row], str | None, str]:
    dataset = datasets.find(runtime, key)
    before = decode_cursor(cursor, ()).get("version") if cursor is not None else None
    if cursor is not None and (isinstance(before, bool) or not isinstance(before, int) or not 0 <= before < 2**31):
        raise InvalidRequest("invalid cursor")
    values = {"dataset": dataset.id, "before": before, "limit": limit + 1}
    rows = runtime.database.read(lambda connection: connection.execute(statement, values).fetchall())
    next_cursor = encode_cursor({"version": rows[limit - 1]["version"]}) if len(rows) > limit else None
    return rows[:limit], next_cursor, dataset.id


def _partitions(runtime: Runtime, values: Mapping[str, Any]) -> list[Partition]:
    def work(connection: Connection) -> list[Partition]:
        rows = connection.execute(_PARTITIONS_AT, values).fetchall()
        return [partition_of(row, Schema.from_json(row["schema"] or {})) for row in rows]

    return runtime.database.read(work)


def _columns_json(partition: Partition) -> list[dict[str, Any]]:
    return [
        {"name": field.name, "type": field.type, **(known.to_json() if known else {})}
        for field in partition.schema.fields
        for known in [partition.statistics.get(field.name)]
    ]


def _time(path: str, text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        return from_us(parse_time_us(text))
    except ValueError as error:
        raise InvalidRequest.at(path, f"{text[:40]!r} {error}") from None
