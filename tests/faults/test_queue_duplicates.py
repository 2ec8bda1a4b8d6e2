"""One batch in two deliveries that both have written their file when the first one publishes: it is there once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.faults.queue_stand import QueueStand, make_hindrance, queue_stand
from tests.service import Service, wait_until

# Two workers with a job each, or one that takes both and would publish them together.
WORKERS: dict[str, tuple[int, dict[str, str]]] = {
    "two workers": (2, {"TIMESTORE_INGEST_CONCURRENCY": "1"}),
    "one that coalesces": (1, {"TIMESTORE_INGEST_COALESCE": "on", "TIMESTORE_INGEST_CONCURRENCY": "2"}),
}


@pytest.fixture(scope="module")
def stand(
    make_service: Callable[..., Service], postgres_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[QueueStand]:
    with queue_stand(make_service, postgres_url, tmp_path_factory.mktemp("duplicates")) as made:
        made.service.start()
        yield made


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("kind", ["two producers' jobs with one key", "a sweep's job beside the first one"])
def test_two_deliveries_at_once_publish_once_and_have_one_result(
    stand: QueueStand, tmp_path: Path, kind: str, workers: str
) -> None:
    meeting = make_hindrance(tmp_path / "meeting", "ingest.file_stored", "meet 2")
    slug = f"twice-{uuid4().hex[:8]}"
    jobs = two_jobs(stand, slug, kind)
    count, settings = WORKERS[workers]
    deliverers = [stand.worker(**meeting.settings, **settings) for _ in range(count)]
    for worker in deliverers:
        worker.start(wait=False)

    wait_until(
        lambda: all("returnvalue" in stand.queued(job_id) for job_id in jobs), f"both; the logs are in {stand.home}"
    )

    for worker in deliverers:
        worker.kill()
    results = [json.loads(stand.queued(job_id)["returnvalue"]) for job_id in jobs]
    assert results[0] == results[1]
    (partition,) = [one for one in stand.partitions() if one["slug"] == slug]
    assert results[0]["manifestId"] == partition["manifest_id"]
    assert [stand.status(slug, job_id)["manifestId"] for job_id in jobs] == [partition["manifest_id"]] * 2
    assert [path for path in stand.files() if slug in path.parts] == [stand.root / partition["file_path"]]
    assert stand.visible(slug) == [1, 2]
    assert stand.count("ingest_journal") == 0


def two_jobs(stand: QueueStand, slug: str, kind: str) -> list[str]:
    if kind == "two producers' jobs with one key":
        jobs = [f"theirs-{slug}-a", f"theirs-{slug}-b"]
        for job_id in jobs:
            stand.add(slug, [1, 2], job_id, "key")
        return jobs
    first = stand.accept(slug, [1, 2])
    again = f"{first}.0123456789ab"
    stand.add(slug, [1, 2], again, None)
    return [first, again]
