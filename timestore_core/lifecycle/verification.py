"""Is everything there that the catalog names, and is it what was written? And does storage hold more than that?"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from psycopg.types.json import Jsonb

from timestore_core.catalog.blobs import content_at
from timestore_core.catalog.change import NewPartition
from timestore_core.catalog.database import Connection, Row, translated
from timestore_core.catalog.identity import read_identity
from timestore_core.errors import TimestoreError
from timestore_core.lifecycle.clock import expiry_time
from timestore_core.lifecycle.collection import find_leftovers
from timestore_core.lifecycle.live import live_partitions, whole_partitions
from timestore_core.lifecycle.operation import Maintenance, Outcome, Status
from timestore_core.lifecycle.rewriting import opened
from timestore_core.model import Partition
from timestore_core.partitions.checksum import sha1_of
from timestore_core.partitions.format import WrittenFile
from timestore_core.partitions.inline import is_in_catalog
from timestore_core.partitions.inspect import inspect
from timestore_core.partitions.paths import fold_segment
from timestore_core.partitions.stored import remove_staged, storage_errors
from timestore_core.runtime import Runtime

_CHUNK = 200
_EVERY_HOURS = 24

_LAST = """
SELECT 1 FROM lifecycle_job_runs
WHERE dataset_id = %(dataset)s AND created_at > now() - make_interval(hours => %(hours)s)
    AND metadata -> 'operations' @> '[{"operation": "verification", "status": "completed"}]' LIMIT 1
"""

_TOTALS = """
SELECT m.id, m.partition_count, m.total_rows, m.total_bytes, count(p.id) AS partitions,
    coalesce(sum(p.row_count), 0)::bigint AS rows, coalesce(sum(p.file_size_bytes), 0)::bigint AS bytes
FROM dataset_manifests m
LEFT JOIN dataset_partitions p ON p.dataset_id = m.dataset_id AND p.added_version <= m.version
    AND (p.removed_version IS NULL OR p.removed_version > m.version)
WHERE m.dataset_id = %s AND m.status = 'published'
GROUP BY m.id
"""

_SET_TOTALS = """
UPDATE dataset_manifests SET partition_count = %(partitions)s, total_rows = %(rows)s, total_bytes = %(bytes)s,
    statistics = statistics || jsonb_build_object('rowCount', %(rows)s::bigint, 'fileSizeBytes', %(bytes)s::bigint)
WHERE id = %(id)s AND status = 'published'
"""

_FILL_IN = """
UPDATE dataset_partitions SET columns = %(columns)s, row_count = coalesce(row_count, %(rows)s),
    file_size_bytes = coalesce(file_size_bytes, %(bytes)s), checksum = coalesce(checksum, %(checksum)s)
WHERE id = %(id)s
"""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as the catalog says, or that the catalog does not know. `is_loss` says that data is gone
    or wrong; the others are untidiness."""

    kind: str
    message: str
    partition_id: str | None = None
    file_path: str | None = None
    is_loss: bool = True

    def to_json(self) -> dict[str, Any]:
        shown = {"kind": self.kind, "message": self.message, "isLoss": self.is_loss}
        if self.partition_id is not None:
            shown["partitionId"] = self.partition_id
        if self.file_path is not None:
            shown["filePath"] = self.file_path
        return shown


@dataclass(slots=True)
class Verified:
    """What was looked at, what was found, and what was mended."""

    partitions: int = 0
    rows: int = 0
    bytes: int = 0
    findings: list[Finding] = field(default_factory=list)
    repaired: list[str] = field(default_factory=list)

    @property
    def is_whole(self) -> bool:
        """Nothing is missing or wrong."""
        return not any(one.is_loss for one in self.findings)

    def to_json(self) -> dict[str, Any]:
        return {
            "isWhole": self.is_whole,
            "partitions": self.partitions,
            "rows": self.rows,
            "bytes": self.bytes,
            "findings": [one.to_json() for one in self.findings],
            "repaired": self.repaired,
        }


