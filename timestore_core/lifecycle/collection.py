"""Files that nothing needs any more are deleted, and the rows of the catalog that told of them.

A removed partition is first marked in the catalog (from then on no version that has it can be restored), then its
file is deleted, then its row: killed in between, the next run finds the mark and goes on. Leftovers of crashes are
found by listing storage; they go only where this catalog is the sole owner of the place. Where a copy of this catalog
owns it too nothing goes: what this one has removed may be what the other one still reads.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog

from timestore_core.catalog.database import Connection, Database, Row, translated
from timestore_core.catalog.identity import Identity, are_related, read_identity
from timestore_core.catalog.ownership import FOLDER, owners
from timestore_core.errors import Unavailable
from timestore_core.lifecycle.clock import expiry_time
from timestore_core.lifecycle.operation import Maintenance, Outcome, Status
from timestore_core.lifecycle.policy import policy_of
from timestore_core.model import StorageTarget
from timestore_core.partitions.inline import is_in_catalog
from timestore_core.partitions.paths import fold_segment
from timestore_core.partitions.stored import storage_errors
from timestore_core.runtime import Runtime
from timestore_core.storage import StoredFile

log = structlog.get_logger(__name__)

_PART = re.compile(r"part-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\.[a-z0-9]+(\.wal)?")
_CHUNK = 500
# How long the history of versions is kept where TIMESTORE_SNAPSHOT_RETENTION_HOURS does not say.
HISTORY_HOURS = 24

_DUE = """
FROM dataset_partitions p
WHERE p.dataset_id = %(dataset)s AND p.removed_version IS NOT NULL AND NOT p.collecting AND p.removed_at <= %(before)s
    AND p.storage_target_id = ANY(%(targets)s)
    AND NOT EXISTS (SELECT 1 FROM dataset_pins n WHERE n.dataset_id = p.dataset_id
        AND n.version >= p.added_version AND n.version < p.removed_version)
