"""What belongs to no dataset that is maintained: deleted datasets, folders nobody owns, old rows, temporary files."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import structlog

from timestore_core.catalog.audit import write_audit
from timestore_core.catalog.database import translated
from timestore_core.catalog.datasets import list_storage_targets
from timestore_core.catalog.identity import read_identity
from timestore_core.catalog.records import dataset_of
from timestore_core.errors import TimestoreError
from timestore_core.lifecycle.clock import expiry_time
from timestore_core.lifecycle.collection import (
    HISTORY_HOURS,
    Leftovers,
    delete_leftovers,
    delete_marked,
    find_leftovers,
    refusal_of,
    shared_with_copy,
)
from timestore_core.lifecycle.policy import policy_of
from timestore_core.model import Dataset
from timestore_core.runtime import Runtime

log = structlog.get_logger(__name__)

_EVERY_S = 3600
_JOB_RUNS_KEPT = timedelta(days=30)
_FAILED_BATCHES_KEPT = timedelta(days=7)
_LOCK = "timestore-sweep"

_DELETED = """
SELECT d.*, EXISTS (SELECT 1 FROM dataset_pins n WHERE n.dataset_id = d.id) AS pinned,
    ARRAY(SELECT DISTINCT p.storage_target_id FROM dataset_partitions p WHERE p.dataset_id = d.id) AS targets
FROM datasets d WHERE d.deleted_at IS NOT NULL ORDER BY d.id
"""

_MARK_ALL = """
UPDATE dataset_partitions p SET collecting = true FROM datasets d
WHERE d.id = %s AND d.deleted_at IS NOT NULL AND p.dataset_id = d.id
"""


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep did (or, as a preview, would do)."""

    datasets: tuple[str, ...]
    files: int
    bytes: int
    leftovers: tuple[Leftovers, ...]
    job_runs: int = 0
    failed_batches: int = 0
    refusal: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "deletedDatasets": list(self.datasets),
            "files": self.files,
            "bytes": self.bytes,
            "jobRuns": self.job_runs,
            "failedBatches": self.failed_batches,
            "leftovers": [
                {
                    "storageTarget": one.target.name,
                    "files": [file.key for file in one.files[:1000]],
                    "kept": one.reason,
                }
                for one in self.leftovers
                if one.files
            ],
            **({"refused": self.refusal} if self.refusal else {}),
        }


