"""The JSON that the routes answer with, as JSON Schemas: closed wherever the contract is closed."""

from __future__ import annotations

from timestore_core.model import FIELD_TYPES
from timestore_http.openapi.parts import Json, array_of, closed, or_null, schema

TEXT: Json = {"type": "string"}
TIME: Json = {
    "type": "string",
    "format": "date-time",
    "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}(\d{3})?Z$",
    "examples": ["2024-01-01T00:00:00.000Z"],
}
COUNT: Json = {"type": "integer", "minimum": 0}
VERSION: Json = {"type": "integer", "minimum": 1}
OPEN: Json = {"type": "object", "additionalProperties": True}
CURSOR: Json = {**or_null(TEXT), "description": "Give it back as `cursor` to get what follows; null at the end."}
FIELD_TYPE: Json = {"type": "string", "enum": list(FIELD_TYPES)}


def schemas() -> Json:
    """Every answer's schema and what it is made of, by name."""
    return {**_health(), **_ingest(), **_query(), **_records(), **_pages(), **_wrapped()}


def identifier(prefix: str) -> Json:
    """An id of our own making."""
    return {"type": "string", "pattern": f"^{prefix}-", "examples": [f"{prefix}-6446c113-4e73-48c3-8a6e-298c16325473"]}


def _health() -> Json:
    dependency = {
        "type": "object",
        "properties": {
            "status": {"type": "string", "enum": ["up", "down", "degraded"]},
            "message": TEXT,
            "warnings": array_of(TEXT),
        },
        "required": ["status"],
        "additionalProperties": True,
    }
    states = {"type": "string", "enum": ["ready", "unavailable", "draining"]}
    return {
        "Health": closed({"status": {"const": "ok"}}),
        "Dependency": dependency,
        "Readiness": closed(
            {"status": states}, {"details": {"type": "object", "additionalProperties": schema("Dependency")}}
        ),
    }


def _ingest() -> Json:
    states = ["waiting", "active", "delayed", "completed", "failed", "unknown"]
    return {
        "Ingested": closed(
            {
                "mode": {"const": "inline"},
                "manifest": schema("Manifest"),
                "dataset": schema("Dataset"),
                "storageTarget": schema("StorageTarget"),
            },
            description="The manifest's `partitions` are those that this batch added, its totals the whole snapshot's.",
        ),
        "Accepted": closed({"mode": {"const": "queued"}, "jobId": TEXT}),
        "IngestJob": closed(
            {"jobId": TEXT, "datasetSlug": TEXT, "status": {"type": "string", "enum": states}},
            {
                "manifestId": or_null(TEXT),
                "version": VERSION,
                "reason": or_null(TEXT),
                "willRetry": {"type": "boolean"},
            },
        ),
    }


