"""Datasets and storage targets: found, and made when they are first needed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from psycopg.types.json import Jsonb

from timestore_core.catalog.database import Connection, Database, translated
from timestore_core.catalog.records import dataset_of, storage_target_of
from timestore_core.model import Dataset, StorageTarget, new_id

_DATASET_BY_SLUG = "SELECT * FROM datasets WHERE slug = %s"

_DATASET_BY_ID = "SELECT * FROM datasets WHERE id = %s AND deleted_at IS NULL"

_TARGET_BY_ID = "SELECT * FROM storage_targets WHERE id = %s"

_TARGETS = "SELECT * FROM storage_targets ORDER BY name"

_TARGETS_IN_USE = """
SELECT t.* FROM storage_targets t WHERE EXISTS (
    SELECT 1 FROM dataset_partitions p WHERE p.storage_target_id = t.id AND p.removed_version IS NULL
) ORDER BY t.name
"""

# The default target's config follows the settings; an equal one is left alone, so that starts write nothing.
_ENSURE_TARGET = """
INSERT INTO storage_targets (id, name, kind, description, config)
VALUES (%(id)s, %(name)s, %(kind)s, %(description)s, %(config)s)
ON CONFLICT (name) DO UPDATE SET config = excluded.config, kind = excluded.kind, updated_at = now()
WHERE (storage_targets.config, storage_targets.kind) IS DISTINCT FROM (excluded.config, excluded.kind)
"""

_TARGET_BY_NAME = "SELECT * FROM storage_targets WHERE name = %s"


def find_dataset(database: Database, slug: str) -> Dataset | None:
    """The dataset of this slug, or None."""

    def work(connection: Connection) -> Dataset | None:
        row = connection.execute(_DATASET_BY_SLUG, [slug]).fetchone()
        return None if row is None else dataset_of(row)

    return database.read(work)


def find_dataset_by_id(database: Database, dataset_id: str) -> Dataset | None:
    """The dataset of this id, or None."""

    def work(connection: Connection) -> Dataset | None:
        row = connection.execute(_DATASET_BY_ID, [dataset_id]).fetchone()
        return None if row is None else dataset_of(row)

    return database.read(work)


def find_storage_target(database: Database, target_id: str) -> StorageTarget | None:
    """The storage target of this id, or None."""

    def work(connection: Connection) -> StorageTarget | None:
        row = connection.execute(_TARGET_BY_ID, [target_id]).fetchone()
        return None if row is None else storage_target_of(row)

    return database.read(work)


def list_storage_targets(database: Database) -> list[StorageTarget]:
    """Every storage target, by name."""
    return database.read(lambda connection: [storage_target_of(row) for row in connection.execute(_TARGETS).fetchall()])


def targets_in_use(database: Database) -> list[StorageTarget]:
    """The storage targets that hold partitions of current snapshots, by name."""
    return database.read(lambda connection: [storage_target_of(row) for row in connection.execute(_TARGETS_IN_USE)])


def ensure_default_target(database: Database, kind: str, config: Mapping[str, Any]) -> StorageTarget:
    """The target `timestore-default-<kind>`, made or brought up to the given config."""
    name = f"timestore-default-{kind}"
    values = {
        "id": new_id("st"),
        "name": name,
        "kind": kind,
        "description": f"Default {kind} timestore storage target",
        "config": Jsonb(dict(config)),
    }
    with translated(), database.connection() as connection:
        connection.execute(_ENSURE_TARGET, values)
        row = connection.execute(_TARGET_BY_NAME, [name]).fetchone()
    assert row is not None
    return storage_target_of(row)
