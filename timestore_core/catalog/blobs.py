"""The bytes of partitions that stand in the catalog, and what is known of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from timestore_core.catalog.database import Connection, Database, Row

# A partition has some ten kilobytes: what one read brings is a few megabytes.
_CHUNK = 500

_BY_ID = """
SELECT p.id, p.file_path, p.storage_target_id, p.checksum,
    coalesce((p.metadata ->> 'dataVersion')::integer, p.added_version) AS version, b.content FROM dataset_partitions p
LEFT JOIN dataset_partition_blobs b ON b.partition_id = p.id WHERE p.id = ANY(%s)
"""

# A restored version names the same path once more, with a copy of the bytes.
_BY_PATH = """
SELECT b.content FROM dataset_partitions p JOIN dataset_partition_blobs b ON b.partition_id = p.id
WHERE p.file_path = %s LIMIT 1
"""


@dataclass(frozen=True, slots=True)
class Blob:
    """A partition's bytes; `content` is None where the catalog has them not, but a storage target."""

    partition_id: str
    file_path: str
    storage_target_id: str
    checksum: str | None
    version: int
    content: bytes | None


def read_blobs(database: Database, partition_ids: Sequence[str]) -> Iterator[Blob]:
    """Those of the partitions that the catalog still knows, some hundred in memory at a time."""
    for start in range(0, len(partition_ids), _CHUNK):
        ids = list(partition_ids[start : start + _CHUNK])

        def work(connection: Connection, ids: Sequence[str] = ids) -> list[Row]:
            return connection.execute(_BY_ID, [ids], binary=True).fetchall()

        for row in database.read(work):
            yield Blob(
                row["id"],
                row["file_path"],
                row["storage_target_id"],
                row["checksum"],
                row["version"] or 0,
                row["content"],
            )


def content_at(database: Database, file_path: str) -> bytes | None:
    """The bytes of the partition with this path, or None."""
    row = database.read(lambda connection: connection.execute(_BY_PATH, [file_path], binary=True).fetchone())
    return None if row is None else bytes(row["content"])
