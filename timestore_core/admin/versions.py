"""Versions of a dataset for people: taken back, kept by name, and watched as they come."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from timestore_core.admin import datasets
from timestore_core.catalog.audit import about, write_audit
from timestore_core.catalog.change import Change, Event, apply_change
from timestore_core.catalog.database import Connection, Row, translated
from timestore_core.catalog.records import manifest_json, manifest_of, partition_json, partition_of
from timestore_core.errors import Conflict, Gone, InvalidRequest, NotFound
from timestore_core.model import Actor, Dataset, Manifest, Schema, new_id
from timestore_core.names import name_problem
from timestore_core.runtime import Runtime
from timestore_core.times import format_time

MAX_PINS = 1000
MAX_WAIT_S = 30
MAX_CHANGES = 1000
_LOOK_EVERY_S = 0.25


class WireRestore(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """The body of `POST /admin/datasets/:id/restore`: the version to bring back; without one, a deleted dataset."""

    version: int | None = None
    dry_run: bool = False


class WirePin(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """The body of `PUT /admin/datasets/:id/pins/:name`: the version to keep, the current one by default."""

    version: int | None = None


_LOCK = "SELECT * FROM datasets WHERE id = %s AND deleted_at IS NULL FOR UPDATE"

_READABLE = """
SELECT %(version)s <= d.current_version AND (%(version)s >= d.readable_from
    OR EXISTS (SELECT 1 FROM dataset_pins n WHERE n.dataset_id = d.id AND n.version = %(version)s)) AS readable,
    d.readable_from, d.current_version
FROM datasets d WHERE d.id = %(dataset)s
"""

# The partitions of the old version that are not in the current one, and those of the current that were not in it;
# what was copied back before names the same file under another id.
_MISSING = """
SELECT p.* FROM dataset_partitions p
WHERE p.dataset_id = %(dataset)s AND p.added_version <= %(version)s AND p.removed_version > %(version)s
    AND NOT EXISTS (SELECT 1 FROM dataset_partitions c WHERE c.dataset_id = p.dataset_id
        AND c.added_version IS NOT NULL AND c.removed_version IS NULL AND c.file_path = p.file_path)
ORDER BY p.id
"""

_SURPLUS = """
SELECT p.id, p.row_count FROM dataset_partitions p
WHERE p.dataset_id = %(dataset)s AND p.added_version IS NOT NULL AND p.removed_version IS NULL
    AND NOT EXISTS (SELECT 1 FROM dataset_partitions o WHERE o.dataset_id = p.dataset_id
        AND o.added_version <= %(version)s AND (o.removed_version IS NULL OR o.removed_version > %(version)s)
        AND o.file_path = p.file_path)
ORDER BY p.id
"""

_COPY = """
INSERT INTO dataset_partitions (id, dataset_id, manifest_id, partition_key, storage_target_id, file_format, file_path,
    file_size_bytes, row_count, start_time, end_time, checksum, metadata, added_version, columns)
SELECT %(id)s, p.dataset_id, %(manifest)s, p.partition_key, p.storage_target_id, p.file_format, p.file_path,
    p.file_size_bytes, p.row_count, p.start_time, p.end_time, p.checksum,
    p.metadata || jsonb_build_object('dataVersion', coalesce((p.metadata ->> 'dataVersion')::integer, p.added_version)),
    %(version)s, coalesce(p.columns, (SELECT jsonb_agg(jsonb_build_object('name', f ->> 'name', 'type', f ->> 'type'))
        FROM dataset_manifests m JOIN dataset_schema_versions s ON s.id = m.schema_version_id,
            jsonb_array_elements(s.schema -> 'fields') f
        WHERE m.id = p.manifest_id))
