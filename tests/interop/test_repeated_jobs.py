"""Maintenance that Node repeats is done by our lifecycle worker each time, until Node removes it; and ours by Node."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from tests.interop.stand import Stand, job_data
from tests.service import batch, wait_until

pytestmark = pytest.mark.extended

WAIT_S = 60


@pytest.fixture(scope="session")
def maintained(shared: Stand) -> Stand:
    """The shared stand with a lifecycle worker that schedules nothing itself."""
    shared.worker("lifecycle", TIMESTORE_LIFECYCLE_ENABLED="false").start(wait=False)
    return shared


@pytest.mark.parametrize(
    "repeat",
    [{"every": 1000}, {"pattern": "* * * * * *"}, {"pattern": "*/1 * * * * *", "tz": "Europe/Berlin"}],
    ids=["every", "cron", "zoned"],
)
def test_a_job_scheduler_of_node_is_obeyed_until_it_is_removed(maintained: Stand, repeat: dict[str, Any]) -> None:
    stand, producer, queue = maintained, maintained.producer, maintained.lifecycle_queue
    dataset_id, slug = a_dataset(stand)
    scheduler = f"maintain-{slug}"
    template = {"name": slug, "data": maintenance(dataset_id, slug), "opts": {"removeOnComplete": True}}

    producer.ask("schedule", queue=queue, id=scheduler, repeat=repeat, template=template)
    wait_until(lambda: len(runs(stand, dataset_id)) >= 3, "three maintenances", WAIT_S)
    assert producer.ask("schedulers", queue=queue) == [scheduler]
    assert producer.ask("unschedule", queue=queue, id=scheduler) is True

    assert_nothing_is_left(stand)
    for run in runs(stand, dataset_id):
        assert run["operations"] == ["compaction", "retention"]
        assert run["trigger_source"] == "schedule"
        assert run["status"] in ("completed", "skipped")
        assert run["metadata"]["requestId"] == f"request-{slug}"
    results = [one for one in producer.ask("heard", queue=queue) if one["event"] == "completed"]
    assert {one["returnvalue"]["datasetId"] for one in results if scheduler in one["jobId"]} == {dataset_id}


def test_a_repeatable_job_of_5_x_is_done_each_time_until_it_is_removed(maintained: Stand) -> None:
    if maintained.bullmq.major > 5:
        pytest.skip("6.x has job schedulers only")
    stand, producer, queue = maintained, maintained.producer, maintained.lifecycle_queue
    dataset_id, slug = a_dataset(stand)

    options = {"repeat": {"every": 1000}, "removeOnComplete": True}
    producer.ask("add", queue=queue, name=slug, data=maintenance(dataset_id, slug), options=options)
    wait_until(lambda: len(runs(stand, dataset_id)) >= 3, "three maintenances", WAIT_S)
    for key in producer.ask("repeatables", queue=queue):
        producer.ask("removeRepeatable", queue=queue, key=key)

    assert_nothing_is_left(stand)


def test_of_a_repeated_job_of_node_and_one_of_the_api_at_once_one_runs_and_the_other_is_skipped(
    maintained: Stand,
) -> None:
    stand, producer, queue = maintained, maintained.producer, maintained.lifecycle_queue
    dataset_id, slug = a_dataset(stand)
    with stand.connection() as held:
        # Held as a maintenance holds it, so that both meet: the worker's run and the one of the API are skipped then.
        held.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", [f"timestore-maintenance-{dataset_id}"])
        repeat = {"name": slug, "data": maintenance(dataset_id, slug), "opts": {"removeOnComplete": True}}
        producer.ask("schedule", queue=queue, id=f"twice-{slug}", repeat={"every": 1000}, template=repeat)
        wait_until(lambda: runs(stand, dataset_id), "Node's job to be taken", WAIT_S)
        answer = stand.service.client.post("/admin/lifecycle/run", json={"datasetId": dataset_id})
        assert answer.json()["status"] == "skipped"
        assert "another maintenance" in answer.json()["report"]["operations"][0]["message"]
        assert {run["status"] for run in runs(stand, dataset_id)} <= {"skipped", "running"}
    wait_until(lambda: "completed" in {run["status"] for run in runs(stand, dataset_id)}, "one to run", WAIT_S)
    producer.ask("unschedule", queue=queue, id=f"twice-{slug}")

    assert_nothing_is_left(stand)


def test_the_maintenance_that_we_schedule_is_seen_by_a_worker_of_nodes(stand: Stand) -> None:
    """The queue is paused while our worker schedules, so that it is Node's that takes the job."""
    queue, consumer = stand.lifecycle_queue, stand.consumer
    stand.service.ingest("ours", batch([1]))
    stand.worker().start(wait=False)
    wait_until(lambda: stand.visible("ours") == [1], "the dataset", WAIT_S)
    stand.producer.ask("pause", queue=queue)
    every = {"TIMESTORE_LIFECYCLE_INTERVAL_SECONDS": "3600", "TIMESTORE_LIFECYCLE_JITTER_SECONDS": "0"}
    scheduling = stand.worker("lifecycle", **every).start()
    states = ["waiting", "paused", "delayed"]
    wait_until(lambda: sum(stand.producer.ask("counts", queue=queue, states=states).values()), "the job", WAIT_S)
    assert scheduling.stop() == 0

    stand.producer.ask("resume", queue=queue)
    consumer.ask("work", queue=queue, result={"datasetId": "ds", "operations": []}, options={})
    wait_until(lambda: consumer.ask("seen", queue=queue), "Node's worker to take it", WAIT_S)

    (job,) = consumer.ask("seen", queue=queue)
    (dataset,) = stand.catalog("SELECT id FROM datasets WHERE slug = 'ours'")
    assert job["name"] == "ours"
    assert ":" not in job["id"]
    assert set(job["data"]) == {*maintenance("", ""), "scheduledFor"}
    assert job["data"]["datasetId"] == dataset["id"]
    assert job["data"]["datasetSlug"] == "ours"
    assert job["data"]["trigger"] == "schedule"
    assert job["data"]["operations"] == ["compaction", "retention", "parquetExport"]
    for time in ("requestedAt", "scheduledFor"):
        assert len(job["data"][time]) == len("2024-01-01T00:00:00.000Z")


