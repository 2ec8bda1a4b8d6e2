"""The partitions of the current snapshot, as maintenance reads them: light to plan with, whole to work with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from timestore_core.catalog.database import Connection, Database, Row
from timestore_core.catalog.records import partition_of
from timestore_core.model import Partition, Schema

_LIVE = """
SELECT id, partition_key, storage_target_id, file_format, file_size_bytes, row_count, start_time, end_time,
    metadata ->> 'tableName' AS table_name, metadata #>> '{lifecycle,compaction,level}' AS level, added_version,
    (SELECT max((c ->> 'max')::bigint) FROM jsonb_array_elements(columns) c
        WHERE c ->> 'type' = 'timestamp' AND c ->> 'max' IS NOT NULL) AS last_us
FROM dataset_partitions
WHERE dataset_id = %s AND added_version IS NOT NULL AND removed_version IS NULL
ORDER BY start_time, id
"""

_WHOLE = """
SELECT p.*, s.schema FROM dataset_partitions p
LEFT JOIN dataset_manifests m ON p.columns IS NULL AND m.id = p.manifest_id
LEFT JOIN dataset_schema_versions s ON s.id = m.schema_version_id
WHERE p.dataset_id = %(dataset)s AND p.id = ANY(%(ids)s) AND p.removed_version IS NULL
ORDER BY p.start_time, p.id
"""


@dataclass(frozen=True, slots=True)
class LivePartition:
    """What plans need to know of a partition. `level` counts how often its rows were gathered."""

    id: str
    partition_key: Mapping[str, str]
    storage_target_id: str
    file_format: str
    table_name: str
    bytes: int
    rows: int
    start_time: datetime
    end_time: datetime
    level: int
    last_us: int | None

    def to_json(self) -> dict[str, Any]:
        """The partition in the preview of a change."""
        return {"id": self.id, "partitionKey": self.partition_key, "rowCount": self.rows, "fileSizeBytes": self.bytes}


def live_partitions(database: Database, dataset_id: str) -> list[LivePartition]:
    """Every partition of the current snapshot, by start time."""
    return database.read(lambda connection: [_live_of(row) for row in connection.execute(_LIVE, [dataset_id])])


def whole_partitions(database: Database, dataset_id: str, ids: Sequence[str]) -> list[Partition]:
    """Those of the ids that are still in the current snapshot, by start time."""

    def work(connection: Connection) -> list[Partition]:
        rows = connection.execute(_WHOLE, {"dataset": dataset_id, "ids": list(ids)})
        return [partition_of(row, Schema.from_json(row["schema"] or {})) for row in rows]

    return database.read(work)


def _live_of(row: Row) -> LivePartition:
    return LivePartition(
        id=row["id"],
        partition_key=row["partition_key"],
        storage_target_id=row["storage_target_id"],
        file_format=row["file_format"],
        table_name=row["table_name"] or "records",
        bytes=row["file_size_bytes"] or 0,
        rows=row["row_count"] or 0,
        start_time=row["start_time"],
        end_time=row["end_time"],
        level=int(row["level"]) if (row["level"] or "").isdigit() else 0,
        last_us=row["last_us"],
    )