def verify_operation(maintenance: Maintenance) -> Outcome:
    """As an operation of the lifecycle: the shallow look, once a day unless somebody asks."""
    runtime, dataset = maintenance.runtime, maintenance.dataset
    values = {"dataset": dataset.id, "hours": _EVERY_HOURS}
    if not maintenance.asked and not maintenance.force:
        last = runtime.database.read(lambda connection: connection.execute(_LAST, values).fetchone())
        if last is not None:
            return Outcome("skipped", "was done within the last day")
    verified = verify(maintenance, deep=False, repair=False)
    details = {"findings": [one.to_json() for one in verified.findings[:100]]}
    message = None if verified.is_whole else f"{sum(one.is_loss for one in verified.findings)} partitions are not whole"
    status: Status = "completed" if verified.is_whole else "failed"
    return Outcome(status, message, 1, verified.partitions, verified.bytes, (), details)


def verify(maintenance: Maintenance, *, deep: bool, repair: bool) -> Verified:
    """Hold the current snapshot against storage, and storage against the catalog.

    `deep` reads every byte: checksum, row count, time range and statistics. `repair` fills in what the catalog
    lacks and corrects its totals; it removes nothing. Raises Unavailable where a storage target fails.
    """
    runtime, dataset = maintenance.runtime, maintenance.dataset
    verified = Verified()
    live = live_partitions(runtime.database, dataset.id)
    for start in range(0, len(live), _CHUNK):
        maintenance.progress("verification", start, len(live))
        ids = [one.id for one in live[start : start + _CHUNK]]
        for partition in whole_partitions(runtime.database, dataset.id, ids):
            if maintenance.stop.is_set():
                return verified
            known = len(verified.findings)
            _verify_partition(maintenance, partition, verified, deep=deep, repair=repair)
            if verified.findings[known:] and not whole_partitions(runtime.database, dataset.id, [partition.id]):
                # It left the snapshot while it was looked at, and its file may have been collected.
                del verified.findings[known:]
    maintenance.progress("verification", len(live), len(live))
    _verify_totals(maintenance, verified, repair=repair)
    _verify_storage(maintenance, verified)
    return verified


def _verify_partition(
    maintenance: Maintenance, partition: Partition, verified: Verified, *, deep: bool, repair: bool
) -> None:
    runtime = maintenance.runtime
    verified.partitions += 1
    verified.rows += partition.row_count
    verified.bytes += partition.file_size_bytes
    size_bytes = _stored_bytes(runtime, partition)
    if size_bytes is None:
        verified.findings.append(_finding("missing", partition, "the file is missing"))
        return
    if partition.file_size_bytes and size_bytes != partition.file_size_bytes:
        text = f"the file has {size_bytes} bytes instead of {partition.file_size_bytes}"
        verified.findings.append(_finding("size", partition, text))
        return
    lacks = not partition.statistics or not partition.row_count or partition.checksum is None
    if not deep and not (repair and lacks):
        return
    checksum = _checksum(maintenance, partition)
    if partition.checksum is not None and checksum != partition.checksum:
        verified.findings.append(_finding("checksum", partition, "the file is not what was written"))
        return
    try:
        with opened(runtime, [partition]) as source:
            found = inspect(source.cursor, source.rows[0].relation, partition.schema)
    except TimestoreError as error:
        verified.findings.append(_finding("unreadable", partition, error.message))
        return
    verified.findings += _differences(partition, found)
    if repair and lacks:
        _fill_in(maintenance, partition, found, size_bytes, checksum)
        verified.repaired.append(f"partition {partition.id}: its statistics, size or checksum were missing")


def _stored_bytes(runtime: Runtime, partition: Partition) -> int | None:
    """The size of the partition where it is stored, or None where it is not."""
    if is_in_catalog(partition.file_path):
        content = content_at(runtime.database, partition.file_path)
        return None if content is None else len(content)
    target = runtime.targets.get(partition.storage_target_id)
    with storage_errors(target):
        stored = runtime.targets.driver(target).stat(partition.file_path)
    return None if stored is None else stored.size_bytes


