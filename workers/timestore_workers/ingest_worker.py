"""`timestore worker ingest`: publishes the batches that the queue brings, and queues again what it forgot."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import structlog

from timestore_core.errors import TimestoreError
from timestore_core.ingest import journal
from timestore_core.ingest.coalesce import Coalescer
from timestore_core.ingest.isolation import Isolated
from timestore_core.ingest.jobs import perform
from timestore_core.ingest.sweep import sweep
from timestore_core.lifecycle.gathering import Gatherer
from timestore_core.queues import GiveUp, Handler, Job, RetryLater
from timestore_core.runtime import Runtime
from timestore_workers.worker import Metrics, leave_what_still_runs, serve_metrics, stop_on_signal, worker_runtime

log = structlog.get_logger(__name__)

_SWEEP_EVERY_S = 2.0


def run_ingest_worker(metrics_port: int | None) -> None:
    """Work until a signal comes; then finish what runs."""
    with worker_runtime() as runtime, stop_on_signal() as stop:
        metrics = Metrics()
        if metrics_port is not None:
            serve_metrics(metrics, runtime.settings.host, metrics_port, lambda: not stop.is_set())
        sweeper = threading.Thread(target=_keep_sweeping, args=[runtime, metrics, stop], name="sweep", daemon=True)
        sweeper.start()
        gatherer = Gatherer(runtime)
        gatherer.start()
        handler, concurrency = _handler(runtime, metrics)
        settings = runtime.settings
        log.info("worker.started", queue=settings.ingest_queue_name, concurrency=settings.ingest_concurrency)
        runtime.queue.consume("ingest", handler, concurrency, stop)
        leave_what_still_runs(metrics)
        sweeper.join(5)
        gatherer.stop()
        log.info("worker.stopped", queue=settings.ingest_queue_name)


def _handler(runtime: Runtime, metrics: Metrics) -> tuple[Handler, int]:
    settings = runtime.settings
    if settings.ingest_coalesce:
        handler, concurrency = Coalescer(runtime).perform, settings.ingest_coalesce_max_batches
    else:
        handler, concurrency = partial(perform, runtime), settings.ingest_concurrency
    return _observed(Isolated(runtime, handler).perform, metrics), concurrency


def _observed(handler: Handler, metrics: Metrics) -> Handler:
    """The handler with a line in the log and a count for each job."""

    def handle(job: Job) -> Mapping[str, Any]:
        started = time.perf_counter()
        outcome = "failed"
        try:
            with metrics.running.track_inprogress():
                result = handler(job)
            outcome = "completed"
            return result
        except RetryLater:
            outcome = "delayed"
            raise
        except GiveUp as reason:
            log.warning("job.failed", job=job.id, dataset=job.name, reason=str(reason))
            raise
        finally:
            elapsed_s = time.perf_counter() - started
            metrics.jobs.labels("ingest", outcome).inc()
            metrics.seconds.labels("ingest").observe(elapsed_s)
            elapsed_ms = round(elapsed_s * 1000, 1)
            log.info("job", job=job.id, dataset=job.name, outcome=outcome, start=job.starts, ms=elapsed_ms)

    return handle


def _keep_sweeping(runtime: Runtime, metrics: Metrics, stop: threading.Event) -> None:
    while not stop.wait(_SWEEP_EVERY_S):
        try:
            metrics.requeued.inc(sweep(runtime))
            found = journal.totals(runtime.database)
            metrics.journal.labels("pending").set(found.pending)
            metrics.journal.labels("failed").set(found.failed)
            metrics.journal_bytes.set(found.pending_bytes)
        except TimestoreError as error:
            log.warning("sweep.postponed", reason=error.message)
        except Exception:
            log.exception("sweep.failed")
