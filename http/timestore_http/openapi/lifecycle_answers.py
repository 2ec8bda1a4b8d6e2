"""The JSON that maintenance and the routes of earlier versions answer with."""

from __future__ import annotations

from timestore_core.lifecycle.runs import CONTRACT_OPERATIONS, OPERATIONS
from timestore_http.openapi.answers import COUNT, OPEN, TEXT, TIME, VERSION, identifier
from timestore_http.openapi.parts import Json, array_of, closed, or_null, schema

_STATUS: Json = {"type": "string", "enum": ["completed", "skipped", "failed"]}
_SOME = "At most 1000 of them."


def schemas() -> Json:
    """Every answer's schema and what it is made of, by name."""
    return {**_runs(), **_reports(), **_status(), **_versions()}


def _runs() -> Json:
    return {
        "LifecycleRan": closed({"status": _STATUS, "report": schema("LifecycleReport")}),
        "LifecycleQueued": closed({"status": {"const": "queued"}, "jobId": identifier("ljr")}),
        "LifecycleReport": closed(
            {
                "jobId": identifier("ljr"),
                "datasetId": identifier("ds"),
                "datasetSlug": TEXT,
                "operations": array_of(schema("OperationReport")),
                "auditLogEntries": array_of(schema("AuditEvent")),
            }
        ),
    }


def _reports() -> Json:
    previews = array_of(schema("TouchedPartition"), description=_SOME)
    counted = {
        "count": {**COUNT, "description": "Groups of a compaction, exports, else partitions or files."},
        "partitions": COUNT,
        "bytes": COUNT,
        "rows": COUNT,
    }
    done = {
        "filePath": {**TEXT, "description": "Of an export."},
        "exportMs": COUNT,
        "manifests": {**COUNT, "description": "Versions whose history was expired."},
        "leftovers": {**COUNT, "description": "Files of crashes that were deleted."},
        "keptLeftovers": array_of(closed({"storageTarget": TEXT, "files": COUNT, "reason": TEXT})),
        "findings": array_of(schema("Finding"), description="Of a verification, at most 100."),
    }
    would_be_done = {
        "dryRun": {"const": True},
        "reason": TEXT,
        "groups": array_of(array_of(schema("TouchedPartition")), description="At most 100 of them."),
        "partitionsToRemove": previews,
        "partitionsToMove": previews,
        "filesToDelete": array_of(closed({"filePath": TEXT, "reason": TEXT}, {"id": identifier("part")})),
    }
    return {
        "OperationReport": closed(
            {"operation": {"type": "string", "enum": list(OPERATIONS)}, "status": _STATUS},
            {"message": TEXT, **counted, **done, **would_be_done},
            description="What one operation did, or as a dry run would do.",
        ),
        "TouchedPartition": closed(
            {
                "id": identifier("part"),
                "partitionKey": {"type": "object", "additionalProperties": TEXT},
                "rowCount": COUNT,
                "fileSizeBytes": COUNT,
            },
            {"reason": TEXT},
        ),
        "Finding": closed(
            {"kind": TEXT, "message": TEXT, "isLoss": {"type": "boolean"}},
            {"partitionId": identifier("part"), "filePath": TEXT},
            description="`isLoss`: data is missing or wrong; else storage or totals are untidy.",
        ),
    }


def _status() -> Json:
    total = closed({"count": COUNT, "bytes": COUNT, "partitions": COUNT})
    totals = closed(
        dict.fromkeys(CONTRACT_OPERATIONS, total),
        {name: total for name in OPERATIONS if name not in CONTRACT_OPERATIONS},
    )
    return {
        "LifecycleStatus": closed({"jobs": array_of(schema("JobRun")), "metrics": schema("LifecycleMetrics")}),
        "JobRun": closed(
            {
                "id": TEXT,
                "jobKind": {**TEXT, "examples": ["dataset-maintenance"]},
                "datasetId": or_null(TEXT),
                "operations": array_of(TEXT),
                "triggerSource": {**TEXT, "examples": ["schedule", "api"]},
                "status": {"type": "string", "enum": ["queued", "running", "completed", "failed", "skipped"]},
                "scheduledFor": or_null(TIME),
                "startedAt": TIME,
                "completedAt": or_null(TIME),
                "durationMs": or_null(COUNT),
                "attempts": COUNT,
                "error": or_null(TEXT),
                "metadata": {**OPEN, "description": "The request's id, and what each operation did."},
                "createdAt": TIME,
                "updatedAt": TIME,
            }
        ),
        "LifecycleMetrics": closed(
            {
                "jobsStarted": COUNT,
                "jobsCompleted": COUNT,
                "jobsFailed": COUNT,
                "jobsSkipped": COUNT,
                "lastRunAt": or_null(TIME),
                "lastErrorAt": or_null(TIME),
                "operationTotals": totals,
                "exportLatencyMs": array_of(COUNT, description="Of the latest exports, newest first."),
            },
            {"windowHours": {**COUNT, "description": "How far back the numbers reach."}},
        ),
    }


def _versions() -> Json:
    changed = closed({"partitions": COUNT, "rows": COUNT, "items": array_of(schema("Partition"))})
    of_dataset = {"datasetId": identifier("ds"), "datasetSlug": TEXT}
    deleted = {
        "id": identifier("part"),
        "partitionKey": {"type": "object", "additionalProperties": TEXT},
        "rows": COUNT,
        "of": {**COUNT, "description": "How many rows the partition has."},
        "reason": TEXT,
    }
    return {
        "Pin": closed({"name": TEXT, "version": VERSION, "createdBy": or_null(TEXT), "createdAt": TIME}),
        "Pins": closed({"datasetId": identifier("ds"), "pins": array_of(schema("Pin"))}),
        "OnePin": closed({"datasetId": identifier("ds"), "pin": schema("Pin")}),
        "Changes": closed(
            {"datasetId": identifier("ds"), "since": COUNT, "version": COUNT, "added": changed, "removed": changed},
            {"itemsTruncated": {"const": True}},
            description="From the version `since` to `version`, the current one. Of many partitions the first 1000.",
        ),
        "RowsDeleted": closed(
            {
                **of_dataset,
                "rows": COUNT,
                "bytes": COUNT,
                "partitions": array_of(closed(deleted)),
                "dryRun": {"type": "boolean"},
                "version": COUNT,
            },
            {"partitionsTruncated": {"const": True}},
        ),
        "VersionRestored": closed(
            {
                **of_dataset,
                "restoredVersion": VERSION,
                "added": schema("Difference"),
                "removed": schema("Difference"),
            },
            {"dryRun": {"const": True}, "manifest": schema("Manifest")},
            description="What came and went. The manifest's `partitions` are not listed here.",
        ),
        "Restored": {"anyOf": [schema("OneDataset"), schema("VersionRestored")]},
    }
