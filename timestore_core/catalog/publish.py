"""Publishing a batch: one transaction that takes a version, claims the idempotency key and names the file.

The attempt is known by its partition id, so trying again after a lost answer finds what the first try did.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
import stamina
from psycopg.types.json import Jsonb

from timestore_core.catalog.audit import write_audit
from timestore_core.catalog.database import Connection, Database, Row, lost_connection, translated
from timestore_core.catalog.records import dataset_of, manifest_of, partition_of
from timestore_core.catalog.schemas import EXACT_INTEGER, Merged, merge_schemas
from timestore_core.errors import Conflict, Unavailable
from timestore_core.model import ColumnStatistics, Dataset, Manifest, Partition, Schema, StorageTarget, new_id
from timestore_core.times import format_time, parse_time_us

CREATED_BY = "timestore-ingestion"
_TRIES = 4
_TRY_FOR_S = 8.0


@dataclass(frozen=True, slots=True)
class Claim:
    """One batch of an attempt: the key that makes it count once, what it held, and where it came from.

    `job_id` names the job that brought it, `journal_id` its row in the journal, which goes when it is published.
    """

    idempotency_key: str | None
    content_hash: str
    rows: int
    job_id: str | None = None
    journal_id: str | None = None


class ClaimTakenError(Exception):
    """One of several batches in the attempt was published by somebody else meanwhile: write the others anew."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """A written file that wants to become part of its dataset: one batch, or several that were put together."""

    partition_id: str
    slug: str
    dataset_name: str
    target: StorageTarget
    schema: Schema
    table_name: str
    partition_key: Mapping[str, str]
    start_time: datetime
    end_time: datetime
    file_format: str
    file_path: str
    file_size_bytes: int
    row_count: int
    checksum: str
    statistics: Mapping[str, ColumnStatistics]
    claims: tuple[Claim, ...]
    actor_id: str | None


@dataclass(frozen=True, slots=True)
class Published:
    """A manifest with the partitions that it added; `replayed` when an earlier attempt had published it."""

    dataset: Dataset
    manifest: Manifest
    partitions: tuple[Partition, ...]
    replayed: bool


_CREATE_DATASET = """
INSERT INTO datasets (id, slug, name, default_storage_target_id, metadata)
VALUES (%(id)s, %(slug)s, %(name)s, %(target)s, %(metadata)s) ON CONFLICT (slug) DO NOTHING RETURNING id
"""

_LOCK_DATASET = "SELECT * FROM datasets WHERE slug = %s FOR UPDATE"

_HEAD = """
SELECT m.*, s.schema FROM dataset_manifests m LEFT JOIN dataset_schema_versions s ON s.id = m.schema_version_id
WHERE m.dataset_id = %s AND m.status = 'published'
"""

_BATCH_BY_KEY = """
SELECT manifest_id, content_hash FROM ingestion_batches WHERE dataset_id = %s AND idempotency_key = %s
"""

_MANIFEST_OF_PARTITION = "SELECT manifest_id FROM dataset_partitions WHERE id = %s"

_MANIFEST = """
SELECT m.*, s.schema FROM dataset_manifests m LEFT JOIN dataset_schema_versions s ON s.id = m.schema_version_id
WHERE m.id = %s
"""

_PARTITIONS_OF_MANIFEST = "SELECT * FROM dataset_partitions WHERE manifest_id = %s ORDER BY id"

# The largest magnitude of an integer column over the live files: what widening it to double could blur.
_WIDEST_INTEGER = """
SELECT max(greatest(abs((c ->> 'min')::numeric), abs((c ->> 'max')::numeric))) AS magnitude
FROM dataset_partitions p, jsonb_array_elements(p.columns) c
WHERE p.dataset_id = %s AND p.removed_version IS NULL AND c ->> 'name' = %s AND c ->> 'type' = 'integer'
"""

_INSERT_SCHEMA = """
INSERT INTO dataset_schema_versions (id, dataset_id, version, description, schema, checksum)
SELECT %(id)s, %(dataset)s, coalesce(max(version), 0) + 1, %(description)s, %(schema)s, %(checksum)s
FROM dataset_schema_versions WHERE dataset_id = %(dataset)s
"""

_SUPERSEDE = "UPDATE dataset_manifests SET status = 'superseded', updated_at = now() WHERE id = %s"

_INSERT_MANIFEST = """
INSERT INTO dataset_manifests (id, dataset_id, version, status, schema_version_id, parent_manifest_id, summary,
    statistics, metadata, partition_count, total_rows, total_bytes, created_by, published_at)
