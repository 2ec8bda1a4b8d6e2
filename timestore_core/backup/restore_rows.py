"""Publishing a restored dataset: one transaction, before which nothing of it is to be seen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import stamina
from psycopg.types.json import Jsonb

from timestore_core.backup.documents import Copy, DatasetDocument, Key, ManifestRow, SchemaRow, text_of
from timestore_core.backup.lines import read_lines
from timestore_core.backup.problems import DamagedError
from timestore_core.backup.restore_files import restored_key
from timestore_core.backup.restore_plan import RESTORED, RESTORED_FROM, Planned, is_from
from timestore_core.backup.versions import lift_time_limits
from timestore_core.catalog.audit import about, write_audit
from timestore_core.catalog.database import Connection, lost_connection, translated
from timestore_core.catalog.records import dataset_of
from timestore_core.errors import Conflict, Unavailable
from timestore_core.model import Actor, Dataset, new_id
from timestore_core.runtime import Runtime

_TRIES = 4

_BY_SLUG = "SELECT * FROM datasets WHERE slug = %s"

# Earlier versions are not there: the dataset is whole from its restored version on.
_INSERT_DATASET = """
INSERT INTO datasets (id, slug, name, description, status, write_format, default_storage_target_id, metadata,
    current_version, readable_from, created_at)
VALUES (%(id)s, %(slug)s, %(name)s, %(description)s, %(status)s, %(format)s, %(target)s,
    %(metadata)s::jsonb || %(origin)s, %(version)s, %(version)s, %(created)s)
ON CONFLICT (slug) DO NOTHING RETURNING *
"""

_INSERT_SCHEMA = """
INSERT INTO dataset_schema_versions (id, dataset_id, version, description, schema, checksum, created_at)
VALUES (%(id)s, %(dataset)s, %(version)s, %(description)s, %(schema)s::jsonb, %(checksum)s, %(created)s)
"""

# What maintenance remembers of exports speaks of files that are not in a backup.
_INSERT_MANIFEST = """
INSERT INTO dataset_manifests (id, dataset_id, version, status, schema_version_id, summary, statistics, metadata,
    partition_count, total_rows, total_bytes, created_by, created_at, published_at)
VALUES (%(id)s, %(dataset)s, %(version)s, 'published', %(schema)s, %(summary)s::jsonb,
    %(statistics)s::jsonb || jsonb_build_object('rowCount', %(rows)s::bigint, 'fileSizeBytes', %(bytes)s::bigint),
    (%(metadata)s::jsonb - 'lifecycle') || jsonb_build_object('storageTargetId', %(target)s::text),
    %(partitions)s, %(rows)s, %(bytes)s, %(by)s, %(created)s, %(published)s)
"""

_INSERT_POLICY = "INSERT INTO dataset_retention_policies (dataset_id, policy) VALUES (%s, %s::jsonb)"

_COPY_PARTITIONS = """
COPY dataset_partitions (id, dataset_id, manifest_id, partition_key, storage_target_id, file_format, file_path,
    file_size_bytes, row_count, start_time, end_time, checksum, metadata, created_at, added_version, columns)
