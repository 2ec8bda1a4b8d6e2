"""Queues again what was accepted and has no job any more: Redis was away, flushed, or gave the job up."""

from __future__ import annotations

import structlog

from timestore_core.catalog.database import translated
from timestore_core.errors import Unavailable
from timestore_core.ingest import journal
from timestore_core.ingest.acceptance import job_data, next_job_id
from timestore_core.runtime import Runtime

log = structlog.get_logger(__name__)

# One sweep at a time for each catalog: several may share a database, each in a schema of its own. The lock is the
# transaction's, which PostgreSQL ends where a process is stopped in the middle of it: a lock of the session would keep
# everybody from sweeping for as long as that process stays stopped.
_LOCK = "SELECT pg_try_advisory_xact_lock(hashtextextended('timestore-sweep-' || current_schema(), 0)) AS held"
_BATCH = 200


def sweep(runtime: Runtime) -> int:
    """Look at every batch that has stood too long, and queue those that no live job carries; how many.

    One process at a time: while another sweeps this does nothing. Raises Unavailable when PostgreSQL or the queue
    is away, and the next sweep goes on.
    """
    with translated(), runtime.database.connection() as connection, connection.transaction():
        locked = connection.execute(_LOCK).fetchone()
        return _sweep(runtime) if locked is not None and locked["held"] else 0


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
        try:
            runtime.queue.enqueue("ingest", fresh, slug, data)
        except Unavailable:
            # To the end of the line: a batch that the queue never takes must not keep the others from it.
            journal.dispatched(runtime.database, entry_id, last)
            raise
        journal.dispatched(runtime.database, entry_id, fresh)
        log.info("ingest.queued_again", job=fresh, dataset=slug)
        requeued += 1
    return requeued


def _is_live(runtime: Runtime, job_id: str) -> bool:
    return runtime.queue.state("ingest", job_id).state in ("waiting", "active", "delayed")
