"""Several waiting batches of one kind, published together: one file and one commit, each with its own key."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from timestore_core.catalog.attempt import ClaimTakenError
from timestore_core.catalog.datasets import find_dataset
from timestore_core.errors import Conflict, InvalidRequest
from timestore_core.ingest.jobs import Task, ended, prepare, result_of
from timestore_core.ingest.pipeline import Work, ingest_batch, work_of
from timestore_core.model import TimeRange
from timestore_core.queues import Job
from timestore_core.runtime import Runtime


@dataclass(eq=False, slots=True)
class _Group:
    """Batches that came within one moment. The first one's thread publishes for all."""

    tasks: list[Task] = field(default_factory=list)
    rows: int = 0
    size_bytes: int = 0
    full: threading.Event = field(default_factory=threading.Event)
    done: threading.Event = field(default_factory=threading.Event)
    result: dict[str, Any] | None = None
    error: Exception | None = None


class Coalescer:
    """Performs jobs, those of one kind together. Each job runs in a thread of its own, most of them waiting."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._settings = runtime.settings
        self._lock = threading.Lock()
        self._open: dict[Any, _Group] = {}
        self._writing = threading.BoundedSemaphore(runtime.settings.ingest_concurrency)

    def perform(self, job: Job) -> Mapping[str, Any]:
        """As `jobs.perform`, but the batch may share its file with others."""
        with ended(self._runtime, job):
            task = prepare(self._runtime, job)
            if isinstance(task, dict):
                return task
            group, leads = self._join(task)
            if leads:
                self._lead(group, _kind_of(task))
            group.done.wait()
            if group.result is not None:
                return group.result
            if isinstance(group.error, Conflict | InvalidRequest | ClaimTakenError):
                # One of them does not fit: each finds out alone which.
                return self._alone(task)
            assert group.error is not None
            raise group.error

    def _join(self, task: Task) -> tuple[_Group, bool]:
        kind, settings = _kind_of(task), self._settings
        rows, size_bytes = task.batch.rows.num_rows, task.batch.rows.nbytes
        with self._lock:
            group = self._open.get(kind)
            keys = {one.claim.idempotency_key for one in group.tasks} if group else set()
            fits = (
                group is not None
                and group.rows + rows <= settings.ingest_coalesce_max_rows
                and group.size_bytes + size_bytes <= settings.ingest_coalesce_max_bytes
                and task.claim.idempotency_key not in keys
            )
            leads = group is None or not fits
            if group is None or not fits:
                if group is not None:
                    group.full.set()
                group = self._open[kind] = _Group()
            group.tasks.append(task)
            group.rows += rows
            group.size_bytes += size_bytes
            if len(group.tasks) >= settings.ingest_coalesce_max_batches:
                group.full.set()
            return group, leads

    def _lead(self, group: _Group, kind: Any) -> None:
        """Wait for others to join, then publish for all of them."""
        try:
            group.full.wait(self._settings.ingest_coalesce_max_age_ms / 1000)
            with self._writing:
                with self._lock:
                    if self._open.get(kind) is group:
                        del self._open[kind]
                group.result = self._publish(_together(group.tasks))
        except Exception as error:
            group.error = error
        finally:
            with self._lock:
                if self._open.get(kind) is group:
                    del self._open[kind]
            group.done.set()

    def _alone(self, task: Task) -> dict[str, Any]:
        with self._writing:
            return self._publish(work_of(task.slug, task.batch, task.actor, task.claim))

    def _publish(self, work: Work) -> dict[str, Any]:
        dataset = find_dataset(self._runtime.database, work.slug)
        return result_of(ingest_batch(self._runtime, work, dataset))


def _kind_of(task: Task) -> Any:
    """What two batches must share to share a file."""
    envelope = task.batch.envelope
    return (
        task.slug,
        envelope.schema,
        envelope.table_name,
        tuple(sorted(envelope.partition_key.items())),
        envelope.storage_target_id,
    )


def _together(tasks: list[Task]) -> Work:
    first = tasks[0]
    ranges = [task.batch.envelope.time_range for task in tasks]
    whole = TimeRange(min(one.start_us for one in ranges), max(one.end_us for one in ranges))
    return Work(
        slug=first.slug,
        envelope=replace(first.batch.envelope, time_range=whole),
        rows=pa.concat_tables([task.batch.rows for task in tasks]),
        claims=tuple(task.claim for task in tasks),
        actor=first.actor,
    )
