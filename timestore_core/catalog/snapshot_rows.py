"""The rows of a new snapshot: its manifest and partition, the keys that it claims, and its line in the audit log."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from timestore_core.catalog.attempt import Attempt, Claim, Published
from timestore_core.catalog.audit import write_audit
from timestore_core.catalog.database import Connection, Row
from timestore_core.catalog.records import dataset_of, manifest_of, partition_of
from timestore_core.model import Dataset, Schema, new_id
from timestore_core.times import format_time, parse_time_us

CREATED_BY = "timestore-ingestion"

_INSERT_SCHEMA = """
INSERT INTO dataset_schema_versions (id, dataset_id, version, description, schema, checksum)
SELECT %(id)s, %(dataset)s, coalesce(max(version), 0) + 1, %(description)s, %(schema)s, %(checksum)s
FROM dataset_schema_versions WHERE dataset_id = %(dataset)s
"""

SUPERSEDE = "UPDATE dataset_manifests SET status = 'superseded', updated_at = now() WHERE id = %s"

INSERT_MANIFEST = """
INSERT INTO dataset_manifests (id, dataset_id, version, status, schema_version_id, parent_manifest_id, summary,
    statistics, metadata, partition_count, total_rows, total_bytes, created_by, published_at)
VALUES (%(id)s, %(dataset)s, %(version)s, 'published', %(schema_version)s, %(parent)s, %(summary)s,
    %(statistics)s, %(metadata)s, %(partition_count)s, %(total_rows)s, %(total_bytes)s, %(created_by)s, now())
RETURNING *
"""

INSERT_PARTITION = """
INSERT INTO dataset_partitions (id, dataset_id, manifest_id, partition_key, storage_target_id, file_format, file_path,
    file_size_bytes, row_count, start_time, end_time, checksum, metadata, added_version, columns)
VALUES (%(id)s, %(dataset)s, %(manifest)s, %(key)s, %(target)s, %(format)s, %(path)s,
    %(bytes)s, %(rows)s, %(start)s, %(end)s, %(checksum)s, %(metadata)s, %(version)s, %(columns)s)
RETURNING *
"""

INSERT_BLOB = "INSERT INTO dataset_partition_blobs (partition_id, content) VALUES (%s, %s)"

_INSERT_BATCH = """
INSERT INTO ingestion_batches (id, dataset_id, idempotency_key, manifest_id, content_hash, job_id)
VALUES (%(id)s, %(dataset)s, %(key)s, %(manifest)s, %(hash)s, %(job)s)
"""

_FORGET_JOURNALLED = "DELETE FROM ingest_journal WHERE id = ANY(%s)"

ADVANCE_DATASET = """
UPDATE datasets SET current_version = %(version)s, updated_at = now() WHERE id = %(dataset)s RETURNING *
"""


def insert_snapshot(
    connection: Connection, attempt: Attempt, locked: Row, head: Row | None, schema: Schema
) -> Published:
    """Write the new snapshot; every statement goes out in one round trip, while the dataset's row is locked."""
    dataset, version, manifest_id = dataset_of(locked), locked["current_version"] + 1, new_id("dm")
    with connection.pipeline():
        schema_version_id = head["schema_version_id"] if head else None
        if schema_version_id is None or head is None or Schema.from_json(head["schema"] or {}) != schema:
            schema_version_id = _insert_schema(connection, dataset, schema)
        if head is not None:
            connection.execute(SUPERSEDE, [head["id"]])
        values = _manifest_values(attempt, dataset, manifest_id, version, schema_version_id, head)
        manifest = connection.execute(INSERT_MANIFEST, values)
        partition = connection.execute(INSERT_PARTITION, _partition_values(attempt, dataset, manifest_id, version))
        if attempt.content is not None:
            connection.execute(INSERT_BLOB, [attempt.partition_id, attempt.content])
        for claim in attempt.claims:
            if claim.idempotency_key is not None:
                connection.execute(_INSERT_BATCH, _batch_values(claim, dataset, manifest_id))
        forget_journalled(connection, attempt.claims)
        payload = {**audit_payload(attempt), "version": version}
        write_audit(connection, "ingest.published", payload, dataset_id=dataset.id, manifest_id=manifest_id)
        advanced = connection.execute(ADVANCE_DATASET, {"version": version, "dataset": dataset.id})
    added = (partition_of(_only(partition), schema),)
    return Published(dataset_of(_only(advanced)), manifest_of(_only(manifest)), added, replayed=False)


