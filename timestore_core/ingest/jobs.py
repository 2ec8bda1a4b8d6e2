"""Doing what the queue brings: batches of ours, which stand in the journal, and of producers that know none."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import structlog

from timestore_core.catalog.attempt import Claim
from timestore_core.catalog.datasets import find_dataset
from timestore_core.errors import InsufficientStorage, InvalidRequest, NotFound, TimestoreError, Unavailable
from timestore_core.ingest import journal
from timestore_core.ingest.acceptance import entry_id_of, is_ours
from timestore_core.ingest.envelope import check_slug
from timestore_core.ingest.pipeline import Batch, Ingested, claim_of, decode_batch, ingest_batch, work_of
from timestore_core.model import Actor
from timestore_core.queues import GiveUp, Job, RetryLater
from timestore_core.runtime import Runtime

log = structlog.get_logger(__name__)

# Runs that may end in a crash before a batch is put aside as failed.
MAX_CRASHES = 10
_FIRST_DELAY_MS = 500
_MAX_DELAY_MS = 60_000


@dataclass(frozen=True, slots=True)
class Task:
    """A job's batch, decoded, with the claim that makes it count once."""

    job: Job
    slug: str
    batch: Batch
    claim: Claim
    actor: Actor


def perform(runtime: Runtime, job: Job) -> Mapping[str, Any]:
    """Publish the job's batch, or find that it is published: the result that producers are promised.

    Raises GiveUp for what can never succeed and RetryLater for what is not the batch's fault.
    """
    with ended(runtime, job):
        task = prepare(runtime, job)
        if isinstance(task, dict):
            return task
        dataset = find_dataset(runtime.database, task.slug)
        work = work_of(task.slug, task.batch, task.actor, task.claim)
        return result_of(ingest_batch(runtime, work, dataset))


def prepare(runtime: Runtime, job: Job) -> Task | dict[str, Any]:
    """The job's batch, or its result where an earlier delivery had published it."""
    entry = journal.take(runtime.database, entry_id_of(job.id))
    if entry is None:
        done = _published_before(runtime, job) if is_ours(job.id) else None
        return done if done is not None else _task_of_data(runtime, job)
    runtime.plugins.step("job.taken")
    if entry.attempts > MAX_CRASHES:
        raise GiveUp(f"the worker ended {MAX_CRASHES} times in the middle of this batch; it is put aside")
    batch = decode_batch(runtime, entry.dataset_slug, entry.body, entry.idempotency_key)
    claim = claim_of(batch, default_key=f"job:{entry.id}")
    claim = replace(claim, job_id=entry.id, journal_id=entry.id)
    return Task(job, entry.dataset_slug, batch, claim, entry.actor)


def result_of(ingested: Ingested) -> dict[str, Any]:
    """What a finished job returns."""
    published = ingested.published
    return {
        "manifestId": published.manifest.id,
        "datasetId": published.dataset.id,
        "storageTargetId": ingested.target.id,
    }


@contextmanager
def ended(runtime: Runtime, job: Job) -> Iterator[None]:
    """Tell the queue and the journal how a run ended, unless it crashed: then the next one finds the count."""
    try:
        yield
    except (Unavailable, InsufficientStorage) as error:
        _best_effort(runtime, job, None)
        raise RetryLater(error.message, retry_delay_ms(job.starts)) from error
    except GiveUp as error:
        _best_effort(runtime, job, str(error))
        raise
    except TimestoreError as error:
        _best_effort(runtime, job, error.message)
        raise GiveUp(error.message) from error
    except Exception as error:
        log.exception("job.crashed", job=job.id)
        _best_effort(runtime, job, None)
        raise RetryLater(f"{type(error).__name__}; the worker's log says more", retry_delay_ms(job.starts)) from error


def retry_delay_ms(starts: int) -> int:
    """Exponential with full jitter, so that many delayed jobs do not come back together."""
    ceiling: int = min(_MAX_DELAY_MS, _FIRST_DELAY_MS * 2 ** min(starts, 16))
    return ceiling // 2 + random.randrange(ceiling // 2)


def _best_effort(runtime: Runtime, job: Job, failure: str | None) -> None:
    """Note the end of a run in the journal; where PostgreSQL is away the count stays, which only costs an attempt."""
    entry_id = entry_id_of(job.id)
    try:
        if failure is None:
            journal.give_back(runtime.database, entry_id)
        else:
            journal.fail(runtime.database, entry_id, failure)
    except TimestoreError:
        log.warning("job.end_not_noted", job=job.id)


def _published_before(runtime: Runtime, job: Job) -> dict[str, Any] | None:
    entry_id = entry_id_of(job.id)
    found = journal.published_by(runtime.database, entry_id)
    if found is None:
        state = journal.state(runtime.database, entry_id)
        if state is not None and state.failed_reason is not None:
            raise GiveUp(state.failed_reason)
        return None
    dataset = find_dataset(runtime.database, found["slug"])
    if dataset is None:
        raise NotFound(f"Dataset {found['slug']} not found")
    return {
        "manifestId": found["manifest_id"],
        "datasetId": dataset.id,
        "storageTargetId": found["storage_target_id"],
    }


def _task_of_data(runtime: Runtime, job: Job) -> Task:
    """A job whose producer keeps no journal: everything is in its data.

    Without a key of its own the job's id and time are one: its id alone is a counter that may begin again.
    """
    data = job.data
    if not isinstance(data, Mapping) or not isinstance(data.get("datasetSlug"), str):
        raise InvalidRequest.at("datasetSlug", "is required")
    slug = data["datasetSlug"]
    check_slug(slug, runtime.settings)
    try:
        body = msgspec.json.encode(data)
    except (ValueError, RecursionError, OverflowError) as error:
        raise InvalidRequest.at("data", f"cannot be read: {error}") from None
    batch = decode_batch(runtime, slug, body, None)
    claim = claim_of(batch, default_key=f"job:{job.id}:{job.timestamp_ms}")
    given = data.get("actor")
    actor_id = given.get("id") if isinstance(given, Mapping) else None
    actor = Actor(actor_id if isinstance(actor_id, str) else None, frozenset())
    return Task(job, slug, batch, replace(claim, job_id=entry_id_of(job.id)), actor)