def _checksum(maintenance: Maintenance, partition: Partition) -> str:
    if is_in_catalog(partition.file_path):
        content = content_at(maintenance.runtime.database, partition.file_path) or b""
        return hashlib.sha1(content, usedforsecurity=False).hexdigest()
    target = maintenance.runtime.targets.get(partition.storage_target_id)
    driver = maintenance.runtime.targets.driver(target)
    local = Path(driver.location(partition.file_path))
    with storage_errors(target):
        if local.is_file():
            return sha1_of(local)
        fetched = driver.staging_dir() / f"verify-{uuid4()}"
        try:
            driver.fetch(partition.file_path, fetched)
            return sha1_of(fetched)
        finally:
            remove_staged(fetched)


def _differences(partition: Partition, found: WrittenFile) -> Iterator[Finding]:
    if partition.row_count and found.rows != partition.row_count:
        yield _finding("rows", partition, f"the file has {found.rows} rows instead of {partition.row_count}")
    for name, known in partition.statistics.items():
        seen = found.statistics.get(name)
        if seen is None or not known.exact or not seen.exact:
            continue
        bounds = (seen.nulls, seen.minimum, seen.maximum) == (known.nulls, known.minimum, known.maximum)
        if not bounds or known.values not in (None, seen.values):
            yield _finding("statistics", partition, f"the column {name!r} is not what the catalog says")


def _fill_in(maintenance: Maintenance, partition: Partition, found: WrittenFile, size: int, checksum: str) -> None:
    columns = NewPartition.columns_of(partition.schema, found.statistics)
    values = {"columns": Jsonb(columns), "rows": found.rows, "bytes": size, "checksum": checksum, "id": partition.id}
    with translated(), maintenance.runtime.database.connection() as connection:
        connection.execute(_FILL_IN, values)


def _verify_totals(maintenance: Maintenance, verified: Verified, *, repair: bool) -> None:
    database, dataset = maintenance.runtime.database, maintenance.dataset
    row = database.read(lambda connection: connection.execute(_TOTALS, [dataset.id]).fetchone())
    if row is None or _agrees(row):
        return
    if not repair:
        text = f"the manifest says {row['total_rows']} rows, its partitions have {row['rows']}"
        verified.findings.append(Finding("totals", text, is_loss=False))
        return
    with translated(), database.connection() as connection, connection.transaction():
        connection.execute("SELECT 1 FROM datasets WHERE id = %s FOR UPDATE", [dataset.id])
        again = connection.execute(_TOTALS, [dataset.id]).fetchone()
        if again is not None:
            connection.execute(_SET_TOTALS, again)
    verified.repaired.append("the manifest's totals are those of its partitions again")


def _agrees(row: Mapping[str, Any]) -> bool:
    return (row["partition_count"], row["total_rows"], row["total_bytes"]) == (
        row["partitions"],
        row["rows"],
        row["bytes"],
    )


def _verify_storage(maintenance: Maintenance, verified: Verified) -> None:
    """Files of the dataset's folder that no row of the catalog names, and removed ones that are not there."""
    runtime, dataset = maintenance.runtime, maintenance.dataset

    def targets(connection: Connection) -> Sequence[Row]:
        return connection.execute(
            "SELECT DISTINCT storage_target_id AS id FROM dataset_partitions WHERE dataset_id = %s", [dataset.id]
        ).fetchall()

    identity, now = read_identity(runtime.database), expiry_time(runtime.database)
    for row in runtime.database.read(targets):
        target = runtime.targets.get(row["id"])
        files = runtime.targets.driver(target).list(fold_segment(dataset.slug))
        for file in find_leftovers(runtime, target, files, now, identity).files:
            text = f"no row of the catalog names this file on {target.name}; collection deletes it"
            verified.findings.append(Finding("unknown", text, file_path=file.key, is_loss=False))


def _finding(kind: str, partition: Partition, message: str) -> Finding:
    return Finding(kind, f"partition {partition.id}: {message}", partition.id, partition.file_path)
