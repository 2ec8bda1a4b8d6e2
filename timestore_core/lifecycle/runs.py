"""One maintenance of one dataset: locked across all processes, recorded, and reported operation by operation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import structlog
from psycopg.types.json import Jsonb

from timestore_core.catalog.audit import audit_json
from timestore_core.catalog.database import Connection, Row, translated
from timestore_core.catalog.records import dataset_of
from timestore_core.errors import TimestoreError, Unavailable
from timestore_core.lifecycle.collection import collect
from timestore_core.lifecycle.compaction import compact
from timestore_core.lifecycle.export import export
from timestore_core.lifecycle.operation import Maintenance, Outcome, Status
from timestore_core.lifecycle.retention import retain
from timestore_core.lifecycle.tiering import tier
from timestore_core.lifecycle.verification import verify_operation
from timestore_core.model import Dataset, new_id
from timestore_core.runtime import Runtime

log = structlog.get_logger(__name__)

Operation = Callable[[Maintenance], Outcome]

# In the order in which they serve each other: what is removed is not gathered, what is gathered is exported.
OPERATIONS: Mapping[str, Operation] = {
    "retention": retain,
    "compaction": compact,
    "tiering": tier,
    "parquetExport": export,
    "collection": collect,
    "verification": verify_operation,
}
# Those that clients and Node services know, in the order in which they name them.
CONTRACT_OPERATIONS = ("compaction", "retention", "parquetExport")
ALL_OPERATIONS = tuple(OPERATIONS)

JOB_KIND = "dataset-maintenance"

# A run that was queued under this id, or that was left in the middle, becomes this one.
_BEGIN = """
INSERT INTO lifecycle_job_runs (id, job_kind, dataset_id, operations, trigger_source, status, attempts, scheduled_for,
    started_at, metadata)
VALUES (%(id)s, %(kind)s, %(dataset)s, %(operations)s, %(trigger)s, 'running', %(attempts)s, %(scheduled)s,
    clock_timestamp(), %(metadata)s)
ON CONFLICT (id) DO UPDATE SET status = 'running', attempts = excluded.attempts, started_at = clock_timestamp(),
    updated_at = clock_timestamp(), error = NULL
WHERE lifecycle_job_runs.status IN ('queued', 'running')
RETURNING id
"""

_END = """
UPDATE lifecycle_job_runs SET status = %(status)s, error = %(error)s, metadata = %(metadata)s,
    completed_at = clock_timestamp(), updated_at = clock_timestamp(),
    duration_ms = (extract(epoch FROM clock_timestamp() - started_at) * 1000)::integer
WHERE id = %(id)s
"""

# Who holds the dataset's lock knows that no other run of it lives.
_INTERRUPTED = """
UPDATE lifecycle_job_runs SET status = 'failed', error = 'its process ended before it did',
    completed_at = clock_timestamp(), updated_at = clock_timestamp()
