"""Publishing a changed snapshot: some partitions leave, others come, in one transaction.

Everything but ingest changes a dataset this way: compaction, retention, tiering, deletion of rows, restoring.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import stamina
from psycopg.types.json import Jsonb

from timestore_core.catalog.audit import write_audit
from timestore_core.catalog.database import Connection, Database, Row, lost_connection, translated
from timestore_core.catalog.records import manifest_of
from timestore_core.catalog.snapshot_rows import ADVANCE_DATASET, INSERT_MANIFEST, INSERT_PARTITION, SUPERSEDE
from timestore_core.dedupe import Dedupe, dedupe_of
from timestore_core.errors import NotFound, Unavailable
from timestore_core.model import ColumnStatistics, Manifest, Schema, new_id
from timestore_core.times import format_time, running_s

_TRIES = 4
_TRY_FOR_S = 8.0

_LOCK = "SELECT * FROM datasets WHERE id = %s AND deleted_at IS NULL FOR UPDATE"

_HEAD = "SELECT * FROM dataset_manifests WHERE dataset_id = %s AND status = 'published'"

_PUBLISHED_BEFORE = "SELECT * FROM dataset_manifests WHERE id = %s"

_REMOVE = """
UPDATE dataset_partitions SET removed_version = %(version)s, removed_at = now()
WHERE dataset_id = %(dataset)s AND id = ANY(%(ids)s) AND added_version IS NOT NULL AND removed_version IS NULL
RETURNING row_count, file_size_bytes
"""

_TIME_RANGE = """
SELECT min(start_time) AS start, max(end_time) AS end FROM dataset_partitions
WHERE dataset_id = %s AND added_version IS NOT NULL AND removed_version IS NULL
"""

_IS_SAME_FILE_LIVE = """
SELECT 1 FROM dataset_partitions
WHERE dataset_id = %(dataset)s AND storage_target_id = %(target)s AND file_path = %(path)s AND removed_version IS NULL
"""


class InputsGoneError(Exception):
    """A partition that was to be replaced left the snapshot meanwhile, the new files are too old to be safe, or their
    rows were merged by a rule that is no longer the dataset's."""


@dataclass(frozen=True, slots=True)
class NewPartition:
    """A stored file that a change brings into the snapshot; `merged_by` is the rule by which rows were left out."""

    id: str
    partition_key: Mapping[str, str]
    target_id: str
    file_format: str
    file_path: str
    file_size_bytes: int
    row_count: int
    start_time: datetime
    end_time: datetime
    checksum: str | None
    schema: Schema
    statistics: Mapping[str, ColumnStatistics]
    metadata: Mapping[str, Any]
    merged_by: Dedupe | None = None

    @staticmethod
    def columns_of(schema: Schema, statistics: Mapping[str, ColumnStatistics]) -> list[dict[str, Any]]:
        """The file's columns as the catalog keeps them, with what is known of each."""
        return [
            {"name": one.name, "type": one.type, **(known.to_json() if known else {})}
            for one in schema.fields
            for known in [statistics.get(one.name)]
        ]


@dataclass(frozen=True, slots=True)
class Event:
    """A line of the audit log; `payload` without the dataset, which every line names."""

    type: str
    payload: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Change:
    """What a new snapshot takes away from the current one and adds to it.

    `manifest_id` is chosen beforehand: trying again after a lost answer finds what the first try did.
    """

    dataset_id: str
    dataset_slug: str
    removed: Sequence[str]
    added: Sequence[NewPartition]
    events: Sequence[Event]
    created_by: str
    reason: str
    publish_before_s: float = math.inf
    manifest_id: str = field(default_factory=lambda: new_id("dm"))


@dataclass(frozen=True, slots=True)
class Changed:
    """The snapshot that a change made, and its lines in the audit log."""

    manifest: Manifest
    audit: tuple[Row, ...]


def publish_change(database: Database, change: Change) -> Changed:
    """Make the changed snapshot the current one.

    Raises InputsGoneError when a partition to be removed is not in the current snapshot, or the rule of what is one row
    is another: nothing was published.
    Raises NotFound when the dataset was deleted, and Unavailable when PostgreSQL stayed away: whether the last try
    was committed is then unknown, and the new files must stay.
    """
    for trial in stamina.retry_context(
        on=Unavailable, attempts=_TRIES, timeout=_TRY_FOR_S, wait_initial=0.05, wait_max=1.0
    ):
        with trial:
            try:
                with translated(), database.connection() as connection, connection.transaction():
                    return _publish(connection, change, is_retry=trial.num > 1)
            except Unavailable as error:
                if lost_connection(error):
                    database.drop_dead_connections()
                raise
    raise AssertionError("unreachable")


