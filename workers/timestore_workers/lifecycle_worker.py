"""`timestore worker lifecycle`: schedules every active dataset, and maintains those that the queue brings."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import structlog

from timestore_core.catalog.datasets import find_dataset, find_dataset_by_id
from timestore_core.errors import NotFound, TimestoreError, Unavailable
from timestore_core.ingest.jobs import retry_delay_ms
from timestore_core.lifecycle.operation import Maintenance
from timestore_core.lifecycle.runs import (
    ALL_OPERATIONS,
    CONTRACT_OPERATIONS,
    Report,
    Request,
    active_datasets,
    maintain,
)
from timestore_core.lifecycle.sweep import Sweeper
from timestore_core.model import Dataset
from timestore_core.queues import GiveUp, Job, RetryLater
from timestore_core.runtime import Runtime
from timestore_core.times import format_time, from_us, parse_time_us
from timestore_workers.console import out
from timestore_workers.worker import Metrics, leave_what_still_runs, serve_metrics, stop_on_signal, worker_runtime

log = structlog.get_logger(__name__)

_LOOK_EVERY_S = 5.0


def run_lifecycle_worker(
    *, once: bool, slug: str | None, dataset_id: str | None, operations: Sequence[str], metrics_port: int | None
) -> bool:
    """Maintain now (`once`), or schedule and work until a signal comes. False when an operation failed."""
    with worker_runtime(needs_queue=False) as runtime:
        if once:
            return _run_once(runtime, _chosen(runtime, slug, dataset_id), operations)
        with stop_on_signal() as stop:
            metrics = Metrics()
            if metrics_port is not None:
                serve_metrics(metrics, runtime.settings.host, metrics_port, lambda: not stop.is_set())
            schedule = _Schedule(runtime, slug, dataset_id, operations, metrics)
            scheduler = threading.Thread(target=schedule.run, args=[stop], name="schedule", daemon=True)
            if runtime.settings.lifecycle_enabled:
                scheduler.start()
            log.info("worker.started", queue=runtime.settings.lifecycle_queue_name)

            def handle(job: Job) -> Mapping[str, Any]:
                with metrics.running.track_inprogress(), metrics.seconds.labels("lifecycle").time():
                    return _handle(runtime, metrics, job, stop)

            if runtime.queue.deferred:
                runtime.queue.consume("lifecycle", handle, runtime.settings.lifecycle_concurrency, stop)
            else:
                stop.wait()
                if scheduler.is_alive():
                    scheduler.join(runtime.settings.shutdown_timeout_ms / 1000)
            log.info("worker.stopped", queue=runtime.settings.lifecycle_queue_name)
            leave_what_still_runs(metrics)
    return True


def _run_once(runtime: Runtime, datasets: Sequence[Dataset], operations: Sequence[str]) -> bool:
    well = True
    for dataset in datasets:
        report = maintain(Maintenance(runtime, dataset, "manual"), Request(operations, str(uuid4())))
        well = well and report.status != "failed"
        for one in report.operations:
            out.print(f"{dataset.slug}: {one['operation']} {one['status']} {one.get('message', '')}", highlight=False)
    if not datasets:
        out.print("there is no active dataset")
    return well


class _Schedule:
    """One maintenance a dataset and interval, and now and then a sweep of the storage.

    With a queue the maintenance is queued; the job's id names the interval, so several schedulers agree. Without
    one it is done here.
    """

    def __init__(
        self,
        runtime: Runtime,
        slug: str | None,
        dataset_id: str | None,
        operations: Sequence[str],
        metrics: Metrics,
    ) -> None:
        self._runtime = runtime
        self._slug = slug
        self._dataset_id = dataset_id
        self._operations = list(operations)
        self._queued: dict[str, int] = {}
        self._metrics = metrics
        self._sweeper = Sweeper(runtime)

    def run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                for dataset in _chosen(self._runtime, self._slug, self._dataset_id):
                    if stop.is_set():
                        return
                    if self._runtime.queue.deferred:
                        self._queue(dataset)
                    else:
                        self._maintain(dataset, stop)
                if self._slug is None and self._dataset_id is None:
                    self._sweeper.sweep_if_due()
            except TimestoreError as error:
                log.warning("schedule.postponed", reason=error.message)
            except Exception:
                log.exception("schedule.failed")
            stop.wait(_LOOK_EVERY_S)

    def _slot(self, dataset: Dataset) -> tuple[int, float]:
        """The interval that it is now, and when in it the dataset is due: the same for every scheduler."""
        settings = self._runtime.settings
        slot = int(time.time() // settings.lifecycle_interval_seconds)
        jitter_s = random.Random(f"{dataset.id}/{slot}").uniform(0, settings.lifecycle_jitter_seconds)
        return slot, slot * settings.lifecycle_interval_seconds + jitter_s

    def _maintain(self, dataset: Dataset, stop: threading.Event) -> None:
        slot, due_s = self._slot(dataset)
        if self._queued.get(dataset.id) == slot or time.time() < due_s:
            return
        self._queued[dataset.id] = slot
        with self._metrics.running.track_inprogress(), self._metrics.seconds.labels("lifecycle").time():
            maintenance = Maintenance(self._runtime, dataset, "schedule", stop=stop)
            report = maintain(maintenance, Request(self._operations, str(uuid4())))
        self._metrics.jobs.labels("lifecycle", report.status).inc()

    def _queue(self, dataset: Dataset) -> None:
        slot, due_s = self._slot(dataset)
        if self._queued.get(dataset.id) == slot:
            return
        data = {
            "datasetId": dataset.id,
            "datasetSlug": dataset.slug,
            "operations": _shared(self._operations),
            "trigger": "schedule",
            "requestId": str(uuid4()),
            "requestedAt": format_time(_now()),
            "scheduledFor": format_time(from_us(int(due_s * 1000) * 1000)),
        }
        delay_ms = max(0, int((due_s - time.time()) * 1000))
        job_id = f"lifecycle-{dataset.id}-i{self._runtime.settings.lifecycle_interval_seconds}-{slot}"
        self._runtime.queue.enqueue("lifecycle", job_id, dataset.slug, data, delay_ms=delay_ms)
        self._queued[dataset.id] = slot


def _handle(runtime: Runtime, metrics: Metrics, job: Job, stop: threading.Event) -> Mapping[str, Any]:
    outcome = "failed"
    try:
        report = _maintain_job(runtime, job, stop)
        outcome = report.status
        return {"datasetId": report.dataset.id, "operations": list(report.operations)}
    except Unavailable as error:
        outcome = "delayed"
        raise RetryLater(error.message, retry_delay_ms(job.starts)) from error
    except TimestoreError as error:
        raise GiveUp(error.message) from error
    finally:
        metrics.jobs.labels("lifecycle", outcome).inc()
        log.info("job", job=job.id, dataset=job.name, outcome=outcome)


def _maintain_job(runtime: Runtime, job: Job, stop: threading.Event) -> Report:
    data: Any = job.data if isinstance(job.data, Mapping) else {}
    dataset_id, slug = data.get("datasetId"), data.get("datasetSlug")
    dataset = None
    if isinstance(dataset_id, str):
        dataset = find_dataset_by_id(runtime.database, dataset_id)
    elif isinstance(slug, str):
        dataset = find_dataset(runtime.database, slug)
    if dataset is None:
        raise NotFound(f"dataset {dataset_id or slug} not found")
    asked = data.get("operations")
    operations = [one for one in asked if isinstance(one, str)] if isinstance(asked, list) else CONTRACT_OPERATIONS
    trigger = data.get("trigger")
    known: Any = trigger if trigger in ("schedule", "manual", "retry", "api") else "schedule"
    if known == "schedule" and set(operations) == set(CONTRACT_OPERATIONS):
        operations = [*operations, *(one for one in ALL_OPERATIONS if one not in operations)]
    request = Request(operations, str(data.get("requestId") or job.id), job.starts, _time_of(data.get("scheduledFor")))
    return maintain(Maintenance(runtime, dataset, known, stop=stop), request)


def _shared(operations: Sequence[str]) -> list[str]:
    """The operations as a job names them: all of ours are the three that Node's workers know, who may take it."""
    return list(CONTRACT_OPERATIONS if set(operations) == set(ALL_OPERATIONS) else operations)


def _time_of(text: object) -> datetime | None:
    """The time that a job names, where it is one."""
    try:
        return from_us(parse_time_us(text)) if isinstance(text, str) else None
    except ValueError:
        return None


def _chosen(runtime: Runtime, slug: str | None, dataset_id: str | None) -> list[Dataset]:
    if slug is None and dataset_id is None:
        return active_datasets(runtime)
    found = find_dataset(runtime.database, slug) if slug is not None else None
    if dataset_id is not None:
        found = find_dataset_by_id(runtime.database, dataset_id)
    if found is None:
        raise NotFound(f"dataset {dataset_id or slug} not found")
    return [found]


def _now() -> datetime:
    moment = datetime.now(UTC)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)
