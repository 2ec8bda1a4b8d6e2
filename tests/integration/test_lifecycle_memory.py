"""Compaction of more rows than the engine that rewrites may hold in memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.service import ALL_TIME, Service

ROOT = Path(__file__).parents[2]
MEMORY_BYTES = 96 * 1024 * 1024
COMPACTION = ["lifecycle", "run", "large", "--operations", "compaction", "--json"]
SUMS = {"fn": "sum", "column": "temperature_c"}, {"fn": "count"}, {"fn": "median", "column": "humidity"}


def test_millions_of_rows_are_sorted_within_a_memory_that_does_not_hold_them(
    make_service: Callable[..., Service],
) -> None:
    service = make_service(TIMESTORE_LIFECYCLE_MEMORY_BYTES=str(MEMORY_BYTES)).start()
    service.client.post("/admin/datasets", json={"slug": "large"})
    # Made by DuckDB and published as an ingest does it: 2.7 million rows, unsorted some 160 MB.
    command(service, "-m", "benchmarks.large_dataset", "large", "48")
    before = answers(service)

    done = command(service, "-c", "from timestore_workers.cli import main; main()", *COMPACTION)

    (operation,) = json.loads(done)["operations"]
    assert (operation["status"], operation["count"], operation["partitions"]) == ("completed", 1, 3)
    assert answers(service) == before
    manifest = service.client.get("/admin/datasets/large/manifest").json()["manifest"]
    assert (manifest["partitionCount"], manifest["totalRows"]) == (1, 2_700_000)
    assert service.stop() == 0


def command(service: Service, *arguments: str) -> str:
    """The command's output, run as the service is configured."""
    environment: dict[str, Any] = {**os.environ, **service.environment}
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def answers(service: Service) -> list[bytes]:
    """What the dataset answers, to the last byte."""
    questions: list[dict[str, Any]] = [
        {"downsample": {"intervalUnit": "hour", "aggregations": list(SUMS)}},
        {"limit": 1000},
    ]
    return [service.query("large", {"timeRange": ALL_TIME, **question}).content for question in questions]