"""

_PREVIEW = f"SELECT p.id, p.file_path, p.file_size_bytes, p.row_count, p.removed_at {_DUE} ORDER BY p.id"

_MARK = f"""
UPDATE dataset_partitions SET collecting = true
WHERE id IN (SELECT p.id {_DUE} ORDER BY p.id LIMIT %(limit)s) RETURNING removed_version
"""  # noqa: S608

_READABLE_FROM = "UPDATE datasets SET readable_from = greatest(readable_from, %(version)s) WHERE id = %(dataset)s"

_MARKED = """
SELECT p.id, p.storage_target_id, p.file_path, p.file_size_bytes, EXISTS (
    SELECT 1 FROM dataset_partitions other WHERE other.file_path = p.file_path AND NOT other.collecting
) AS still_used
FROM dataset_partitions p
WHERE p.dataset_id = %(dataset)s AND p.collecting AND p.storage_target_id = ANY(%(targets)s)
ORDER BY p.id LIMIT %(limit)s
"""

_FORGET = "DELETE FROM dataset_partitions WHERE id = ANY(%s) AND collecting"

# A manifest goes when no partition's row hangs on it (deleting it would take that along) and nobody has pinned it.
_EXPIRE_MANIFESTS = """
DELETE FROM dataset_manifests WHERE id IN (
    SELECT m.id FROM dataset_manifests m
    WHERE m.dataset_id = %(dataset)s AND m.status = 'superseded' AND m.updated_at <= %(before)s
        AND NOT EXISTS (SELECT 1 FROM dataset_partitions p WHERE p.manifest_id = m.id)
        AND NOT EXISTS (SELECT 1 FROM dataset_pins n WHERE n.dataset_id = m.dataset_id AND n.version = m.version)
    ORDER BY m.version LIMIT %(limit)s
)
"""

_TARGETS_OF = "SELECT DISTINCT storage_target_id AS id FROM dataset_partitions WHERE dataset_id = %s"

_KNOWN = "SELECT DISTINCT file_path FROM dataset_partitions WHERE file_path = ANY(%s)"


@dataclass(frozen=True, slots=True)
class Leftovers:
    """Old files of a place that no row of the catalog names; `reason` says why they have to stay, if they do."""

    target: StorageTarget
    files: tuple[StoredFile, ...]
    reason: str | None


def collect(maintenance: Maintenance) -> Outcome:
    """Delete what no kept version of the dataset needs. Raises ClockError where the time is not certain."""
    runtime, dataset = maintenance.runtime, maintenance.dataset
    now = expiry_time(runtime.database)
    refusal = refusal_of(read_identity(runtime.database))
    if refusal is not None:
        return Outcome("skipped", refusal)
    grace = policy_of(runtime, dataset).grace
    kept_hours = runtime.settings.snapshot_retention_hours
    before = now - max(grace, timedelta(hours=kept_hours or 0))
    history_before = now - max(grace, timedelta(hours=HISTORY_HOURS if kept_hours is None else kept_hours))
    targets = _targets_of(maintenance)
    own, reason, failure = list[str](), None, None
    for target in targets.values():
        try:
            reason = shared_with_copy(runtime, target, maintenance.dry_run) or reason
            own.append(target.id)
        except Unavailable as error:
            failure = error
    # Looking at the markers may have shown that this catalog is the copy.
    refusal = refusal_of(read_identity(runtime.database)) or reason
    if refusal is not None:
        return Outcome("skipped", refusal)
    if maintenance.dry_run:
        return _preview(maintenance, targets.values(), own, before, now)
    files, size_bytes = collect_partitions(runtime, dataset.id, own, before)
    if failure is not None:
        # What can be collected is; the listings below need every target.
        raise failure
    manifests = _expire_manifests(runtime.database, dataset.id, history_before)
    stray, stray_bytes, kept = _remove_leftovers(maintenance, _leftovers_of_dataset(maintenance, targets.values(), now))
    done = files + stray
    details: dict[str, Any] = {"manifests": manifests, "leftovers": stray}
    if kept:
        details["keptLeftovers"] = kept
    message = None if done or manifests else "nothing is old enough to be deleted"
    status: Status = "completed" if done or manifests else "skipped"
    return Outcome(status, message, done, done, size_bytes + stray_bytes, (), details)


def shared_with_copy(runtime: Runtime, target: StorageTarget, dry_run: bool) -> str | None:
    """Why nothing at all may be deleted, or None; leaves this catalog's marker unless it is a dry run.

    Raises Unavailable where storage fails.
    """
    identity = read_identity(runtime.database) if dry_run else runtime.targets.begin_epoch(target)
    with storage_errors(target):
        others = set(owners(runtime.targets.driver(target))) - {identity.id}
    copies = sorted(one for one in others if are_related(one, identity.id))
    if not copies:
        return None
    return (
        f"another catalog that was copied from this one, or this one from it, owns {target.name} too "
        f"({', '.join(copies)}): nothing is deleted, since it may still need what this one has removed. Stop the one "
        "that is not needed; then `timestore storage confirm` makes the other the only owner"
    )


def refusal_of(identity: Identity) -> str | None:
    """Why this catalog must not delete anything now, or None."""
    if identity.restored_at is None:
        return None
    return (
        "this catalog was restored from a copy and may be older than its storage: nothing is deleted until an "
        "operator has looked. `timestore storage confirm` shows what it does not know, and makes it the owner again"
    )


def collect_partitions(
    runtime: Runtime, dataset_id: str, target_ids: Sequence[str], before: datetime
) -> tuple[int, int]:
    """Delete the files of partitions that left before that time and that no pin holds; how many, and their bytes."""
    files = size_bytes = 0
    while True:
        marked = _mark(runtime.database, dataset_id, target_ids, before)
        deleted, deleted_bytes = delete_marked(runtime, dataset_id, target_ids)
        files, size_bytes = files + deleted, size_bytes + deleted_bytes
        if marked < _CHUNK:
            return files, size_bytes


def delete_marked(runtime: Runtime, dataset_id: str, target_ids: Sequence[str]) -> tuple[int, int]:
    """Delete what is marked on these targets, by this run or by one that was killed."""
    files = size_bytes = 0
    while True:
        values = {"dataset": dataset_id, "targets": list(target_ids), "limit": _CHUNK}

        def read(connection: Connection, values: Mapping[str, Any] = values) -> list[Row]:
            return connection.execute(_MARKED, values).fetchall()

        rows = runtime.database.read(read)
        if not rows:
            return files, size_bytes
        for row in rows:
            if is_in_catalog(row["file_path"]):
                # Its bytes go with its row.
                files += 1
                size_bytes += row["file_size_bytes"] or 0
                continue
            if not row["still_used"]:
                target = runtime.targets.get(row["storage_target_id"])
                with storage_errors(target):
                    runtime.targets.driver(target).delete(row["file_path"])
                files += 1
                size_bytes += row["file_size_bytes"] or 0
            runtime.plugins.step("collection.file_deleted")
        with translated(), runtime.database.connection() as connection:
            connection.execute(_FORGET, [[row["id"] for row in rows]])
        runtime.plugins.step("collection.rows_deleted")


def find_leftovers(
    runtime: Runtime, target: StorageTarget, files: Iterable[StoredFile], now: datetime, identity: Identity
) -> Leftovers:
    """Those of the files that are a crash's: named as partitions are, old enough, and known to no row.

    The listing is read to its end before anything is decided. Raises Unavailable where it fails half-way.
    """
    oldest = now - timedelta(minutes=runtime.settings.lifecycle_orphan_age_minutes)
    with storage_errors(target):
        driver = runtime.targets.driver(target)
        old = [one for one in files if _is_partition(one.key) and one.modified_at and one.modified_at <= oldest]
        others = sorted(set(owners(driver)) - {identity.id})
    unknown: list[StoredFile] = []
    for start in range(0, len(old), _CHUNK):
        chunk = old[start : start + _CHUNK]
        keys = [one.key.removesuffix(".wal") for one in chunk]

        def read(connection: Connection, keys: Sequence[str] = keys) -> set[str]:
            return {row["file_path"] for row in connection.execute(_KNOWN, [list(keys)])}

        known = runtime.database.read(read)
        unknown += [one for one in chunk if one.key.removesuffix(".wal") not in known]
    reason = None
    if others:
        reason = f"another catalog owns this place too ({', '.join(others)}); `timestore storage confirm` says more"
    return Leftovers(target, tuple(unknown), reason)


def delete_leftovers(runtime: Runtime, leftovers: Leftovers) -> tuple[int, int]:
    """Delete them; how many, and their bytes."""
    driver = runtime.targets.driver(leftovers.target)
    with storage_errors(leftovers.target):
        for one in leftovers.files:
            log.info("collection.leftover_deleted", target=leftovers.target.name, key=one.key)
            driver.delete(one.key)
            runtime.plugins.step("collection.leftover_deleted")
    return len(leftovers.files), sum(one.size_bytes for one in leftovers.files)


def _is_partition(key: str) -> bool:
    return not key.startswith(f"{FOLDER}/") and _PART.fullmatch(key.rsplit("/", 1)[-1]) is not None


def _mark(database: Database, dataset_id: str, target_ids: Sequence[str], before: datetime) -> int:
    values = {"dataset": dataset_id, "targets": list(target_ids), "before": before, "limit": _CHUNK}
    with translated(), database.connection() as connection, connection.transaction():
        # Whoever restores or pins a version holds the dataset's row too.
        connection.execute("SELECT 1 FROM datasets WHERE id = %s FOR UPDATE", [dataset_id])
        marked = connection.execute(_MARK, values).fetchall()
        if marked:
            version = max(row["removed_version"] for row in marked)
            connection.execute(_READABLE_FROM, {"dataset": dataset_id, "version": version})
    return len(marked)


def _expire_manifests(database: Database, dataset_id: str, before: datetime) -> int:
    expired = 0
    while True:
        with translated(), database.connection() as connection:
            values = {"dataset": dataset_id, "before": before, "limit": _CHUNK}
            gone = connection.execute(_EXPIRE_MANIFESTS, values).rowcount
        expired += gone
        if gone < _CHUNK:
            return expired


def _targets_of(maintenance: Maintenance) -> dict[str, StorageTarget]:
    """Every target that the dataset uses; first the default one, which each start of a catalog marks."""
    runtime, dataset = maintenance.runtime, maintenance.dataset
    ids = {row["id"] for row in runtime.database.read(lambda c: c.execute(_TARGETS_OF, [dataset.id]).fetchall())}
    ids.add(runtime.targets.for_ingest(None, dataset).id)
    return {one: runtime.targets.get(one) for one in [runtime.targets.default.id, *sorted(ids)]}


def _leftovers_of_dataset(maintenance: Maintenance, targets: Iterable[StorageTarget], now: datetime) -> list[Leftovers]:
    """What crashes left in the dataset's folder, on each of its targets."""
    runtime = maintenance.runtime
    identity, folder = read_identity(runtime.database), fold_segment(maintenance.dataset.slug)
    return [
        find_leftovers(runtime, target, runtime.targets.driver(target).list(folder), now, identity)
        for target in targets
    ]


