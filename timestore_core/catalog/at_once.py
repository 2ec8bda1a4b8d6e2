"""The common case of publishing in one round trip: PostgreSQL's function `publish_batch` does all of it or nothing.

It takes one batch into an active dataset that has a snapshot and knows all of the batch's columns, under a key that
is not taken, none of its rows merged into another. Between the lock of the dataset's row and the commit nobody waits
for the network.
"""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any

import msgspec
import psycopg
from psycopg.types.json import Jsonb

from timestore_core.catalog.attempt import Attempt, Published
from timestore_core.catalog.database import Connection, Row
from timestore_core.catalog.records import dataset_of, manifest_of, partition_of
from timestore_core.catalog.snapshot_rows import CREATED_BY, audit_payload, columns_of
from timestore_core.model import new_id
from timestore_core.times import format_time, running_s

_PUBLISH = "SELECT * FROM publish_batch(%s, %s)"
_TIMES = ("created_at", "updated_at", "published_at")


def publish_at_once(connection: Connection, attempt: Attempt) -> Published | None:
    """The published batch, or None where nothing was done: then the general way decides, and says why."""
    left_s = attempt.publish_before_s - running_s()
    if len(attempt.claims) != 1 or left_s <= 0 or attempt.merged_by is not None or attempt.fitted_to is not None:
        return None
    columns, manifest_id = columns_of(attempt), new_id("dm")
    given = _given(attempt, manifest_id, columns, left_s)
    try:
        row = connection.execute(_PUBLISH, [Jsonb(given, msgspec.json.encode), attempt.content]).fetchone()
    except psycopg.DataError:
        # Another service's manifest may hold what only the general way understands; the statement is undone.
        return None
    if row is None:
        return None
    partition = _partition_row(attempt, row, manifest_id, columns)
    dataset, manifest = dataset_of(_with_times(row["found_dataset"])), manifest_of(_with_times(row["found_manifest"]))
    return Published(dataset, manifest, (partition_of(partition, attempt.schema),), replayed=False)


def _given(attempt: Attempt, manifest_id: str, columns: list[dict[str, Any]], left_s: float) -> dict[str, Any]:
    (claim,) = attempt.claims
    return {
        "slug": attempt.slug,
        "leftSeconds": left_s if math.isfinite(left_s) else None,
        "fields": attempt.schema.to_json()["fields"],
        "key": claim.idempotency_key,
        "hash": claim.content_hash,
        "job": claim.job_id,
        "journal": claim.journal_id,
        "batchId": new_id("ing"),
        "auditId": new_id("la"),
        "audit": audit_payload(attempt),
        "manifestId": manifest_id,
        "summary": {"tableName": attempt.table_name, "batchRowCount": attempt.row_count},
        "manifestMetadata": {"tableName": attempt.table_name, "storageTargetId": attempt.target.id},
        "createdBy": CREATED_BY,
        "partitionId": attempt.partition_id,
        "partitionKey": dict(attempt.partition_key),
        "target": attempt.target.id,
        "format": attempt.file_format,
        "path": attempt.file_path,
        "bytes": attempt.file_size_bytes,
        "rows": attempt.row_count,
        "start": format_time(attempt.start_time),
        "end": format_time(attempt.end_time),
        "checksum": attempt.checksum,
        "metadata": attempt.partition_metadata,
        "columns": columns,
    }


def _with_times(row: Row) -> Row:
    """The row that came as JSON, with its times as times."""
    times = {name: datetime.fromisoformat(row[name]) for name in _TIMES if row.get(name) is not None}
    return {**row, **times}


def _partition_row(attempt: Attempt, row: Row, manifest_id: str, columns: list[dict[str, Any]]) -> Row:
    return {
        "id": attempt.partition_id,
        "dataset_id": row["found_dataset"]["id"],
        "manifest_id": manifest_id,
        "partition_key": dict(attempt.partition_key),
        "storage_target_id": attempt.target.id,
        "file_format": attempt.file_format,
        "file_path": attempt.file_path,
        "file_size_bytes": attempt.file_size_bytes,
        "row_count": attempt.row_count,
        "start_time": attempt.start_time,
        "end_time": attempt.end_time,
        "checksum": attempt.checksum,
        "metadata": attempt.partition_metadata,
        "created_at": row["partition_created_at"],
        "columns": columns,
    }
