"""What maintenance did lately, and what it added up to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from timestore_core.catalog.database import Connection, Row
from timestore_core.lifecycle.runs import ALL_OPERATIONS
from timestore_core.runtime import Runtime
from timestore_core.times import format_time

# The metrics tell of this long: of the whole history they would cost a read of it.
WINDOW_HOURS = 24
_LATENCIES = 20

_JOBS = """
SELECT * FROM lifecycle_job_runs WHERE (%(dataset)s::text IS NULL OR dataset_id = %(dataset)s)
ORDER BY created_at DESC, id DESC LIMIT %(limit)s
"""

_COUNTS = """
SELECT count(*) AS started, count(*) FILTER (WHERE status = 'completed') AS completed,
    count(*) FILTER (WHERE status = 'failed') AS failed, count(*) FILTER (WHERE status = 'skipped') AS skipped,
    max(updated_at) AS last_run, max(updated_at) FILTER (WHERE status = 'failed') AS last_error
FROM lifecycle_job_runs WHERE status <> 'queued' AND created_at > now() - make_interval(hours => %(hours)s)
    AND (%(dataset)s::text IS NULL OR dataset_id = %(dataset)s)
"""

_TOTALS = """
SELECT o ->> 'operation' AS operation, sum(coalesce((o ->> 'count')::bigint, 1))::bigint AS count,
    sum(coalesce((o ->> 'bytes')::bigint, 0))::bigint AS bytes,
    sum(coalesce((o ->> 'partitions')::bigint, 0))::bigint AS partitions,
    (array_agg((o ->> 'exportMs')::integer ORDER BY created_at DESC) FILTER (WHERE o ? 'exportMs'))[1:%(latencies)s]
        AS latencies
FROM lifecycle_job_runs,
    jsonb_array_elements(CASE WHEN jsonb_typeof(metadata -> 'operations') = 'array' THEN metadata -> 'operations'
        ELSE '[]'::jsonb END) o
WHERE created_at > now() - make_interval(hours => %(hours)s) AND o ->> 'status' = 'completed'
    AND NOT metadata ? 'dryRun' AND (%(dataset)s::text IS NULL OR dataset_id = %(dataset)s)
GROUP BY 1
"""

_JOB = "SELECT * FROM lifecycle_job_runs WHERE id = %(id)s OR metadata ->> 'requestId' = %(id)s ORDER BY id LIMIT 1"


def lifecycle_status(runtime: Runtime, *, limit: int, dataset_id: str | None) -> dict[str, Any]:
    """The latest job runs, newest first, and the metrics of the last day, of one dataset or of all."""
    values = {"limit": limit, "dataset": dataset_id, "hours": WINDOW_HOURS, "latencies": _LATENCIES}

    def work(connection: Connection) -> tuple[list[Row], Row | None, list[Row]]:
        return (
            connection.execute(_JOBS, values).fetchall(),
            connection.execute(_COUNTS, values).fetchone(),
            connection.execute(_TOTALS, values).fetchall(),
        )

    jobs, counts, totals = runtime.database.read(work)
    assert counts is not None
    return {"jobs": [job_run_json(row) for row in jobs], "metrics": _metrics(counts, totals)}


def find_job_run(runtime: Runtime, job_id: str) -> Row | None:
    """The run of this id, or of the request of this id."""
    if "\0" in job_id:
        return None
    return runtime.database.read(lambda connection: connection.execute(_JOB, {"id": job_id}).fetchone())


def job_run_json(row: Mapping[str, Any]) -> dict[str, Any]:
    """A job run as clients see it."""
    return {
        "id": row["id"],
        "jobKind": row["job_kind"],
        "datasetId": row["dataset_id"],
        "operations": row["operations"],
        "triggerSource": row["trigger_source"],
        "status": row["status"],
        "scheduledFor": row["scheduled_for"] and format_time(row["scheduled_for"]),
        "startedAt": format_time(row["started_at"]),
        "completedAt": row["completed_at"] and format_time(row["completed_at"]),
        "durationMs": row["duration_ms"],
        "attempts": row["attempts"],
        "error": row["error"],
        "metadata": row["metadata"],
        "createdAt": format_time(row["created_at"]),
        "updatedAt": format_time(row["updated_at"]),
    }


def _metrics(counts: Row, totals: list[Row]) -> dict[str, Any]:
    by_name = {row["operation"]: row for row in totals}
    nothing = {"count": 0, "bytes": 0, "partitions": 0}
    exports = by_name.get("parquetExport")
    return {
        "windowHours": WINDOW_HOURS,
        "jobsStarted": counts["started"],
        "jobsCompleted": counts["completed"],
        "jobsFailed": counts["failed"],
        "jobsSkipped": counts["skipped"],
        "lastRunAt": counts["last_run"] and format_time(counts["last_run"]),
        "lastErrorAt": counts["last_error"] and format_time(counts["last_error"]),
        "operationTotals": {name: {key: by_name.get(name, nothing)[key] for key in nothing} for name in ALL_OPERATIONS},
        "exportLatencyMs": (exports and exports["latencies"]) or [],
    }