def a_dataset(stand: Stand) -> tuple[str, str]:
    """The id and slug of a new dataset."""
    slug = f"maintained-{uuid4().hex[:8]}"
    stand.producer.ask("listen", queue=stand.lifecycle_queue)
    result = stand.finished(stand.add(slug, job_data(slug, batch([1]))))
    return result["datasetId"], slug


def maintenance(dataset_id: str, slug: str) -> dict[str, Any]:
    """What a Node producer sends to have a dataset maintained."""
    return {
        "datasetId": dataset_id,
        "datasetSlug": slug,
        "operations": ["compaction", "retention"],
        "trigger": "schedule",
        "requestId": f"request-{slug}",
        "requestedAt": "2024-05-01T12:00:00.000Z",
    }


def runs(stand: Stand, dataset_id: str) -> list[dict[str, Any]]:
    return stand.catalog("SELECT * FROM lifecycle_job_runs WHERE dataset_id = %s", dataset_id)


def assert_nothing_is_left(stand: Stand) -> None:
    """Nothing repeats any more, and no job waits that could: so there will be no further run."""
    states = ["waiting", "paused", "prioritized", "active", "delayed"]

    def left() -> int:
        return sum(stand.producer.ask("counts", queue=stand.lifecycle_queue, states=states).values())

    wait_until(lambda: left() == 0, "the last maintenance to end", WAIT_S)
    assert stand.producer.ask("schedulers", queue=stand.lifecycle_queue) == []