def _publish(connection: Connection, change: Change, *, is_retry: bool) -> Changed:
    locked = connection.execute(_LOCK, [change.dataset_id]).fetchone()
    if locked is None:
        raise NotFound(f"dataset {change.dataset_slug} was deleted")
    if is_retry:
        found = connection.execute(_PUBLISHED_BEFORE, [change.manifest_id]).fetchone()
        if found is not None:
            return Changed(manifest_of(found), _audit_of(connection, change.manifest_id))
    if running_s() > change.publish_before_s:
        raise InputsGoneError
    return apply_change(connection, locked, change)


def apply_change(connection: Connection, locked: Row, change: Change) -> Changed:
    """The change as part of the caller's transaction, which holds the dataset's row `locked`."""
    head = connection.execute(_HEAD, [change.dataset_id]).fetchone()
    if head is None:
        raise NotFound(f"dataset {change.dataset_slug} has no snapshot yet")
    version = locked["current_version"] + 1
    values = {"dataset": change.dataset_id, "version": version, "ids": list(change.removed)}
    removed = connection.execute(_REMOVE, values).fetchall()
    if len(removed) != len(change.removed):
        raise InputsGoneError
    connection.execute(SUPERSEDE, [head["id"]])
    connection.execute(INSERT_MANIFEST, _manifest_values(change, head, version, removed))
    for partition in change.added:
        rule = dedupe_of(locked["metadata"], partition.schema)
        if partition.merged_by is not None and not partition.merged_by.is_as(rule):
            raise InputsGoneError
        _add(connection, change, partition, version)
    span = connection.execute(_TIME_RANGE, [change.dataset_id]).fetchone()
    assert span is not None
    manifest = connection.execute(
        "UPDATE dataset_manifests SET statistics = %s WHERE id = %s RETURNING *",
        [Jsonb(_statistics(head, span, change, removed)), change.manifest_id],
    ).fetchone()
    assert manifest is not None
    for event in change.events:
        payload = {"datasetId": change.dataset_id, "datasetSlug": change.dataset_slug, "version": version}
        write_audit(
            connection,
            event.type,
            {**payload, **event.payload},
            dataset_id=change.dataset_id,
            manifest_id=change.manifest_id,
        )
    connection.execute(ADVANCE_DATASET, {"version": version, "dataset": change.dataset_id})
    return Changed(manifest_of(manifest), _audit_of(connection, change.manifest_id))


def _add(connection: Connection, change: Change, partition: NewPartition, version: int) -> None:
    same = {"dataset": change.dataset_id, "target": partition.target_id, "path": partition.file_path}
    if connection.execute(_IS_SAME_FILE_LIVE, same).fetchone() is not None:
        raise InputsGoneError
    connection.execute(
        INSERT_PARTITION,
        {
            "id": partition.id,
            "dataset": change.dataset_id,
            "manifest": change.manifest_id,
            "key": Jsonb(dict(partition.partition_key)),
            "target": partition.target_id,
            "format": partition.file_format,
            "path": partition.file_path,
            "bytes": partition.file_size_bytes,
            "rows": partition.row_count,
            "start": partition.start_time,
            "end": partition.end_time,
            "checksum": partition.checksum,
            "metadata": Jsonb(dict(partition.metadata)),
            "version": version,
            "columns": Jsonb(partition.columns_of(partition.schema, partition.statistics)),
        },
    )


def _manifest_values(change: Change, head: Row, version: int, removed: Sequence[Row]) -> dict[str, Any]:
    rows, size_bytes = _totals(head, change, removed)
    return {
        "id": change.manifest_id,
        "dataset": change.dataset_id,
        "version": version,
        "schema_version": head["schema_version_id"],
        "parent": head["id"],
        "summary": Jsonb({**head["summary"], "batchRowCount": 0, "lifecycle": {"operation": change.reason}}),
        "statistics": Jsonb({}),
        "metadata": Jsonb(head["metadata"]),
        "partition_count": head["partition_count"] - len(removed) + len(change.added),
        "total_rows": rows,
        "total_bytes": size_bytes,
        "created_by": change.created_by,
    }


def _totals(head: Row, change: Change, removed: Sequence[Row]) -> tuple[int, int]:
    rows = head["total_rows"] - sum(one["row_count"] or 0 for one in removed)
    size_bytes = head["total_bytes"] - sum(one["file_size_bytes"] or 0 for one in removed)
    rows += sum(one.row_count for one in change.added)
    return rows, size_bytes + sum(one.file_size_bytes for one in change.added)


def _statistics(head: Row, span: Row, change: Change, removed: Sequence[Row]) -> dict[str, Any]:
    rows, size_bytes = _totals(head, change, removed)
    statistics = {**head["statistics"], "rowCount": rows, "fileSizeBytes": size_bytes}
    for name, moment in (("startTime", span["start"]), ("endTime", span["end"])):
        statistics.pop(name, None)
        if moment is not None:
            statistics[name] = format_time(moment)
    return statistics


def _audit_of(connection: Connection, manifest_id: str) -> tuple[Row, ...]:
    rows = connection.execute(
        "SELECT * FROM lifecycle_audit_log WHERE manifest_id = %s ORDER BY created_at, id", [manifest_id]
    )
    return tuple(rows.fetchall())