FROM STDIN
"""

_COPY_KEYS = """
COPY ingestion_batches (id, dataset_id, idempotency_key, manifest_id, created_at, content_hash, job_id) FROM STDIN
"""


def publish_restored(
    runtime: Runtime, planned: Planned, document: DatasetDocument, partitions: Path, keys: Path
) -> Dataset:
    """Make the dataset, with its snapshot and all that belongs to it, out of the local copies of its parts.

    Raises Conflict when its slug was taken meanwhile. Where the answer to a commit is lost the next try finds it.
    """
    database = runtime.database
    for trial in stamina.retry_context(on=Unavailable, attempts=_TRIES, timeout=None, wait_initial=0.1, wait_max=2.0):
        with trial:
            try:
                with translated(), database.connection() as connection, connection.transaction():
                    return _publish(runtime, connection, planned, document, partitions, keys)
            except Unavailable as error:
                if lost_connection(error):
                    database.drop_dead_connections()
                raise
    raise AssertionError("unreachable")


def _publish(
    runtime: Runtime,
    connection: Connection,
    planned: Planned,
    document: DatasetDocument,
    partitions: Path,
    keys: Path,
) -> Dataset:
    # Nobody waits for rows of a dataset that is not there yet, except who makes one of the same slug.
    lift_time_limits(connection)
    derivation, dataset_id = planned.derivation, planned.derivation.id("ds", document.dataset.id)
    row = connection.execute(_INSERT_DATASET, _dataset_values(planned, document, dataset_id)).fetchone()
    if row is None:
        found = connection.execute(_BY_SLUG, [planned.slug]).fetchone()
        if found is not None and is_from(dataset_of(found), derivation.backup_id, derivation.source_dataset_id):
            return dataset_of(found)
        raise Conflict(f"the slug {planned.slug} was taken meanwhile; nothing of it was restored", code="slug_taken")
    dataset = dataset_of(row)
    if document.manifest is not None:
        _insert_snapshot(connection, planned, document, document.manifest, dataset, partitions)
    policy = text_of(document.policy)
    if policy is not None:
        connection.execute(_INSERT_POLICY, [dataset.id, policy])
    copied = _copy(connection, _COPY_KEYS, _key_values(planned, document, dataset, keys))
    if copied != document.keys.lines:
        raise DamagedError(f"the keys of {document.dataset.slug} are {copied} instead of {document.keys.lines}")
    payload = {
        **about(dataset, Actor(None, frozenset())),
        "backup": derivation.backup,
        "backupId": derivation.backup_id,
        "sourceDatasetId": document.dataset.id,
        "sourceDatasetSlug": document.dataset.slug,
        "version": document.version,
        "partitions": document.partitions.lines,
        "rowCount": document.rows,
        "idempotencyKeys": document.keys.lines,
    }
    manifest_id = None if document.manifest is None else derivation.id("dm", document.manifest.id)
    write_audit(connection, RESTORED, payload, dataset_id=dataset.id, manifest_id=manifest_id)
    runtime.plugins.step("restore.rows_written")
    return dataset


def _dataset_values(planned: Planned, document: DatasetDocument, dataset_id: str) -> dict[str, Any]:
    row = document.dataset
    return {
        "id": dataset_id,
        "slug": planned.slug,
        "name": row.name,
        "description": row.description,
        "status": row.status,
        "format": row.write_format,
        "target": planned.target.id,
        "metadata": text_of(row.metadata),
        "origin": Jsonb({RESTORED_FROM: dict(planned.origin)}),
        "version": document.version,
        "created": row.created_at,
    }


def _insert_snapshot(
    connection: Connection,
    planned: Planned,
    document: DatasetDocument,
    manifest: ManifestRow,
    dataset: Dataset,
    partitions: Path,
) -> None:
    schema_id = None
    if document.schema is not None:
        schema_id = planned.derivation.id("dsv", f"{manifest.id}/{document.schema.version}")
        connection.execute(_INSERT_SCHEMA, _schema_values(document.schema, schema_id, dataset))
    manifest_id = planned.derivation.id("dm", manifest.id)
    values = {
        "id": manifest_id,
        "dataset": dataset.id,
        "version": document.version,
        "schema": schema_id,
        "summary": text_of(manifest.summary),
        "statistics": text_of(manifest.statistics),
        "metadata": text_of(manifest.metadata),
        "target": planned.target.id,
        "partitions": document.partitions.lines,
        "rows": document.rows,
        "bytes": document.bytes,
        "by": manifest.created_by,
        "created": manifest.created_at,
        "published": manifest.published_at,
    }
    connection.execute(_INSERT_MANIFEST, values)
    rows = _partition_values(planned, document, dataset, manifest_id, partitions)
    copied = _copy(connection, _COPY_PARTITIONS, rows)
    if copied != document.partitions.lines:
        raise DamagedError(f"{document.dataset.slug} has {copied} partitions instead of {document.partitions.lines}")


def _schema_values(schema: SchemaRow, schema_id: str, dataset: Dataset) -> dict[str, Any]:
    return {
        "id": schema_id,
        "dataset": dataset.id,
        "version": schema.version,
        "description": schema.description,
        "schema": text_of(schema.schema),
        "checksum": schema.checksum,
        "created": schema.created_at,
    }


def _partition_values(
    planned: Planned, document: DatasetDocument, dataset: Dataset, manifest_id: str, path: Path
) -> Iterator[tuple[Any, ...]]:
    for line in read_lines(path, Copy, "the partitions"):
        yield (
            planned.derivation.id("part", line.id),
            dataset.id,
            manifest_id,
            text_of(line.key),
            planned.target.id,
            line.format,
            restored_key(planned, line),
            line.size_bytes,
            line.rows,
            line.start,
            line.end,
            line.checksum,
            text_of(line.metadata),
            line.created_at,
            document.version,
            text_of(line.columns),
        )


def _key_values(planned: Planned, document: DatasetDocument, dataset: Dataset, path: Path) -> Iterator[tuple[Any, ...]]:
    """The keys' rows. Each names a manifest of the restored dataset, not of the one that is in the catalog beside it.

    A job's id is made from a slug: under another one it stays the original's.
    """
    derivation, is_renamed = planned.derivation, planned.slug != document.dataset.slug
    for line in read_lines(path, Key, "the keys"):
        yield (
            new_id("ing"),
            dataset.id,
            line.key,
            derivation.id("dm", line.manifest_id),
            line.at,
            line.hash,
            None if is_renamed else line.job,
        )


def _copy(connection: Connection, statement: str, rows: Iterator[tuple[Any, ...]]) -> int:
    """Stream the rows into a table; how many there were."""
    count = 0
    with connection.cursor().copy(statement) as copy:
        for row in rows:
            copy.write_row(row)
            count += 1
    return count