def _only(cursor: psycopg.Cursor[Row]) -> Row:
    row = cursor.fetchone()
    assert row is not None
    return row


def forget_journalled(connection: Connection, claims: tuple[Claim, ...]) -> None:
    """What is published needs no journal any more; the same transaction, so it is one or the other."""
    journalled = [claim.journal_id for claim in claims if claim.journal_id is not None]
    if journalled:
        connection.execute(_FORGET_JOURNALLED, [journalled])


def _insert_schema(connection: Connection, dataset: Dataset, schema: Schema) -> str:
    schema_version_id = new_id("dsv")
    connection.execute(
        _INSERT_SCHEMA,
        {
            "id": schema_version_id,
            "dataset": dataset.id,
            "description": "Schema derived from ingestion",
            "schema": Jsonb(schema.to_json()),
            "checksum": schema.checksum,
        },
    )
    return schema_version_id


def _manifest_values(
    attempt: Attempt, dataset: Dataset, manifest_id: str, version: int, schema_version_id: str, head: Row | None
) -> dict[str, Any]:
    return {
        "id": manifest_id,
        "dataset": dataset.id,
        "version": version,
        "schema_version": schema_version_id,
        "parent": head["id"] if head else None,
        "summary": Jsonb({"tableName": attempt.table_name, "batchRowCount": attempt.row_count}),
        "statistics": Jsonb(_statistics(attempt, head)),
        "metadata": Jsonb({**_inherited(head), "tableName": attempt.table_name, "storageTargetId": attempt.target.id}),
        "partition_count": (head["partition_count"] if head else 0) + 1,
        "total_rows": (head["total_rows"] if head else 0) + attempt.row_count,
        "total_bytes": (head["total_bytes"] if head else 0) + attempt.file_size_bytes,
        "created_by": CREATED_BY,
    }


def _inherited(head: Row | None) -> dict[str, Any]:
    """What maintenance remembers of a dataset, such as its last exports, goes from snapshot to snapshot."""
    lifecycle = head["metadata"].get("lifecycle") if head else None
    return {"lifecycle": lifecycle} if lifecycle else {}


def _batch_values(claim: Claim, dataset: Dataset, manifest_id: str) -> dict[str, Any]:
    return {
        "id": new_id("ing"),
        "dataset": dataset.id,
        "key": claim.idempotency_key,
        "manifest": manifest_id,
        "hash": claim.content_hash,
        "job": claim.job_id,
    }


def _partition_values(attempt: Attempt, dataset: Dataset, manifest_id: str, version: int) -> dict[str, Any]:
    return {
        "id": attempt.partition_id,
        "dataset": dataset.id,
        "manifest": manifest_id,
        "key": Jsonb(dict(attempt.partition_key)),
        "target": attempt.target.id,
        "format": attempt.file_format,
        "path": attempt.file_path,
        "bytes": attempt.file_size_bytes,
        "rows": attempt.row_count,
        "start": attempt.start_time,
        "end": attempt.end_time,
        "checksum": attempt.checksum,
        "metadata": Jsonb(attempt.partition_metadata),
        "version": version,
        "columns": Jsonb(columns_of(attempt)),
    }


def columns_of(attempt: Attempt) -> list[dict[str, Any]]:
    """The file's columns as the catalog keeps them, with what is known of each."""
    return [
        {"name": field.name, "type": field.type, **attempt.statistics[field.name].to_json()}
        for field in attempt.schema.fields
    ]


def audit_payload(attempt: Attempt) -> dict[str, Any]:
    """What the audit log says of the publish, except its version."""
    return {
        "actor": attempt.actor_id,
        "rowCount": attempt.row_count,
        "partitionId": attempt.partition_id,
        "idempotencyKeys": [claim.idempotency_key for claim in attempt.claims if claim.idempotency_key],
    }


def _statistics(attempt: Attempt, head: Row | None) -> dict[str, Any]:
    """The whole snapshot's rows, bytes and time range, from the previous ones and this batch's."""
    start, end = format_time(attempt.start_time), format_time(attempt.end_time)
    if head is None:
        return {
            "startTime": start,
            "endTime": end,
            "rowCount": attempt.row_count,
            "fileSizeBytes": attempt.file_size_bytes,
        }
    before = head["statistics"]
    return {
        "startTime": min(start, before.get("startTime", start), key=parse_time_us),
        "endTime": max(end, before.get("endTime", end), key=parse_time_us),
        "rowCount": head["total_rows"] + attempt.row_count,
        "fileSizeBytes": head["total_bytes"] + attempt.file_size_bytes,
    }