class Sweeper:
    """Sweeps at most once an hour from this process; of several processes one at a time does."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._last_s: float | None = None

    def sweep_if_due(self) -> Swept | None:
        """The sweep, or None where it is not due or another process is at it. Never raises for a failing part."""
        if self._last_s is not None and time.monotonic() - self._last_s < _EVERY_S:
            return None
        self._last_s = time.monotonic()
        try:
            swept = sweep_storage(self._runtime)
        except TimestoreError as error:
            log.warning("sweep.failed", reason=error.message)
            return None
        if swept is not None and (swept.files or swept.datasets):
            log.info("sweep.done", files=swept.files, bytes=swept.bytes, datasets=len(swept.datasets))
        return swept


def sweep_storage(runtime: Runtime, *, dry_run: bool = False) -> Swept | None:
    """Tidy up everything that no dataset's own collection reaches; None while another process does it.

    Raises ClockError where the time is not certain, Unavailable where a storage target fails.
    """
    with translated(), runtime.database.connection() as connection:
        held = connection.execute("SELECT pg_try_advisory_lock(hashtextextended(%s, 0)) AS held", [_LOCK]).fetchone()
        if held is None or not held["held"]:
            return None
        try:
            return _sweep(runtime, dry_run)
        finally:
            connection.execute("SELECT pg_advisory_unlock(hashtextextended(%s, 0))", [_LOCK])


def _sweep(runtime: Runtime, dry_run: bool) -> Swept:
    now = expiry_time(runtime.database)
    refusal = refusal_of(read_identity(runtime.database))
    if refusal is not None:
        return Swept((), 0, 0, (), refusal=refusal)
    reachable, reason = _reachable(runtime, dry_run)
    refusal = refusal_of(read_identity(runtime.database)) or reason
    if refusal is not None:
        return Swept((), 0, 0, (), refusal=refusal)
    gone = _expired_datasets(runtime, now, reachable)
    files = size_bytes = 0
    if not dry_run:
        for dataset in gone:
            deleted, deleted_bytes = _delete_dataset(runtime, dataset, sorted(reachable))
            files, size_bytes = files + deleted, size_bytes + deleted_bytes
    leftovers = _leftovers(runtime, now, dry_run)
    going = [one for one in leftovers if one.reason is None]
    for one in going:
        if dry_run:
            files, size_bytes = files + len(one.files), size_bytes + sum(file.size_bytes for file in one.files)
        else:
            deleted, deleted_bytes = delete_leftovers(runtime, one)
            files, size_bytes = files + deleted, size_bytes + deleted_bytes
    names = tuple(dataset.slug.partition(" deleted ")[0] for dataset in gone)
    if dry_run:
        return Swept(names, files, size_bytes, tuple(leftovers))
    job_runs, failed = _expire_rows(runtime, now)
    return Swept(names, files, size_bytes, tuple(leftovers), job_runs, failed)


def _reachable(runtime: Runtime, dry_run: bool) -> tuple[frozenset[str], str | None]:
    """The targets that can be reached, and, where a copy of this catalog owns one too, why nothing may be deleted."""
    found, reason = set[str](), None
    for target in list_storage_targets(runtime.database):
        try:
            reason = shared_with_copy(runtime, target, dry_run) or reason
            found.add(target.id)
        except TimestoreError as error:
            log.warning("sweep.target_skipped", target=target.name, reason=error.message)
    return frozenset(found), reason


def _expired_datasets(runtime: Runtime, now: datetime, target_ids: frozenset[str]) -> list[Dataset]:
    """Deleted datasets on these targets whose grace period is over and of which no version is pinned."""
    rows = runtime.database.read(lambda connection: connection.execute(_DELETED).fetchall())
    kept = timedelta(hours=runtime.settings.snapshot_retention_hours or 0)
    return [
        dataset
        for row in rows
        for dataset in [dataset_of(row)]
        if not row["pinned"]
        and target_ids.issuperset(row["targets"])
        and row["deleted_at"] <= now - max(policy_of(runtime, dataset).grace, kept)
    ]


def _delete_dataset(runtime: Runtime, dataset: Dataset, target_ids: Sequence[str]) -> tuple[int, int]:
    """Its files, then its rows. What tells of it in the audit log stays."""
    with translated(), runtime.database.connection() as connection, connection.transaction():
        # Whoever takes the deletion back holds the row too, and finds the marks.
        connection.execute("SELECT 1 FROM datasets WHERE id = %s FOR UPDATE", [dataset.id])
        connection.execute(_MARK_ALL, [dataset.id])
    files, size_bytes = delete_marked(runtime, dataset.id, target_ids)
    with translated(), runtime.database.connection() as connection, connection.transaction():
        payload = {"datasetId": dataset.id, "datasetSlug": dataset.slug.partition(" deleted ")[0], "files": files}
        deleted = connection.execute(
            "DELETE FROM datasets WHERE id = %s AND deleted_at IS NOT NULL "
            "AND NOT EXISTS (SELECT 1 FROM dataset_partitions p WHERE p.dataset_id = datasets.id)",
            [dataset.id],
        ).rowcount
        if deleted:
            write_audit(connection, "collection.dataset.deleted", payload, dataset_id=dataset.id)
    return files, size_bytes


def _leftovers(runtime: Runtime, now: datetime, dry_run: bool) -> list[Leftovers]:
    found, identity = [], read_identity(runtime.database)
    for target in list_storage_targets(runtime.database):
        try:
            driver = runtime.targets.driver(target)
            if not dry_run:
                _sweep_staging(driver.staging_dir(), runtime.settings.lifecycle_orphan_age_minutes * 60)
            found.append(find_leftovers(runtime, target, driver.list(), now, identity))
        except TimestoreError as error:
            log.warning("sweep.target_skipped", target=target.name, reason=error.message)
    return found


def _sweep_staging(directory: Path, age_s: float) -> None:
    """Temporary files of this host's dead processes; its own clock made their times, and judges them."""
    for path in directory.iterdir():
        try:
            if path.is_file() and time.time() - path.stat().st_mtime > age_s:
                path.unlink()
        except OSError:
            continue


def _expire_rows(runtime: Runtime, now: datetime) -> tuple[int, int]:
    """Old job runs and failed batches; how many of each."""
    hours = runtime.settings.snapshot_retention_hours
    batches_before = now - (_FAILED_BATCHES_KEPT if hours is None else timedelta(hours=max(hours, HISTORY_HOURS)))
    with translated(), runtime.database.connection() as connection:
        runs = connection.execute("DELETE FROM lifecycle_job_runs WHERE created_at < %s", [now - _JOB_RUNS_KEPT])
        failed = connection.execute("DELETE FROM ingest_journal WHERE failed_at < %s", [batches_before])
        return runs.rowcount, failed.rowcount
