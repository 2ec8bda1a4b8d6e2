"""The sample that a first start loads: Seattle's daily weather 2012–2015 (NOAA, public domain)."""

from __future__ import annotations

import csv
import time
from pathlib import Path
from typing import Any

import httpx

from timestore_core.errors import ConfigurationError

SAMPLE_DATASET = "seattle-weather"
_FIELDS = {
    "timestamp": "timestamp",
    "precipitation": "double",
    "temp_max": "double",
    "temp_min": "double",
    "wind": "double",
    "weather": "string",
}
_PUBLISH_TIMEOUT_S = 60
_EVERYTHING = {"start": "2012-01-01T00:00:00Z", "end": "2015-12-31T23:59:59.999Z"}


def load_sample(client: httpx.Client) -> int:
    """Ingest one batch a year through the public API; the rows that were new (0 on a second start)."""
    years: dict[str, list[dict[str, Any]]] = {}
    with _sample_file().open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            day = row.pop("date").replace("/", "-")
            years.setdefault(day[:4], []).append({"timestamp": f"{day}T00:00:00Z", **row})
    loaded = 0
    for year, rows in years.items():
        response = client.post(f"/datasets/{SAMPLE_DATASET}/ingest", json=_batch(year, rows))
        response.raise_for_status()
        if response.status_code == httpx.codes.ACCEPTED:
            _wait_until_published(client, response.json()["jobId"])
        if response.headers.get("idempotent-replayed") != "true":
            loaded += len(rows)
    return loaded


def monthly_means(client: httpx.Client) -> dict[str, Any]:
    """A monthly downsample over the whole sample, as the query route answers it."""
    body = {
        "timeRange": _EVERYTHING,
        "downsample": {
            "intervalUnit": "month",
            "aggregations": [
                {"fn": "avg", "column": "temp_max"},
                {"fn": "min", "column": "temp_min"},
                {"fn": "sum", "column": "precipitation", "alias": "rain"},
                {"fn": "max", "column": "wind"},
                {"fn": "count", "alias": "days"},
            ],
        },
    }
    response = client.post(f"/datasets/{SAMPLE_DATASET}/query", json=body)
    response.raise_for_status()
    answer: dict[str, Any] = response.json()
    return answer


def _wait_until_published(client: httpx.Client, job_id: str) -> None:
    """Follow a queued batch to its end, as a client would. Raises ConfigurationError when it does not come."""
    deadline = time.monotonic() + _PUBLISH_TIMEOUT_S
    while time.monotonic() < deadline:
        status = client.get(f"/datasets/{SAMPLE_DATASET}/ingest/jobs/{job_id}").json()
        if status["status"] == "completed":
            return
        if status["status"] == "failed":
            raise ConfigurationError(f"the sample could not be published: {status.get('reason')}")
        time.sleep(0.1)
    raise ConfigurationError(f"the ingestion worker did not publish the sample within {_PUBLISH_TIMEOUT_S} s")


def _batch(year: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "datasetName": "Seattle's daily weather",
        "tableName": "weather",
        "schema": {"fields": [{"name": name, "type": type_} for name, type_ in _FIELDS.items()]},
        "partition": {
            "key": {"year": year},
            "timeRange": {"start": rows[0]["timestamp"], "end": rows[-1]["timestamp"]},
        },
        "rows": rows,
        "idempotencyKey": f"sample-{year}",
    }


def _sample_file() -> Path:
    package = Path(__file__).resolve().parent
    for candidate in (
        package / "data" / "seattle-weather.csv",
        package.parents[1] / "examples" / "data" / "seattle-weather.csv",
    ):
        if candidate.is_file():
            return candidate
    raise ConfigurationError("the sample series is missing from this installation; install timestore again")
