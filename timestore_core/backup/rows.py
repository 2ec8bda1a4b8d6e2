"""What a backup reads of the catalog: the datasets that there are, and the rows of one version."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec

from timestore_core.backup.documents import Chosen, DatasetRow, ManifestRow, SchemaRow, raw
from timestore_core.backup.versions import Held
from timestore_core.catalog.database import Connection, Database, Row
from timestore_core.errors import NotFound
from timestore_core.times import format_time

_CHUNK = 500

_CHOSEN = """
SELECT id, slug FROM datasets
WHERE deleted_at IS NULL AND (%(slugs)s::text[] IS NULL OR slug = ANY(%(slugs)s)) ORDER BY slug
"""

_DATASET = """
SELECT d.id, coalesce(d.deleted_slug, d.slug) AS slug, d.name, d.description, d.status, d.write_format,
    d.metadata::text AS metadata, d.created_at, t.name AS storage_target, p.policy::text AS policy
FROM datasets d
LEFT JOIN storage_targets t ON t.id = d.default_storage_target_id
LEFT JOIN dataset_retention_policies p ON p.dataset_id = d.id
WHERE d.id = %s
"""

_MANIFEST = """
SELECT m.id, m.version, m.summary::text AS summary, m.statistics::text AS statistics, m.metadata::text AS metadata,
    m.created_by, m.created_at, m.published_at, s.version AS schema_version,
    s.description AS schema_description, s.schema::text AS schema, s.checksum AS schema_checksum,
    s.created_at AS schema_created_at
FROM dataset_manifests m LEFT JOIN dataset_schema_versions s ON s.id = m.schema_version_id
WHERE m.dataset_id = %(dataset)s AND m.version = %(version)s
"""

# Files that others wrote have the schema of their manifest, which is not in the backup: it becomes their own.
_PARTITIONS = """
SELECT p.id, p.storage_target_id, p.file_path, p.file_format, p.file_size_bytes, p.row_count, p.checksum,
    p.start_time, p.end_time, p.created_at, p.partition_key::text AS key,
    (p.metadata || jsonb_build_object(
        'dataVersion', coalesce((p.metadata ->> 'dataVersion')::integer, p.added_version)))::text AS metadata,
    coalesce(p.columns, (
        SELECT jsonb_agg(jsonb_build_object('name', f ->> 'name', 'type', f ->> 'type') ORDER BY place)
        FROM dataset_manifests m JOIN dataset_schema_versions s ON s.id = m.schema_version_id,
            jsonb_array_elements(s.schema -> 'fields') WITH ORDINALITY AS fields (f, place)
        WHERE m.id = p.manifest_id
    ))::text AS columns
FROM dataset_partitions p
WHERE p.dataset_id = %(dataset)s AND p.added_version <= %(version)s
    AND (p.removed_version IS NULL OR p.removed_version > %(version)s) AND p.id > %(after)s
ORDER BY p.id LIMIT %(limit)s
"""

_PARTITION_COUNT = """
SELECT coalesce(sum(m.partition_count), 0)::bigint AS n FROM dataset_manifests m
JOIN unnest(%(datasets)s::text[], %(versions)s::integer[]) AS held (dataset, version)
    ON held.dataset = m.dataset_id AND held.version = m.version
"""


@dataclass(frozen=True, slots=True)
class SnapshotRows:
    """The rows of a held version, except its partitions."""

    dataset: DatasetRow
    schema: SchemaRow | None
    manifest: ManifestRow | None
    policy: msgspec.Raw


def chosen_datasets(database: Database, slugs: Sequence[str] | None) -> list[Chosen]:
    """The datasets of these slugs, or all of them, by slug. Raises NotFound naming the first that is not there."""
    values = {"slugs": None if slugs is None else list(slugs)}
    rows = database.read(lambda connection: connection.execute(_CHOSEN, values).fetchall())
    missing = sorted(set(slugs or ()) - {row["slug"] for row in rows})
    if missing:
        raise NotFound(f"--dataset: there is no dataset {missing[0]}")
    return [Chosen(row["id"], row["slug"]) for row in rows]


def snapshot_rows(database: Database, held: Held) -> SnapshotRows:
    """The dataset's row, and those of its held version."""

    def work(connection: Connection) -> tuple[Row | None, Row | None]:
        dataset = connection.execute(_DATASET, [held.dataset_id]).fetchone()
        values = {"dataset": held.dataset_id, "version": held.version}
        return dataset, connection.execute(_MANIFEST, values).fetchone()

    dataset, manifest = database.read(work)
    if dataset is None or (held.version > 0 and manifest is None):
        raise NotFound(f"version {held.version} of the dataset {held.dataset_id} is not there any more")
    return SnapshotRows(
        _dataset_row(dataset),
        None if manifest is None else _schema_row(manifest),
        None if manifest is None else _manifest_row(manifest),
        raw(dataset["policy"]),
    )


def expected_files(database: Database, held: Sequence[Held]) -> int:
    """How many partitions the held versions have, as their manifests say."""
    values = {"datasets": [one.dataset_id for one in held], "versions": [one.version for one in held]}
    found = database.read(lambda connection: connection.execute(_PARTITION_COUNT, values).fetchone())
    assert found is not None
    count: int = found["n"]
    return count


def partitions_of(database: Database, held: Held) -> Iterator[Row]:
    """The partitions of the held version, by id, some hundred in memory at a time."""
    after = ""
    while True:
        values = {"dataset": held.dataset_id, "version": held.version, "after": after, "limit": _CHUNK}
        rows = _chunk(database, values)
        yield from rows
        if len(rows) < _CHUNK:
            return
        after = rows[-1]["id"]


def _chunk(database: Database, values: Row) -> list[Row]:
    return database.read(lambda connection: connection.execute(_PARTITIONS, values).fetchall())


def _dataset_row(row: Row) -> DatasetRow:
    return DatasetRow(
        id=row["id"],
        slug=row["slug"],
        name=row["name"],
        description=row["description"],
        status=row["status"],
        write_format=row["write_format"],
        storage_target=row["storage_target"],
        metadata=raw(row["metadata"]),
        created_at=format_time(row["created_at"]),
    )


def _schema_row(row: Row) -> SchemaRow | None:
    if row["schema"] is None:
        return None
    return SchemaRow(
        version=row["schema_version"],
        description=row["schema_description"],
        schema=raw(row["schema"]),
        checksum=row["schema_checksum"],
        created_at=format_time(row["schema_created_at"]),
    )


def _manifest_row(row: Row) -> ManifestRow:
    return ManifestRow(
        id=row["id"],
        version=row["version"],
        summary=raw(row["summary"]),
        statistics=raw(row["statistics"]),
        metadata=raw(row["metadata"]),
        created_by=row["created_by"],
        created_at=format_time(row["created_at"]),
        published_at=None if row["published_at"] is None else format_time(row["published_at"]),
    )
