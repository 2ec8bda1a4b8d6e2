"""Accepting a batch for later: written down, then queued. A queue that is away only makes it later."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import msgspec
import structlog

from timestore_core.catalog.publish import find_replay, require_active
from timestore_core.errors import TooManyRequests, Unavailable
from timestore_core.ingest import journal
from timestore_core.ingest.pipeline import Batch, claim_of
from timestore_core.model import Actor, Dataset
from timestore_core.queues import JobState
from timestore_core.runtime import Runtime
from timestore_core.times import format_time

log = structlog.get_logger(__name__)

_LOOK_EVERY_S = 0.5
RETRY_AFTER_S = 5
# What first_job_id and next_job_id make.
_OURS = re.compile(r"ingest-[0-9a-f-]{32,36}(\.[0-9a-f]{12})?")


@dataclass(frozen=True, slots=True)
class Accepted:
    """The id to ask after; `replayed` when the batch had been published before."""

    job_id: str
    replayed: bool


class Acceptor:
    """Takes batches on for later. One for each process; it looks at what waits at most twice a second."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._lock = threading.Lock()
        self._looked_at = 0.0
        self._refusal: str | None = None

    def accept(self, slug: str, batch: Batch, body: bytes, dataset: Dataset | None, actor: Actor) -> Accepted:
        """Take the batch on. When this returns it will be published, whatever happens to the queue.

        With the journal off that promise is the queue's alone. Raises TooManyRequests above the limits, Conflict
        when the key was used for other rows, NotFound for an unknown storage target, Unavailable.
        """
        runtime, key = self._runtime, batch.envelope.idempotency_key
        job_id = first_job_id(slug, key)
        runtime.targets.for_ingest(batch.envelope.storage_target_id, dataset)
        if dataset is not None:
            if find_replay(runtime.database, dataset, claim_of(batch)) is not None:
                return Accepted(job_id, replayed=True)
            require_active(dataset)
        self._refuse_pressure()
        data = job_data(slug, key, body, actor)
        if not runtime.settings.ingest_journal:
            runtime.queue.enqueue("ingest", job_id, slug, data)
            return Accepted(job_id, replayed=False)
        journal.record(runtime.database, job_id, slug, key, batch.content_hash, body, actor)
        runtime.plugins.step("accept.journalled")
        try:
            runtime.queue.enqueue("ingest", job_id, slug, data)
            journal.dispatched(runtime.database, job_id, job_id)
        except Unavailable:
            # It is accepted all the same: the sweep queues what has stood too long without a job.
            log.warning("ingest.not_queued", job=job_id, dataset=slug)
        return Accepted(job_id, replayed=False)

    def _refuse_pressure(self) -> None:
        """Raise TooManyRequests above TIMESTORE_INGEST_MAX_QUEUE_DEPTH or …_MAX_JOURNAL_BYTES."""
        with self._lock:
            if time.monotonic() - self._looked_at > _LOOK_EVERY_S:
                self._refusal = _refusal(self._runtime)
                self._looked_at = time.monotonic()
            refusal = self._refusal
        if refusal is not None:
            raise TooManyRequests(refusal, retry_after_s=RETRY_AFTER_S)


def first_job_id(slug: str, key: str | None) -> str:
    """The id of a batch's first job: the same for the same dataset and key, which makes the queue drop repeats.

    It holds no colon and is no integer, since Node's BullMQ refuses both.
    """
    if key is None:
        return f"ingest-{uuid4()}"
    digest = hashlib.blake2b(f"{len(slug)}/{slug}/{key}".encode(), digest_size=16).hexdigest()
    return f"ingest-{digest}"


def next_job_id(entry_id: str) -> str:
    """A fresh id for another dispatch of the same batch: the queue ignores an id that it still remembers."""
    return f"{entry_id}.{uuid4().hex[:12]}"


def is_ours(job_id: str) -> bool:
    """Whether the id names one batch for ever; another producer's id may come again with other rows."""
    return _OURS.fullmatch(job_id) is not None


def entry_id_of(job_id: str) -> str:
    """The journal's id behind any dispatch's job id; another producer's id stays whole."""
    return job_id.partition(".")[0] if is_ours(job_id) else job_id


def job_data(slug: str, key: str | None, body: bytes, actor: Actor) -> Mapping[str, Any]:
    """What goes over the queue: the batch's body with the dataset's slug, the time, and who sent it."""
    data: dict[str, Any] = msgspec.json.decode(body)
    data |= {"datasetSlug": slug, "receivedAt": format_time(_to_milliseconds(datetime.now(UTC)))}
    if key is not None:
        data["idempotencyKey"] = key
    if actor.id is not None:
        data["actor"] = {"id": actor.id, "scopes": sorted(actor.scopes)}
    return data


def _to_milliseconds(moment: datetime) -> datetime:
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def _refusal(runtime: Runtime) -> str | None:
    settings = runtime.settings
    depth = 0
    if settings.ingest_journal:
        waiting = journal.totals(runtime.database)
        depth = waiting.pending
        if waiting.pending_bytes >= settings.ingest_max_journal_bytes:
            return (
                f"{waiting.pending_bytes} bytes wait to be published; TIMESTORE_INGEST_MAX_JOURNAL_BYTES is "
                f"{settings.ingest_max_journal_bytes}; try again later"
            )
    try:
        counts = runtime.queue.counts("ingest")
        depth = max(depth, sum(counts.get(state, 0) for state in ("waiting", "paused", "prioritized", "delayed")))
    except Unavailable:
        if not settings.ingest_journal:
            raise
    if depth >= settings.ingest_max_queue_depth:
        return (
            f"{depth} batches wait to be published; TIMESTORE_INGEST_MAX_QUEUE_DEPTH is "
            f"{settings.ingest_max_queue_depth}; try again later"
        )
    return None


def job_status(runtime: Runtime, slug: str, job_id: str) -> dict[str, Any]:
    """Where a job's batch stands: what is published or put aside is known here, the rest the queue tells.

    A job of another dataset is unknown under this slug.
    """
    entry_id = entry_id_of(job_id)
    published = journal.published_by(runtime.database, entry_id)
    if published is not None and published["slug"] == slug:
        return {"status": "completed", "manifestId": published["manifest_id"], "version": published["version"]}
    standing = journal.state(runtime.database, entry_id)
    if standing is not None and standing.dataset_slug == slug and standing.failed_reason is not None:
        return {"status": "failed", "reason": standing.failed_reason, "willRetry": False}
    mine = standing is not None and standing.dataset_slug == slug
    try:
        found = runtime.queue.state("ingest", job_id)
    except Unavailable:
        if not mine:
            raise
        found = JobState("unknown")
    if mine:
        return _journalled_status(found)
    if standing is not None or (published is not None and published["slug"] != slug):
        return {"status": "unknown"}
    return _queued_status(found)


def _journalled_status(found: JobState) -> dict[str, Any]:
    """A batch in the journal is never unknown or lost: what the queue forgot or failed will be queued again."""
    if found.state == "active":
        return {"status": "active"}
    if found.state in ("delayed", "failed"):
        return {"status": found.state, "reason": found.reason, "willRetry": True}
    return {"status": "waiting"}


def _queued_status(found: JobState) -> dict[str, Any]:
    status: dict[str, Any] = {"status": found.state}
    if found.state == "completed" and isinstance(found.result, Mapping):
        status |= {"manifestId": found.result.get("manifestId")}
    if found.state in ("failed", "delayed") and found.reason:
        status |= {"reason": found.reason, "willRetry": found.will_retry}
    return status
