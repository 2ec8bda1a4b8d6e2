"""Which version of a dataset a backup has: chosen once, held by a pin, and told apart from all later ones.

The pin keeps the version's files and rows as long as the backup is being written, over any number of runs. The keys of
batches that came with later versions must not be in the backup: a batch whose key is there and whose rows are not
would be lost when it is sent again. A key names its manifest, and so its version, until the manifest's history ends.
So the keys are read in a snapshot of the catalog in which every later version's manifest is there: a key whose
manifest is gone then belongs to an earlier one. Where that is not so any more, the pin moves to the current version.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

from psycopg.rows import tuple_row

from timestore_core.admin.versions import require_readable
from timestore_core.backup.documents import Key
from timestore_core.backup.problems import BackupError
from timestore_core.catalog.database import Connection, Database, translated
from timestore_core.catalog.records import dataset_of
from timestore_core.times import format_time

CREATED_BY = "timestore-backup"
_FETCH_ROWS = 5000

_LOCK = """
SELECT d.*, n.version AS pinned FROM datasets d
LEFT JOIN dataset_pins n ON n.dataset_id = d.id AND n.name = %(pin)s
WHERE d.id = %(dataset)s FOR UPDATE OF d
"""

_PUBLISHED = "SELECT version FROM dataset_manifests WHERE dataset_id = %s AND status = 'published'"

_PIN = """
INSERT INTO dataset_pins (dataset_id, name, version, created_by) VALUES (%(dataset)s, %(pin)s, %(version)s, %(by)s)
ON CONFLICT (dataset_id, name) DO UPDATE SET version = excluded.version, created_at = now()
"""

_UNPIN = "DELETE FROM dataset_pins WHERE name = %s"

_LATER_VERSIONS_ARE_KNOWN = """
SELECT d.current_version - %(version)s = count(m.id) AS known
FROM datasets d LEFT JOIN dataset_manifests m ON m.dataset_id = d.id AND m.version > %(version)s
WHERE d.id = %(dataset)s GROUP BY d.id, d.current_version
"""

_KEYS = """
SELECT b.idempotency_key, b.manifest_id, b.created_at, b.content_hash, b.job_id FROM ingestion_batches b
LEFT JOIN dataset_manifests m ON m.id = b.manifest_id AND m.dataset_id = b.dataset_id
WHERE b.dataset_id = %(dataset)s AND (m.version IS NULL OR m.version <= %(version)s)
"""


class HistoryGoneError(Exception):
    """Which keys came with later versions cannot be told any more."""


@dataclass(frozen=True, slots=True)
class Held:
    """A version that a backup's pin holds; 0 where the dataset has no snapshot and nothing has to be held."""

    dataset_id: str
    version: int


def pin_name(backup: str) -> str:
    """What the pins of a backup are called."""
    return f"backup:{backup}"


def hold(database: Database, dataset_id: str, backup: str, *, afresh: bool = False) -> Held | None:
    """Pin the dataset's current version, or find the one that an earlier run has pinned, unless that is to move.

    None where the dataset is deleted and no run has pinned it.
    """
    values = {"dataset": dataset_id, "pin": pin_name(backup), "by": CREATED_BY}
    with translated(), database.connection() as connection, connection.transaction():
        # Collection holds the row too while it decides which files no version needs.
        row = connection.execute(_LOCK, values).fetchone()
        if row is None or (row["deleted_at"] is not None and row["pinned"] is None):
            return None
        if row["pinned"] is not None and not afresh:
            return Held(dataset_id, row["pinned"])
        published = connection.execute(_PUBLISHED, [dataset_id]).fetchone()
        if published is None:
            return Held(dataset_id, 0)
        connection.execute(_PIN, {**values, "version": published["version"]})
        return Held(dataset_id, published["version"])


def hold_again(database: Database, dataset_id: str, slug: str, version: int, backup: str) -> Held:
    """Make sure that the version an earlier run has fixed is still held. Raises BackupError where it is gone."""
    values = {"dataset": dataset_id, "pin": pin_name(backup), "by": CREATED_BY, "version": version}
    with translated(), database.connection() as connection, connection.transaction():
        row = connection.execute(_LOCK, values).fetchone()
        if row is None or (row["deleted_at"] is not None and row["pinned"] != version > 0):
            raise BackupError(f"{slug} was deleted before its backup was complete; begin another one")
        if version > 0 and row["pinned"] != version:
            require_readable(connection, dataset_of(row), version)
            connection.execute(_PIN, values)
    return Held(dataset_id, version)


def release(database: Database, backup: str) -> None:
    """Remove the pins of the backup."""
    with translated(), database.connection() as connection:
        connection.execute(_UNPIN, [pin_name(backup)])


def keys_up_to(database: Database, held: Held) -> Generator[Key]:
    """The keys of the batches that came with the held version or before it, as a stream out of one snapshot.

    Raises HistoryGoneError before the first one where they cannot be told from later ones.
    """
    values = {"dataset": held.dataset_id, "version": held.version}
    with translated(), database.connection() as connection, connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        lift_time_limits(connection)
        found = connection.execute(_LATER_VERSIONS_ARE_KNOWN, values).fetchone()
        if found is None or not found["known"]:
            raise HistoryGoneError
        with connection.cursor("backup_keys", row_factory=tuple_row) as cursor:
            cursor.itersize = _FETCH_ROWS
            cursor.execute(_KEYS, values)
            for key, manifest_id, created_at, content_hash, job_id in cursor:
                yield Key(key, manifest_id, format_time(created_at), content_hash, job_id)


def lift_time_limits(connection: Connection) -> None:
    """Let this transaction take as long as its rows are many; it holds no lock that others wait for."""
    connection.execute(
        "SELECT set_config(name, '0', true) FROM pg_settings WHERE name IN ('statement_timeout', 'transaction_timeout')"
    )