WHERE dataset_id = %(dataset)s AND job_kind = %(kind)s AND status = 'running' AND id <> %(id)s
"""

_ACTIVE = "SELECT * FROM datasets WHERE status = 'active' AND deleted_at IS NULL ORDER BY slug"


@dataclass(frozen=True, slots=True)
class Request:
    """Which operations somebody wants, and under which id they asked."""

    operations: Sequence[str]
    request_id: str
    attempts: int = 1
    scheduled_for: Any = None


@dataclass(frozen=True, slots=True)
class Report:
    """What a run did, operation by operation, with its lines of the audit log."""

    job_run_id: str
    dataset: Dataset
    status: Status
    operations: tuple[Mapping[str, Any], ...]
    audit: tuple[Row, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "jobId": self.job_run_id,
            "datasetId": self.dataset.id,
            "datasetSlug": self.dataset.slug,
            "operations": list(self.operations),
            "auditLogEntries": [audit_json(row) for row in self.audit],
        }


def maintain(maintenance: Maintenance, request: Request, operations: Mapping[str, Operation] = OPERATIONS) -> Report:
    """Run the request's operations on the dataset, or skip them all while another process maintains it.

    An operation that fails is reported and the others go on; Unavailable is raised, since all would fail.
    """
    runtime, dataset = maintenance.runtime, maintenance.dataset
    lock = [f"timestore-maintenance-{dataset.id}"]
    with translated(), runtime.database.connection() as connection:
        held = connection.execute("SELECT pg_try_advisory_lock(hashtextextended(%s, 0)) AS held", lock).fetchone()
        assert held is not None
        run_id = _begin(connection, maintenance, request)
        try:
            if not held["held"]:
                report = _skipped(run_id, maintenance, request)
            else:
                values = {"dataset": dataset.id, "kind": JOB_KIND, "id": run_id}
                connection.execute(_INTERRUPTED, values)
                report = _run(run_id, maintenance, request, operations)
        except TimestoreError as error:
            _end(connection, run_id, maintenance, request, "failed", (), error.message)
            raise
        finally:
            if held["held"]:
                connection.execute("SELECT pg_advisory_unlock(hashtextextended(%s, 0))", lock)
        failed = [one for one in report.operations if one["status"] == "failed"]
        problem = "; ".join(f"{one['operation']}: {one.get('message')}" for one in failed) or None
        _end(connection, run_id, maintenance, request, report.status, report.operations, problem)
    return report


def active_datasets(runtime: Runtime) -> list[Dataset]:
    """Every dataset that is maintained."""
    return runtime.database.read(lambda connection: [dataset_of(row) for row in connection.execute(_ACTIVE)])


def run_id_of(request_id: str) -> str:
    """The job run's id for a request's: the same one where it is a UUID, so that asking twice finds it."""
    try:
        return f"ljr-{UUID(request_id)}"
    except ValueError:
        return new_id("ljr")


def _run(run_id: str, maintenance: Maintenance, request: Request, operations: Mapping[str, Operation]) -> Report:
    done, audit = [], list[Row]()
    for name in request.operations:
        outcome = _one(maintenance, name, operations.get(name))
        done.append(outcome.to_json(name))
        audit += outcome.audit
        log.info("lifecycle.operation", dataset=maintenance.dataset.slug, operation=name, status=outcome.status)
    status: Status = "failed" if any(one["status"] == "failed" for one in done) else "completed"
    return Report(run_id, maintenance.dataset, status, tuple(done), tuple(audit))


def _one(maintenance: Maintenance, name: str, operation: Operation | None) -> Outcome:
    if operation is None:
        return Outcome("skipped", f"this version has no operation {name}")
    if maintenance.stop.is_set():
        return Outcome("skipped", "the process is about to end")
    try:
        return operation(maintenance)
    except Unavailable:
        raise
    except TimestoreError as error:
        log.warning("lifecycle.failed", dataset=maintenance.dataset.slug, operation=name, reason=error.message)
        return Outcome("failed", error.message)


def _skipped(run_id: str, maintenance: Maintenance, request: Request) -> Report:
    why = Outcome("skipped", "another maintenance of this dataset is running")
    return Report(run_id, maintenance.dataset, "skipped", tuple(why.to_json(name) for name in request.operations), ())


def _begin(connection: Connection, maintenance: Maintenance, request: Request) -> str:
    values = {
        "id": run_id_of(request.request_id),
        "kind": JOB_KIND,
        "dataset": maintenance.dataset.id,
        "operations": list(request.operations),
        "trigger": maintenance.trigger,
        "attempts": request.attempts,
        "scheduled": request.scheduled_for,
        "metadata": Jsonb({"requestId": request.request_id, "datasetSlug": maintenance.dataset.slug}),
    }
    begun = connection.execute(_BEGIN, values).fetchone()
    if begun is None:
        # A repeated job comes under the same request's id each time; each of its runs is one of its own.
        begun = connection.execute(_BEGIN, {**values, "id": new_id("ljr")}).fetchone()
        assert begun is not None
    return str(begun["id"])


def _end(
    connection: Connection,
    run_id: str,
    maintenance: Maintenance,
    request: Request,
    status: Status,
    operations: Sequence[Mapping[str, Any]],
    error: str | None,
) -> None:
    metadata = {
        "requestId": request.request_id,
        "datasetSlug": maintenance.dataset.slug,
        "operations": list(operations),
        **({"dryRun": True} if maintenance.dry_run else {}),
    }
    values = {"id": run_id, "status": status, "error": error, "metadata": Jsonb(metadata)}
    connection.execute(_END, values)