VALUES (%(id)s, %(dataset)s, %(version)s, 'published', %(schema_version)s, %(parent)s, %(summary)s,
    %(statistics)s, %(metadata)s, %(partition_count)s, %(total_rows)s, %(total_bytes)s, %(created_by)s, now())
RETURNING *
"""

_INSERT_PARTITION = """
INSERT INTO dataset_partitions (id, dataset_id, manifest_id, partition_key, storage_target_id, file_format, file_path,
    file_size_bytes, row_count, start_time, end_time, checksum, metadata, added_version, columns)
VALUES (%(id)s, %(dataset)s, %(manifest)s, %(key)s, %(target)s, %(format)s, %(path)s,
    %(bytes)s, %(rows)s, %(start)s, %(end)s, %(checksum)s, %(metadata)s, %(version)s, %(columns)s)
RETURNING *
"""

_INSERT_BATCH = """
INSERT INTO ingestion_batches (id, dataset_id, idempotency_key, manifest_id, content_hash, job_id)
VALUES (%(id)s, %(dataset)s, %(key)s, %(manifest)s, %(hash)s, %(job)s)
"""

_FORGET_JOURNALLED = "DELETE FROM ingest_journal WHERE id = ANY(%s)"

_ADVANCE_DATASET = """
UPDATE datasets SET current_version = %(version)s, updated_at = now() WHERE id = %(dataset)s RETURNING *
"""


def publish(database: Database, attempt: Attempt) -> Published:
    """Make the attempt's file part of its dataset, or answer with the batch that has its key already.

    Raises Conflict when a key was used for other rows or the schema does not fit, and ClaimTakenError when one of
    several claims was published before: nothing was published and nothing will be. Raises Unavailable when
    PostgreSQL stayed away: whether the last try was committed is then unknown, and the file must stay.
    """
    for trial in stamina.retry_context(
        on=Unavailable, attempts=_TRIES, timeout=_TRY_FOR_S, wait_initial=0.05, wait_max=1.0
    ):
        with trial:
            try:
                with translated(), database.connection() as connection, connection.transaction():
                    return _publish(connection, attempt, is_retry=trial.num > 1)
            except Unavailable as error:
                if lost_connection(error):
                    database.drop_dead_connections()
                raise
    raise AssertionError("unreachable")


def find_replay(database: Database, dataset: Dataset, claim: Claim) -> Published | None:
    """What was published under the claim's key, or None. Raises Conflict when it had other rows."""
    if claim.idempotency_key is None:
        return None

    def work(connection: Connection) -> Published | None:
        replay = _replay(connection, dataset, claim)
        if replay is not None:
            _forget_journalled(connection, (claim,))
        return replay

    return database.read(work)


def _publish(connection: Connection, attempt: Attempt, *, is_retry: bool) -> Published:
    locked = _locked_dataset(connection, attempt)
    dataset = dataset_of(locked)
    if is_retry:
        found = connection.execute(_MANIFEST_OF_PARTITION, [attempt.partition_id]).fetchone()
        if found is not None:
            return _as_first_answered(connection, dataset, found["manifest_id"], replayed=False)
    for claim in attempt.claims:
        replay = _replay(connection, dataset, claim)
        if replay is not None and len(attempt.claims) > 1:
            raise ClaimTakenError
        if replay is not None:
            _forget_journalled(connection, attempt.claims)
            return replay
    require_active(dataset)
    head = connection.execute(_HEAD, [dataset.id]).fetchone()
    merged = merge_schemas(Schema.from_json((head and head["schema"]) or {}), attempt.schema)
    _check_widening(connection, dataset, merged)
    return _insert(connection, attempt, locked, head, merged.schema)


def require_active(dataset: Dataset) -> None:
    """Raise Conflict for a dataset that takes no batches now."""
    if dataset.status != "active":
        raise Conflict(
            f"the dataset {dataset.slug} is {dataset.status} and takes no batches; make it active first",
            code="dataset_inactive",
        )


def _locked_dataset(connection: Connection, attempt: Attempt) -> Row:
    row = connection.execute(_LOCK_DATASET, [attempt.slug]).fetchone()
    if row is None:
        values = {
            "id": new_id("ds"),
            "slug": attempt.slug,
            "name": attempt.dataset_name,
            "target": attempt.target.id,
            "metadata": Jsonb({"createdBy": CREATED_BY}),
        }
        made = connection.execute(_CREATE_DATASET, values).fetchone()
        if made is not None:
            payload = {"actor": attempt.actor_id, "datasetId": made["id"], "datasetSlug": attempt.slug}
            write_audit(connection, "dataset.created", payload, dataset_id=made["id"])
        row = connection.execute(_LOCK_DATASET, [attempt.slug]).fetchone()
        assert row is not None
    return row


