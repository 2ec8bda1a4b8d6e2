"""Queues again what was accepted and has no job any more: Redis was away, flushed, or gave the job up."""

from __future__ import annotations

import structlog

from timestore_core.catalog.database import translated
from timestore_core.ingest import journal
from timestore_core.ingest.acceptance import job_data, next_job_id
from timestore_core.runtime import Runtime

log = structlog.get_logger(__name__)

# One sweep at a time for each catalog: several may share a database, each in a schema of its own.
_LOCK = "SELECT pg_try_advisory_lock(hashtextextended('timestore-sweep-' || current_schema(), 0)) AS held"
_UNLOCK = "SELECT pg_advisory_unlock(hashtextextended('timestore-sweep-' || current_schema(), 0))"
_BATCH = 200


def sweep(runtime: Runtime) -> int:
    """Look at every batch that has stood too long, and queue those that no live job carries; how many.

    One process at a time: while another sweeps this does nothing. Raises Unavailable when PostgreSQL or the queue
    is away, and the next sweep goes on.
    """
    with translated(), runtime.database.connection() as connection:
        locked = connection.execute(_LOCK).fetchone()
        if locked is None or not locked["held"]:
            return 0
        try:
            return _sweep(runtime)
        finally:
            connection.execute(_UNLOCK)


def _sweep(runtime: Runtime) -> int:
    requeued = 0
    age_s = runtime.settings.ingest_sweep_after_ms / 1000
    for entry_id, job_id, slug in journal.due(runtime.database, age_s, _BATCH):
        # The first dispatch may be in the queue without having been noted: its process ended in between.
        last = job_id or entry_id
        if _is_live(runtime, last):
            journal.dispatched(runtime.database, entry_id, last)
            continue
        entry = journal.read(runtime.database, entry_id)
        if entry is None:
            continue
        fresh = next_job_id(entry_id)
        data = job_data(entry.dataset_slug, entry.idempotency_key, entry.body, entry.actor)
        runtime.queue.enqueue("ingest", fresh, slug, data)
        journal.dispatched(runtime.database, entry_id, fresh)
        log.info("ingest.queued_again", job=fresh, dataset=slug)
        requeued += 1
    return requeued


def _is_live(runtime: Runtime, job_id: str) -> bool:
    return runtime.queue.state("ingest", job_id).state in ("waiting", "active", "delayed")
