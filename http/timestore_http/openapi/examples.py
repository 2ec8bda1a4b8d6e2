"""Request bodies that work as they stand, sent in this order by a test (tests/contract/test_openapi.py)."""

from __future__ import annotations

from typing import Any

SLUG = "observatory"
TARGET_ID = "st-6446c113-4e73-48c3-8a6e-298c16325473"
RUN_ID = "ljr-65dc3241-f2eb-4215-9693-80a89a94add8"
PIN_NAME = "year-end"
JOB_ID = "ingest-0d1a4ec7c34b7b2d8a4f6f1c5d9e0b3a"

NEW_DATASET: dict[str, Any] = {
    "slug": SLUG,
    "name": "Observatory",
    "description": "Weather at two sites",
    "metadata": {"owner": "sky-team"},
}

BATCH: dict[str, Any] = {
    "datasetName": "Observatory",
    "tableName": "observations",
    "schema": {
        "fields": [
            {"name": "timestamp", "type": "timestamp"},
            {"name": "site", "type": "string"},
            {"name": "temperature_c", "type": "double"},
        ]
    },
    "partition": {
        "key": {"window": "2024-01-01"},
        "timeRange": {"start": "2024-01-01T00:00:00Z", "end": "2024-01-01T01:00:00Z"},
    },
    "rows": [
        {"timestamp": "2024-01-01T00:00:00Z", "site": "north", "temperature_c": 21.5},
        {"timestamp": "2024-01-01T00:10:00Z", "site": "south", "temperature_c": 23},
    ],
    "idempotencyKey": "observatory-2024-01-01T00",
}

_RANGE = {"start": "2024-01-01T00:00:00Z", "end": "2024-01-02T00:00:00Z"}

QUERIES: dict[str, Any] = {
    "raw rows": {
        "timeRange": _RANGE,
        "columns": ["timestamp", "temperature_c"],
        "filters": {"partitionKey": {"window": ["2024-01-01"]}},
        "limit": 100,
    },
    "as of the first version": {"timeRange": _RANGE, "asOf": 1},
    "hourly": {
        "timeRange": _RANGE,
        "downsample": {
            "intervalUnit": "hour",
            "intervalSize": 1,
            "aggregations": [
                {"fn": "avg", "column": "temperature_c"},
                {"fn": "percentile", "column": "temperature_c", "percentile": 0.95, "alias": "p95"},
                {"fn": "count"},
            ],
        },
    },
    "days in Berlin by site, gaps filled": {
        "timeRange": _RANGE,
        "filters": {"columns": {"temperature_c": {"type": "number", "gt": -40}}},
        "groupBy": ["site"],
        "downsample": {
            "intervalUnit": "day",
            "timezone": "Europe/Berlin",
            "fill": "linear",
            "aggregations": [{"fn": "avg", "column": "temperature_c"}],
        },
    },
    "newest row of each site": {"timeRange": _RANGE, "latest": True, "groupBy": ["site"]},
    "page by page": {"timeRange": _RANGE, "order": "desc", "limit": 1000, "cursor": None},
}

SELECTS: dict[str, Any] = {
    "the warmest": {"sql": "SELECT site, max(temperature_c) AS warmest FROM dataset GROUP BY site ORDER BY site"},
    "of one day, by its slug": {"sql": "SELECT count(*) AS rows FROM observatory", "timeRange": _RANGE, "asOf": 1},
}

DATASET_PATCH: dict[str, Any] = {
    "description": "Weather at two sites, every ten minutes",
    "metadata": {"iam": {"readScopes": [], "writeScopes": None}},
}

RETENTION: dict[str, Any] = {"mode": "time", "rules": {"maxAgeHours": 48}, "deleteGraceMinutes": 10}

TARGET_CHOICE: dict[str, Any] = {"storageTargetId": TARGET_ID}

NEW_TARGET: dict[str, Any] = {"name": "archive", "kind": "local", "config": {"root": "/srv/timestore-archive"}}

LIFECYCLE_RUN: dict[str, Any] = {"datasetSlug": SLUG, "operations": ["compaction", "parquetExport", "collection"]}

LIFECYCLE_PREVIEW: dict[str, Any] = {"datasetSlug": SLUG, "operations": ["retention"], "dryRun": True}

RESCHEDULE: dict[str, Any] = {"jobId": RUN_ID}

PIN: dict[str, Any] = {"version": 1}

RESTORE_PREVIEW: dict[str, Any] = {"version": 1, "dryRun": True}

RESTORE: dict[str, Any] = {"version": 1}

DELETION_PREVIEW: dict[str, Any] = {
    "timeRange": {"start": "2024-01-01T00:05:00Z", "end": "2024-01-01T00:30:00Z"},
    "filters": {"partitionKey": {"window": ["2024-01-01"]}},
    "dryRun": True,
}

DELETION: dict[str, Any] = {**DELETION_PREVIEW, "dryRun": False}

TARGET_PATCH: dict[str, Any] = {"description": "Slow and large"}
