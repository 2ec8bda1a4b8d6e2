"""One maintenance of one dataset: locked across all processes, recorded, and reported operation by operation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from psycopg.types.json import Jsonb

from timestore_core.catalog.database import Connection, translated
from timestore_core.catalog.records import dataset_of
from timestore_core.model import Dataset, new_id
from timestore_core.runtime import Runtime

Status = Literal["completed", "skipped", "failed"]
Trigger = Literal["schedule", "manual", "retry", "api"]

# The operations that clients and Node services name; those without an implementation are skipped, saying so.
CONTRACT_OPERATIONS = ("compaction", "retention", "parquetExport")

Operation = Callable[[Runtime, Dataset], Mapping[str, Any]]
OPERATIONS: Mapping[str, Operation] = {}

_RECORD = """
INSERT INTO lifecycle_job_runs (id, job_kind, dataset_id, operations, trigger_source, status, attempts, started_at,
    completed_at, duration_ms, metadata)
VALUES (%(id)s, 'dataset-maintenance', %(dataset)s, %(operations)s, %(trigger)s, %(status)s, %(attempts)s,
    %(started)s, now(), (extract(epoch FROM now() - %(started)s) * 1000)::integer, %(metadata)s)
"""

_ACTIVE = "SELECT * FROM datasets WHERE status = 'active' ORDER BY slug"


@dataclass(frozen=True, slots=True)
class Report:
    """What a run did, one entry an operation: `{"operation", "status", "message"?}`."""

    job_run_id: str
    dataset_id: str
    operations: tuple[Mapping[str, Any], ...]

    @property
    def status(self) -> Status:
        statuses = {one["status"] for one in self.operations}
        return "failed" if "failed" in statuses else "completed" if "completed" in statuses else "skipped"


def maintain(
    runtime: Runtime, dataset: Dataset, operations: Sequence[str], trigger: Trigger, request_id: str, attempts: int = 1
) -> Report:
    """Run the operations on the dataset, or skip them all while another process maintains it."""
    run_id = new_id("ljr")
    with translated(), runtime.database.connection() as connection:
        started = connection.execute("SELECT now() AS at").fetchone()
        assert started is not None
        lock = [f"timestore-maintenance-{dataset.id}"]
        held = connection.execute("SELECT pg_try_advisory_lock(hashtextextended(%s, 0)) AS held", lock).fetchone()
        assert held is not None
        try:
            done = tuple(_one(runtime, dataset, name, held["held"]) for name in operations)
        finally:
            if held["held"]:
                connection.execute("SELECT pg_advisory_unlock(hashtextextended(%s, 0))", lock)
        report = Report(run_id, dataset.id, done)
        _record(connection, report, dataset, operations, trigger, request_id, attempts, started["at"])
    return report


def active_datasets(runtime: Runtime) -> list[Dataset]:
    """Every dataset that is maintained."""
    return runtime.database.read(lambda connection: [dataset_of(row) for row in connection.execute(_ACTIVE)])


def _one(runtime: Runtime, dataset: Dataset, name: str, locked: bool) -> Mapping[str, Any]:
    if not locked:
        return {"operation": name, "status": "skipped", "message": "another maintenance of this dataset is running"}
    operation = OPERATIONS.get(name)
    if operation is None:
        return {"operation": name, "status": "skipped", "message": f"this version has no operation {name}"}
    return {"operation": name, **operation(runtime, dataset)}


def _record(
    connection: Connection,
    report: Report,
    dataset: Dataset,
    operations: Sequence[str],
    trigger: Trigger,
    request_id: str,
    attempts: int,
    started: Any,
) -> None:
    metadata = {"requestId": request_id, "datasetSlug": dataset.slug, "operations": list(report.operations)}
    connection.execute(
        _RECORD,
        {
            "id": report.job_run_id,
            "dataset": dataset.id,
            "operations": list(operations),
            "trigger": trigger,
            "status": report.status,
            "attempts": attempts,
            "started": started,
            "metadata": Jsonb(metadata),
        },
    )
