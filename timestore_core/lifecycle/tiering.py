"""Old partitions move to another storage target, byte by byte, and are checked there before the snapshot names them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import structlog

from timestore_core.catalog.change import Change, Event, InputsGoneError, NewPartition, publish_change
from timestore_core.catalog.database import Row
from timestore_core.errors import InsufficientStorage, PartitionUnreadable, TimestoreError, Unavailable
from timestore_core.lifecycle.clock import expiry_time
from timestore_core.lifecycle.live import LivePartition, live_partitions, whole_partitions
from timestore_core.lifecycle.operation import Maintenance, Outcome, Status
from timestore_core.lifecycle.policy import policy_of
from timestore_core.model import Partition, StorageTarget
from timestore_core.partitions.checksum import sha1_of
from timestore_core.partitions.duckdb_file import sync_file
from timestore_core.partitions.format import WrittenFile
from timestore_core.partitions.stored import Place, StoredPartition, discard, store_partition
from timestore_core.times import from_us

log = structlog.get_logger(__name__)

CREATED_BY = "timestore-tiering"


def tier(maintenance: Maintenance) -> Outcome:
    """Move what is old enough to the dataset's cold target. Raises ClockError where the time is not certain."""
    runtime, dataset = maintenance.runtime, maintenance.dataset
    policy = policy_of(runtime, dataset)
    if policy.cold_after is None or policy.cold_target_id is None:
        return Outcome("skipped", "the policy has no coldStorageAfterHours with a metadata.coldStorageTargetId")
    cold_after = policy.cold_after
    now = expiry_time(runtime.database)
    target = runtime.targets.get(policy.cold_target_id)

    def is_old(one: LivePartition) -> bool:
        last = one.end_time if one.last_us is None else max(one.end_time, from_us(one.last_us))
        return now - last > cold_after

    return move_partitions(maintenance, target, is_old, "tiering")


def move_partitions(
    maintenance: Maintenance, target: StorageTarget, wanted: Callable[[LivePartition], bool], operation: str
) -> Outcome:
    """Move the wanted partitions that are not there yet, each in a snapshot of its own: it may be stopped any time."""
    runtime, dataset = maintenance.runtime, maintenance.dataset
    going = [
        one
        for one in live_partitions(runtime.database, dataset.id)
        if one.storage_target_id != target.id and wanted(one)
    ]
    if not going:
        return Outcome("skipped", f"no partition has to move to {target.name}")
    if maintenance.dry_run:
        shown = [{**one.to_json(), "reason": operation} for one in going[:1000]]
        details = {"dryRun": True, "partitionsToMove": shown, "rows": sum(one.rows for one in going)}
        return Outcome("completed", None, len(going), len(going), sum(one.bytes for one in going), (), details)
    moved, size_bytes, audit, problem = 0, 0, list[Row](), None
    for number, one in enumerate(going):
        if maintenance.stop.is_set():
            break
        maintenance.progress(operation, number, len(going))
        for partition in whole_partitions(runtime.database, dataset.id, [one.id]):
            try:
                events = _move(maintenance, partition, target, operation)
            except (Unavailable, InsufficientStorage):
                raise
            except TimestoreError as error:
                log.error("tiering.partition_failed", partition=one.id, reason=error.message)
                problem = error.message
                continue
            if events is not None:
                audit += events
                moved += 1
                size_bytes += one.bytes
    maintenance.progress(operation, len(going), len(going))
    status: Status = "failed" if problem else "completed"
    return Outcome(status, problem, moved, moved, size_bytes, tuple(audit))


def _move(
    maintenance: Maintenance, partition: Partition, target: StorageTarget, operation: str
) -> tuple[Row, ...] | None:
    """Its lines of the audit log; None where the partition left the snapshot meanwhile."""
    runtime, dataset = maintenance.runtime, maintenance.dataset
    source = runtime.source_of(partition.storage_target_id, partition.file_path)

    def write(path: Path) -> WrittenFile:
        try:
            source.fetch(partition.file_path, path)
        except FileNotFoundError:
            raise _unreadable(partition, "its file is missing") from None
        if partition.checksum is not None and sha1_of(path) != partition.checksum:
            raise _unreadable(partition, "its file is not what was written")
        sync_file(path)
        return WrittenFile(partition.row_count, partition.statistics)

    place = Place(target, dataset.slug, partition.partition_key, partition.file_format)
    stored = store_partition(runtime, place, operation, write)
    payload = {
        "partitionId": partition.id,
        "replacementPartitionId": stored.partition_id,
        "fromStorageTargetId": partition.storage_target_id,
        "toStorageTargetId": target.id,
        "fileSizeBytes": stored.size_bytes,
    }
    change = Change(
        dataset_id=dataset.id,
        dataset_slug=dataset.slug,
        removed=[partition.id],
        added=[_moved(partition, stored)],
        events=[Event(f"{operation}.partition.moved", payload)],
        created_by=CREATED_BY,
        reason=operation,
        publish_before_s=stored.publish_before_s,
    )
    try:
        changed = publish_change(runtime.database, change)
    except InputsGoneError:
        discard(runtime.targets.driver(target), stored.key)
        return None
    runtime.plugins.step(f"{operation}.published")
    return changed.audit


def _moved(partition: Partition, stored: StoredPartition) -> NewPartition:
    return NewPartition(
        id=stored.partition_id,
        partition_key=partition.partition_key,
        target_id=stored.target.id,
        file_format=partition.file_format,
        file_path=stored.key,
        file_size_bytes=stored.size_bytes,
        row_count=partition.row_count,
        start_time=partition.start_time,
        end_time=partition.end_time,
        checksum=stored.checksum,
        schema=partition.schema,
        statistics=partition.statistics,
        metadata=partition.metadata,
    )


def _unreadable(partition: Partition, why: str) -> PartitionUnreadable:
    return PartitionUnreadable(
        f"partition {partition.id} cannot be moved: {why}; it was left as it is",
        details={"partitionId": partition.id, "filePath": partition.file_path},
    )