def _query() -> Json:
    row = {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean", "array", "null"]}}
    return {
        "QueryAnswer": closed(
            {
                "rows": array_of(row),
                "columns": array_of(TEXT),
                "mode": {"type": "string", "enum": ["raw", "downsampled", "aggregated", "latest"]},
            },
            {"nextCursor": or_null(TEXT), "explain": OPEN},
            description="By time, then by group. Integers keep all 64 bits. `nextCursor` where `cursor` was asked "
            "with, `explain` where that was.",
        ),
        "SqlAnswer": closed(
            {
                "rows": array_of({"type": "object", "additionalProperties": True}),
                "columns": array_of(TEXT),
                "mode": {"const": "sql"},
            },
            description="In the order of the statement.",
        ),
        "DatasetSchema": closed(
            {
                "datasetId": identifier("ds"),
                "slug": TEXT,
                "version": COUNT,
                "fields": array_of(closed({"name": TEXT, "type": FIELD_TYPE})),
                "rows": COUNT,
                "timeRange": or_null(closed({"start": TIME, "end": TIME})),
            },
            description="Version 0 while nothing was published. `timeRange` is that of the column `timestamp`.",
        ),
    }


def _records() -> Json:
    return {
        "Dataset": closed(
            {
                "id": identifier("ds"),
                "slug": {**TEXT, "examples": ["observatory"]},
                "name": {**TEXT, "examples": ["Observatory"]},
                "description": or_null(TEXT),
                "status": {"type": "string", "enum": ["active", "inactive"]},
                "writeFormat": {**TEXT, "examples": ["duckdb"]},
                "defaultStorageTargetId": or_null(TEXT),
                "metadata": OPEN,
                "createdAt": TIME,
                "updatedAt": TIME,
            }
        ),
        "StorageTarget": closed(
            {
                "id": TEXT,
                "name": TEXT,
                "kind": TEXT,
                "description": or_null(TEXT),
                "config": {**OPEN, "description": "Of a secret it shows only that one is set."},
                "createdAt": TIME,
                "updatedAt": TIME,
            }
        ),
        "Partition": closed(_partition()),
        "Manifest": closed(
            {**_manifest(), "partitions": array_of(schema("Partition"))}, {"partitionsTruncated": {"const": True}}
        ),
        "ListedManifest": closed({**_manifest(), "added": schema("Difference"), "removed": schema("Difference")}),
        "Difference": closed({"partitions": COUNT, "rows": COUNT}),
        "ListedPartition": closed({**_partition(), "columns": array_of(schema("Column"))}),
        "Column": closed(
            {"name": TEXT, "type": FIELD_TYPE},
            {
                "min": schema("Bound"),
                "max": schema("Bound"),
                "nulls": COUNT,
                "exact": {"const": False},
                "values": array_of(TEXT),
                "decimals": COUNT,
            },
            description="Times are microseconds since 1970-01-01 UTC. `exact` is false where a long text was cut. "
            "`values` are all those of a text column that has few.",
        ),
        "Bound": {"type": ["string", "number", "boolean", "null"]},
        "SchemaVersion": closed(
            {
                "id": identifier("dsv"),
                "version": VERSION,
                "description": or_null(TEXT),
                "fields": array_of(closed({"name": TEXT, "type": FIELD_TYPE})),
                "checksum": or_null(TEXT),
                "createdAt": TIME,
            }
        ),
        "AuditEvent": closed(
            {
                "id": TEXT,
                "datasetId": or_null(TEXT),
                "manifestId": or_null(TEXT),
                "eventType": {**TEXT, "examples": ["ingest.published"]},
                "payload": OPEN,
                "createdAt": TIME,
            }
        ),
    }


def _manifest() -> Json:
    return {
        "id": identifier("dm"),
        "datasetId": identifier("ds"),
        "version": VERSION,
        "status": {"type": "string", "enum": ["draft", "published", "superseded"]},
        "schemaVersionId": or_null(TEXT),
        "parentManifestId": or_null(TEXT),
        "summary": OPEN,
        "statistics": OPEN,
        "metadata": OPEN,
        "partitionCount": COUNT,
        "totalRows": COUNT,
        "totalBytes": COUNT,
        "createdBy": or_null(TEXT),
        "createdAt": TIME,
        "updatedAt": TIME,
        "publishedAt": or_null(TIME),
    }


def _partition() -> Json:
    return {
        "id": identifier("part"),
        "datasetId": identifier("ds"),
        "manifestId": identifier("dm"),
        "partitionKey": {"type": "object", "additionalProperties": TEXT},
        "storageTargetId": TEXT,
        "fileFormat": TEXT,
        "filePath": TEXT,
        "fileSizeBytes": COUNT,
        "rowCount": COUNT,
        "startTime": TIME,
        "endTime": TIME,
        "checksum": or_null(TEXT),
        "metadata": OPEN,
        "createdAt": TIME,
    }


def _pages() -> Json:
    of_dataset = {"datasetId": identifier("ds")}
    return {
        "DatasetPage": closed({"datasets": array_of(schema("Dataset")), "nextCursor": CURSOR}),
        "ManifestPage": closed(
            {**of_dataset, "manifests": array_of(schema("ListedManifest")), "nextCursor": CURSOR},
        ),
        "PartitionPage": closed(
            {
                **of_dataset,
                "version": VERSION,
                "partitions": array_of(schema("ListedPartition")),
                "nextCursor": CURSOR,
            }
        ),
        "SchemaPage": closed({**of_dataset, "schemas": array_of(schema("SchemaVersion")), "nextCursor": CURSOR}),
        "AuditPage": closed({"events": array_of(schema("AuditEvent")), "nextCursor": CURSOR}),
    }


def _wrapped() -> Json:
    return {
        "OneDataset": closed({"dataset": schema("Dataset")}),
        "DatasetDeleted": closed({"status": {"const": "deleted"}, "datasetId": identifier("ds"), "datasetSlug": TEXT}),
        "DeletionPreview": closed(
            {
                "dryRun": {"const": True},
                "datasetId": identifier("ds"),
                "datasetSlug": TEXT,
                "status": {"type": "string", "enum": ["active", "inactive"]},
                "partitions": COUNT,
                "rows": COUNT,
                "bytes": COUNT,
            }
        ),
        "DatasetDeletion": {"anyOf": [schema("DatasetDeleted"), schema("DeletionPreview")]},
        "OneManifest": closed({"datasetId": identifier("ds"), "manifest": schema("Manifest")}),
        "Retention": closed(
            {
                "datasetId": identifier("ds"),
                "datasetSlug": TEXT,
                "policy": or_null(schema("RetentionPolicy")),
                "updatedAt": or_null(TIME),
                "effectivePolicy": schema("RetentionPolicy"),
            },
            {"defaultPolicy": schema("RetentionPolicy")},
        ),
        "StorageTargets": closed({"storageTargets": array_of(schema("StorageTarget"))}),
        "OneStorageTarget": closed({"storageTarget": schema("StorageTarget")}),
        "DatasetTarget": closed({"dataset": schema("Dataset"), "storageTarget": schema("StorageTarget")}),
    }