def _replay(connection: Connection, dataset: Dataset, claim: Claim) -> Published | None:
    key = claim.idempotency_key
    if key is None:
        return None
    found = connection.execute(_BATCH_BY_KEY, [dataset.id, key]).fetchone()
    if found is None:
        return None
    if found["content_hash"] not in (None, claim.content_hash):
        raise Conflict(
            f"idempotencyKey: {key!r} was already used for a batch with other rows, published by manifest "
            f"{found['manifest_id']}; send these rows under a key of their own",
            code="idempotency_key_reused",
            details={"manifestId": found["manifest_id"]},
        )
    return _as_first_answered(connection, dataset, found["manifest_id"], replayed=True)


def _as_first_answered(connection: Connection, dataset: Dataset, manifest_id: str, *, replayed: bool) -> Published:
    row = connection.execute(_MANIFEST, [manifest_id]).fetchone()
    if row is None:
        raise Conflict(
            "idempotencyKey: this batch was published, and its manifest has since expired",
            code="manifest_expired",
            details={"manifestId": manifest_id},
        )
    schema = Schema.from_json(row["schema"] or {})
    # Later publishes mark the manifest superseded; the answer to a repeat is the first one's.
    manifest = manifest_of({**row, "status": "published", "updated_at": row["created_at"]})
    partitions = connection.execute(_PARTITIONS_OF_MANIFEST, [manifest_id]).fetchall()
    return Published(dataset, manifest, tuple(partition_of(one, schema) for one in partitions), replayed)


def _check_widening(connection: Connection, dataset: Dataset, merged: Merged) -> None:
    for column in merged.widened:
        found = connection.execute(_WIDEST_INTEGER, [dataset.id, column]).fetchone()
        if found is not None and found["magnitude"] is not None and found["magnitude"] > EXACT_INTEGER:
            raise Conflict(
                f"schema.fields: the column {column!r} holds integers beyond 2^53, which a double cannot keep; "
                "it has to stay integer",
                code="schema_conflict",
            )


def _insert(connection: Connection, attempt: Attempt, locked: Row, head: Row | None, schema: Schema) -> Published:
    """Write the new snapshot; every statement goes out in one round trip, while the dataset's row is locked."""
    dataset, version, manifest_id = dataset_of(locked), locked["current_version"] + 1, new_id("dm")
    with connection.pipeline():
        schema_version_id = head["schema_version_id"] if head else None
        if schema_version_id is None or head is None or Schema.from_json(head["schema"] or {}) != schema:
            schema_version_id = _insert_schema(connection, dataset, schema)
        if head is not None:
            connection.execute(_SUPERSEDE, [head["id"]])
        values = _manifest_values(attempt, dataset, manifest_id, version, schema_version_id, head)
        manifest = connection.execute(_INSERT_MANIFEST, values)
        partition = connection.execute(_INSERT_PARTITION, _partition_values(attempt, dataset, manifest_id, version))
        for claim in attempt.claims:
            if claim.idempotency_key is not None:
                connection.execute(_INSERT_BATCH, _batch_values(claim, dataset, manifest_id))
        _forget_journalled(connection, attempt.claims)
        payload = _audit_payload(attempt, version)
        write_audit(connection, "ingest.published", payload, dataset_id=dataset.id, manifest_id=manifest_id)
        advanced = connection.execute(_ADVANCE_DATASET, {"version": version, "dataset": dataset.id})
    added = (partition_of(_only(partition), schema),)
    return Published(dataset_of(_only(advanced)), manifest_of(_only(manifest)), added, replayed=False)


def _only(cursor: psycopg.Cursor[Row]) -> Row:
    row = cursor.fetchone()
    assert row is not None
    return row


def _forget_journalled(connection: Connection, claims: tuple[Claim, ...]) -> None:
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
        "metadata": Jsonb({"tableName": attempt.table_name, "storageTargetId": attempt.target.id}),
        "partition_count": (head["partition_count"] if head else 0) + 1,
        "total_rows": (head["total_rows"] if head else 0) + attempt.row_count,
        "total_bytes": (head["total_bytes"] if head else 0) + attempt.file_size_bytes,
        "created_by": CREATED_BY,
    }


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
    columns = [
        {"name": field.name, "type": field.type, **attempt.statistics[field.name].to_json()}
        for field in attempt.schema.fields
    ]
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
        "metadata": Jsonb({"tableName": attempt.table_name}),
        "version": version,
        "columns": Jsonb(columns),
    }


def _audit_payload(attempt: Attempt, version: int) -> dict[str, Any]:
    return {
        "actor": attempt.actor_id,
        "version": version,
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
