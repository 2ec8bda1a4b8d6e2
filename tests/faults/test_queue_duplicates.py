"""One batch in two deliveries that both have written their file when the first one publishes: it is there once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.queue_stand import QueueStand, make_hindrance, queue_stand
from tests.service import Service, wait_until

# Two workers with a job each, or one that takes both and would publish them together.
WORKERS: dict[str, tuple[int, dict[str, str]]] = {
    "two workers": (2, {"TIMESTORE_INGEST_CONCURRENCY": "1"}),
    "one that coalesces": (1, {"TIMESTORE_INGEST_COALESCE": "on", "TIMESTORE_INGEST_CONCURRENCY": "2"}),
}


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("kind", ["two producers' jobs with one key", "a sweep's job beside the first one"])
def test_two_deliveries_at_once_publish_once_and_have_one_result(
    make_service: Callable[..., Service], postgres_url: str, tmp_path: Path, kind: str, workers: str
) -> None:
    meeting = make_hindrance(tmp_path / "meeting", "ingest.file_stored", "meet 2")
    with queue_stand(make_service, postgres_url, tmp_path) as stand:
        stand.service.start()
        jobs = two_jobs(stand, kind)
        count, settings = WORKERS[workers]
        for worker in [stand.worker(**meeting.settings, **settings) for _ in range(count)]:
            worker.start(wait=False)

        wait_until(lambda: stand.job_states()["completed"] == 2, f"both jobs; the logs are in {stand.home}", 60)

        results = [json.loads(stand.queued(job_id)["returnvalue"]) for job_id in jobs]
        assert results[0] == results[1]
        (partition,) = stand.partitions()
        assert results[0]["manifestId"] == partition["manifest_id"]
        assert [stand.status("twice", job_id)["manifestId"] for job_id in jobs] == [partition["manifest_id"]] * 2
        assert stand.files() == [stand.root / partition["file_path"]]
        assert stand.visible("twice") == [1, 2]
        assert stand.count("ingest_journal") == 0


def two_jobs(stand: QueueStand, kind: str) -> list[str]:
    if kind == "two producers' jobs with one key":
        jobs = ["theirs-a", "theirs-b"]
        for job_id in jobs:
            stand.add("twice", [1, 2], job_id, "key")
        return jobs
    first = stand.accept("twice", [1, 2])
    stand.add("twice", [1, 2], f"{first}.0123456789ab", None)
    return [first, f"{first}.0123456789ab"]