def _remove_leftovers(maintenance: Maintenance, found: Sequence[Leftovers]) -> tuple[int, int, list[dict[str, Any]]]:
    files = size_bytes = 0
    kept = []
    for one in found:
        if one.reason is None:
            deleted, deleted_bytes = delete_leftovers(maintenance.runtime, one)
            files, size_bytes = files + deleted, size_bytes + deleted_bytes
        elif one.files:
            kept.append({"storageTarget": one.target.name, "files": len(one.files), "reason": one.reason})
    return files, size_bytes, kept


def _preview(
    maintenance: Maintenance, targets: Iterable[StorageTarget], own: Sequence[str], before: datetime, now: datetime
) -> Outcome:
    database, dataset = maintenance.runtime.database, maintenance.dataset
    values = {"dataset": dataset.id, "targets": list(own), "before": before}
    due = database.read(lambda connection: connection.execute(_PREVIEW, values).fetchall())
    leftovers = _leftovers_of_dataset(maintenance, targets, now)
    shown = [{"id": row["id"], "filePath": row["file_path"], "reason": "removed"} for row in due[:1000]]
    for one in leftovers:
        shown += [{"filePath": file.key, "reason": one.reason or "leftover of a crash"} for file in one.files[:1000]]
    going = [file for one in leftovers if one.reason is None for file in one.files]
    size_bytes = sum(row["file_size_bytes"] or 0 for row in due) + sum(file.size_bytes for file in going)
    count = len(due) + len(going)
    return Outcome("completed", None, count, count, size_bytes, (), {"dryRun": True, "filesToDelete": shown})
