"""Maintenance that somebody asked for and a worker does: written down, then queued."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from psycopg.types.json import Jsonb

from timestore_core.catalog.database import translated
from timestore_core.catalog.datasets import find_dataset_by_id
from timestore_core.errors import InvalidRequest, NotFound
from timestore_core.lifecycle.operation import Trigger
from timestore_core.lifecycle.runs import JOB_KIND, run_id_of
from timestore_core.lifecycle.status import find_job_run
from timestore_core.model import Dataset
from timestore_core.runtime import Runtime
from timestore_core.times import format_time

_INSERT = """
INSERT INTO lifecycle_job_runs (id, job_kind, dataset_id, operations, trigger_source, status, metadata)
VALUES (%(id)s, %(kind)s, %(dataset)s, %(operations)s, %(trigger)s, 'queued', %(metadata)s)
"""


def queue_maintenance(runtime: Runtime, dataset: Dataset, operations: Sequence[str], trigger: Trigger) -> str:
    """Queue the operations; the job's id. Raises InvalidRequest without a queue, Unavailable while it is away."""
    if not runtime.queue.deferred:
        raise InvalidRequest("queue mode unavailable when REDIS_URL=inline")
    request_id = str(uuid4())
    job_id = run_id_of(request_id)
    values = {
        "id": job_id,
        "kind": JOB_KIND,
        "dataset": dataset.id,
        "operations": list(operations),
        "trigger": trigger,
        "metadata": Jsonb({"requestId": request_id, "datasetSlug": dataset.slug}),
    }
    with translated(), runtime.database.connection() as connection:
        connection.execute(_INSERT, values)
    data: dict[str, Any] = {
        "datasetId": dataset.id,
        "datasetSlug": dataset.slug,
        "operations": list(operations),
        "trigger": trigger,
        "requestId": request_id,
        "requestedAt": format_time(_now()),
    }
    runtime.queue.enqueue("lifecycle", job_id, dataset.slug, data)
    return job_id


def reschedule(runtime: Runtime, job_id: str) -> str:
    """Queue what an earlier run was asked to do once more; the new job's id.

    Raises InvalidRequest where there is no queue, NotFound for an unknown run or a dataset that is gone.
    """
    if not runtime.queue.deferred:
        raise InvalidRequest("reschedule unavailable when REDIS_URL=inline")
    row = find_job_run(runtime, job_id)
    dataset = None if row is None or not row["dataset_id"] else find_dataset_by_id(runtime.database, row["dataset_id"])
    if row is None or dataset is None:
        raise NotFound(f"job {job_id} not found")
    return queue_maintenance(runtime, dataset, row["operations"], "retry")


def _now() -> datetime:
    moment = datetime.now(UTC)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)
