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
from timestore_core.lifecycle.runs import CONTRACT_OPERATIONS, Report, active_datasets, maintain
from timestore_core.model import Dataset
from timestore_core.queues import GiveUp, Job, RetryLater
from timestore_core.runtime import Runtime
from timestore_core.times import format_time, from_us
from timestore_workers.console import out
from timestore_workers.worker import Metrics, serve_metrics, stop_on_signal, worker_runtime

log = structlog.get_logger(__name__)

_LOOK_EVERY_S = 5.0


def run_lifecycle_worker(
    *, once: bool, slug: str | None, dataset_id: str | None, operations: Sequence[str], metrics_port: int | None
) -> bool:
    """Maintain now (`once`), or schedule and work until a signal comes. False when an operation failed."""
    with worker_runtime() as runtime:
        if once:
            return _run_once(runtime, _chosen(runtime, slug, dataset_id), operations)
        with stop_on_signal() as stop:
            metrics = Metrics()
            if metrics_port is not None:
                serve_metrics(metrics, runtime.settings.host, metrics_port, lambda: not stop.is_set())
            schedule = _Schedule(runtime, slug, dataset_id, operations)
            scheduler = threading.Thread(target=schedule.run, args=[stop], name="schedule", daemon=True)
            if runtime.settings.lifecycle_enabled:
                scheduler.start()
            log.info("worker.started", queue=runtime.settings.lifecycle_queue_name)

            def handle(job: Job) -> Mapping[str, Any]:
                return _handle(runtime, metrics, job)

            runtime.queue.consume("lifecycle", handle, runtime.settings.lifecycle_concurrency, stop)
            log.info("worker.stopped", queue=runtime.settings.lifecycle_queue_name)
    return True


def _run_once(runtime: Runtime, datasets: Sequence[Dataset], operations: Sequence[str]) -> bool:
    well = True
    for dataset in datasets:
        report = maintain(runtime, dataset, operations, "manual", str(uuid4()))
        well = well and report.status != "failed"
        for one in report.operations:
            out.print(f"{dataset.slug}: {one['operation']} {one['status']} {one.get('message', '')}", highlight=False)
    if not datasets:
        out.print("there is no active dataset")
    return well


class _Schedule:
    """Queues one maintenance a dataset and interval. The job's id names the interval, so several schedulers agree."""

    def __init__(self, runtime: Runtime, slug: str | None, dataset_id: str | None, operations: Sequence[str]) -> None:
        self._runtime = runtime
        self._slug = slug
        self._dataset_id = dataset_id
        self._operations = list(operations)
        self._queued: dict[str, int] = {}

    def run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                for dataset in _chosen(self._runtime, self._slug, self._dataset_id):
                    self._queue(dataset)
            except TimestoreError as error:
                log.warning("schedule.postponed", reason=error.message)
            except Exception:
                log.exception("schedule.failed")
            stop.wait(_LOOK_EVERY_S)

    def _queue(self, dataset: Dataset) -> None:
        settings = self._runtime.settings
        interval_s = settings.lifecycle_interval_seconds
        slot = int(time.time() // interval_s)
        if self._queued.get(dataset.id) == slot:
            return
        # The jitter hangs on dataset and interval, so that every scheduler computes the same time.
        jitter_s = random.Random(f"{dataset.id}/{slot}").uniform(0, settings.lifecycle_jitter_seconds)
        due_s = slot * interval_s + jitter_s
        data = {
            "datasetId": dataset.id,
            "datasetSlug": dataset.slug,
            "operations": self._operations,
            "trigger": "schedule",
            "requestId": str(uuid4()),
            "requestedAt": format_time(_now()),
            "scheduledFor": format_time(from_us(int(due_s * 1000) * 1000)),
        }
        delay_ms = max(0, int((due_s - time.time()) * 1000))
        job_id = f"lifecycle-{dataset.id}-i{interval_s}-{slot}"
        self._runtime.queue.enqueue("lifecycle", job_id, dataset.slug, data, delay_ms=delay_ms)
        self._queued[dataset.id] = slot


def _handle(runtime: Runtime, metrics: Metrics, job: Job) -> Mapping[str, Any]:
    outcome = "failed"
    try:
        report = _maintain_job(runtime, job)
        outcome = report.status
        return {"datasetId": report.dataset_id, "operations": list(report.operations)}
    except Unavailable as error:
        outcome = "delayed"
        raise RetryLater(error.message, retry_delay_ms(job.starts)) from error
    except TimestoreError as error:
        raise GiveUp(error.message) from error
    finally:
        metrics.jobs.labels("lifecycle", outcome).inc()
        log.info("job", job=job.id, dataset=job.name, outcome=outcome)


def _maintain_job(runtime: Runtime, job: Job) -> Report:
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
    return maintain(runtime, dataset, operations, known, str(data.get("requestId") or job.id), job.starts)


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