FROM dataset_partitions p WHERE p.id = %(source)s AND NOT p.collecting
"""

# Bytes that stand in the catalog go with their row: the new one has its own.
_COPY_BLOB = """
INSERT INTO dataset_partition_blobs (partition_id, content)
SELECT %(id)s, content FROM dataset_partition_blobs WHERE partition_id = %(source)s
"""

_SET_TOTALS = """
UPDATE dataset_manifests m SET partition_count = t.partitions, total_rows = t.rows, total_bytes = t.bytes,
    statistics = jsonb_strip_nulls(m.statistics || jsonb_build_object('rowCount', t.rows, 'fileSizeBytes', t.bytes,
        'startTime', to_char(t.first AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
        'endTime', to_char(t.last AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')))
FROM (SELECT count(*) AS partitions, coalesce(sum(row_count), 0)::bigint AS rows,
        coalesce(sum(file_size_bytes), 0)::bigint AS bytes, min(start_time) AS first, max(end_time) AS last
    FROM dataset_partitions WHERE dataset_id = %(dataset)s AND added_version IS NOT NULL AND removed_version IS NULL) t
WHERE m.id = %(manifest)s RETURNING m.*
"""

_PIN = """
INSERT INTO dataset_pins (dataset_id, name, version, created_by) VALUES (%(dataset)s, %(name)s, %(version)s, %(by)s)
ON CONFLICT (dataset_id, name) DO UPDATE SET version = excluded.version, created_by = excluded.created_by,
    created_at = now() RETURNING *
"""

_BETWEEN = """
p.dataset_id = %(dataset)s AND (
    (p.added_version > %(since)s AND p.added_version <= %(until)s
        AND (p.removed_version IS NULL OR p.removed_version > %(until)s))
    OR (p.added_version <= %(since)s AND p.removed_version > %(since)s AND p.removed_version <= %(until)s))
"""

_CHANGED = f"""
SELECT p.*, s.schema FROM dataset_partitions p
LEFT JOIN dataset_manifests m ON p.columns IS NULL AND m.id = p.manifest_id
LEFT JOIN dataset_schema_versions s ON s.id = m.schema_version_id
WHERE {_BETWEEN} ORDER BY p.id LIMIT %(limit)s
"""  # noqa: S608

_CHANGED_TOTALS = f"""
SELECT p.added_version > %(since)s AS came, count(*) AS partitions, coalesce(sum(p.row_count), 0)::bigint AS rows
FROM dataset_partitions p WHERE {_BETWEEN} GROUP BY 1
"""  # noqa: S608


def require_readable(connection: Connection, dataset: Dataset, version: int) -> None:
    """Raise NotFound for a version that never was, Gone for one whose files may be deleted already."""
    row = connection.execute(_READABLE, {"dataset": dataset.id, "version": version}).fetchone()
    assert row is not None
    if version < 1 or version > row["current_version"]:
        raise NotFound(f"dataset {dataset.slug} has no version {version}; the current one is {row['current_version']}")
    if not row["readable"]:
        raise Gone(
            f"version {version} of {dataset.slug} is not whole any more; the oldest that is: {row['readable_from']}. "
            "A pin keeps a version, a longer deleteGraceMinutes or TIMESTORE_SNAPSHOT_RETENTION_HOURS all of them",
            code="version_expired",
            details={"readableFrom": row["readable_from"]},
        )


def restore_version(runtime: Runtime, key: str, version: int, actor: Actor, *, dry_run: bool) -> dict[str, Any]:
    """Publish the partitions of an earlier version as a new one; nothing is copied, the files are the same.

    Raises NotFound, Gone when the version's grace period is over, and Conflict when it is the current one.
    """
    dataset = datasets.find(runtime, key)
    with translated(), runtime.database.connection() as connection, connection.transaction():
        locked = connection.execute(_LOCK, [dataset.id]).fetchone()
        if locked is None:
            raise NotFound(f"dataset {key} not found")
        require_readable(connection, dataset, version)
        values = {"dataset": dataset.id, "version": version}
        missing = connection.execute(_MISSING, values).fetchall()
        surplus = connection.execute(_SURPLUS, values).fetchall()
        preview = _restore_json(dataset, version, missing, surplus)
        if dry_run:
            return {**preview, "dryRun": True}
        if not missing and not surplus:
            raise Conflict(f"version {version} has the same partitions as the current one", code="nothing_to_restore")
        manifest = _publish_restored(connection, dataset, locked, version, missing, surplus, actor)
    runtime.plugins.step("restore.published")
    return {**preview, "manifest": manifest_json(manifest, ())}


def _publish_restored(
    connection: Connection,
    dataset: Dataset,
    locked: Row,
    version: int,
    missing: list[Row],
    surplus: list[Row],
    actor: Actor,
) -> Manifest:
    payload = {**about(dataset, actor), "restoredVersion": version, "added": len(missing), "removed": len(surplus)}
    change = Change(
        dataset_id=dataset.id,
        dataset_slug=dataset.slug,
        removed=[row["id"] for row in surplus],
        added=(),
        events=[Event("admin.version.restored", payload)],
        created_by=actor.id or "timestore-admin",
        reason="restore",
    )
    apply_change(connection, locked, change)
    for row in missing:
        values = {
            "id": new_id("part"),
            "manifest": change.manifest_id,
            "version": locked["current_version"] + 1,
            "source": row["id"],
        }
        if connection.execute(_COPY, values).rowcount != 1:
            raise Gone(f"version {version} is not whole any more", code="version_expired")
        connection.execute(_COPY_BLOB, values)
    totals = {"dataset": dataset.id, "manifest": change.manifest_id}
    manifest = connection.execute(_SET_TOTALS, totals).fetchone()
    assert manifest is not None
    return manifest_of(manifest)


def _restore_json(dataset: Dataset, version: int, missing: list[Row], surplus: list[Row]) -> dict[str, Any]:
    return {
        "datasetId": dataset.id,
        "datasetSlug": dataset.slug,
        "restoredVersion": version,
        "added": {"partitions": len(missing), "rows": sum(row["row_count"] or 0 for row in missing)},
        "removed": {"partitions": len(surplus), "rows": sum(row["row_count"] or 0 for row in surplus)},
    }


def pins(runtime: Runtime, key: str) -> dict[str, Any]:
    """The kept versions of a dataset, by name."""
    dataset = datasets.find(runtime, key)
    rows = runtime.database.read(
        lambda connection: connection.execute(
            "SELECT * FROM dataset_pins WHERE dataset_id = %s ORDER BY name", [dataset.id]
        ).fetchall()
    )
    return {"datasetId": dataset.id, "pins": [_pin_json(row) for row in rows]}


def pin(runtime: Runtime, key: str, name: str, version: int | None, actor: Actor) -> tuple[dict[str, Any], bool]:
    """Keep the version under the name, and whether the name is new: its files stay until the pin goes."""
    wrong = name_problem(name, runtime.settings.max_name_length)
    if wrong:
        raise InvalidRequest.at("name", wrong)
    dataset = datasets.find(runtime, key)
    with translated(), runtime.database.connection() as connection, connection.transaction():
        locked = connection.execute(_LOCK, [dataset.id]).fetchone()
        if locked is None:
            raise NotFound(f"dataset {key} not found")
        kept = locked["current_version"] if version is None else version
        require_readable(connection, dataset, kept)
        known = connection.execute(
            "SELECT count(*) AS n, count(*) FILTER (WHERE name = %s) AS same FROM dataset_pins WHERE dataset_id = %s",
            [name, dataset.id],
        ).fetchone()
        assert known is not None
        if known["n"] >= MAX_PINS and not known["same"]:
            raise Conflict(f"a dataset has at most {MAX_PINS} pins; remove one first", code="too_many_pins")
        row = connection.execute(
            _PIN, {"dataset": dataset.id, "name": name, "version": kept, "by": actor.id}
        ).fetchone()
        assert row is not None
        payload = {**about(dataset, actor), "name": name, "version": kept}
        write_audit(connection, "admin.version.pinned", payload, dataset_id=dataset.id)
    return {"datasetId": dataset.id, "pin": _pin_json(row)}, not known["same"]


def unpin(runtime: Runtime, key: str, name: str, actor: Actor) -> dict[str, Any]:
    """Remove the pin; the version's files go when nothing else keeps them. Raises NotFound."""
    dataset = datasets.find(runtime, key)
    with translated(), runtime.database.connection() as connection, connection.transaction():
        row = connection.execute(
            "DELETE FROM dataset_pins WHERE dataset_id = %s AND name = %s RETURNING *", [dataset.id, name]
        ).fetchone()
        if row is None:
            raise NotFound(f"dataset {dataset.slug} has no pin {name}")
        payload = {**about(dataset, actor), "name": name, "version": row["version"]}
        write_audit(connection, "admin.version.unpinned", payload, dataset_id=dataset.id)
    return {"datasetId": dataset.id, "pin": _pin_json(row)}


def changes(
    runtime: Runtime, key: str, since: int, wait_s: float, is_gone: Callable[[], bool] | None = None
) -> dict[str, Any]:
    """What came and went between the version and the current one; waits for the next one where there is none.

    Raises NotFound for a version that never was, and Gone where its partitions are not known any more.
    """
    dataset = datasets.find(runtime, key)
    deadline = time.monotonic() + min(wait_s, MAX_WAIT_S)
    while True:
        found = runtime.database.read(lambda connection: _changes(connection, dataset, since))
        if found["version"] > since or time.monotonic() >= deadline or (is_gone is not None and is_gone()):
            return found
        time.sleep(min(_LOOK_EVERY_S, max(0.0, deadline - time.monotonic())))


def _changes(connection: Connection, dataset: Dataset, since: int) -> dict[str, Any]:
    if since > 0:
        require_readable(connection, dataset, since)
    row = connection.execute(_READABLE, {"dataset": dataset.id, "version": since}).fetchone()
    assert row is not None
    values = {"dataset": dataset.id, "since": since, "until": row["current_version"], "limit": MAX_CHANGES}
    shown = connection.execute(_CHANGED, values).fetchall()
    totals = {one["came"]: one for one in connection.execute(_CHANGED_TOTALS, values)}
    answer = {"datasetId": dataset.id, "since": since, "version": row["current_version"]}
    for name, came in (("added", True), ("removed", False)):
        rows = [one for one in shown if (one["added_version"] > since) == came]
        total = totals.get(came, {"partitions": 0, "rows": 0})
        items = [partition_json(partition_of(one, Schema.from_json(one["schema"] or {}))) for one in rows]
        answer[name] = {"partitions": total["partitions"], "rows": total["rows"], "items": items}
    if sum(one["partitions"] for one in totals.values()) > len(shown):
        answer["itemsTruncated"] = True
    return answer


def _pin_json(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": row["name"],
        "version": row["version"],
        "createdBy": row["created_by"],
        "createdAt": format_time(row["created_at"]),
    }
