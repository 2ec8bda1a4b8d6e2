"""Asking for maintenance over HTTP: what is run, what is refused, and what is remembered of it."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import psycopg
import pytest

from tests.integration.maintenance import Json, ask, events, head, ingest, outcome, policy, run
from tests.service import Service, batch, numbers_of
from timestore_core.lifecycle.runs import OPERATIONS

RUN = "/admin/lifecycle/run"


@pytest.fixture(scope="module")
def dataset(service: Service) -> Json:
    """A dataset with some batches of long ago."""
    for number in range(4):
        ingest(service, "maintained", batch([number]))
    found: Json = ask(service, "GET", "/admin/datasets/maintained")["dataset"]
    return found


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("dry_run", [True, False])
def test_every_operation_runs_by_id_and_by_slug(service: Service, operation: str, dry_run: bool) -> None:
    slug = f"every-{operation}-{dry_run}"
    made = ingest(service, slug, batch([1, 2, 3]))["dataset"]
    ingest(service, slug, batch([4]))
    before = head(service, slug)
    for named in ({"datasetId": made["id"]}, {"datasetSlug": slug}):
        answer = ask(service, "POST", RUN, {**named, "operations": [operation], "dryRun": dry_run})
        report = answer["report"]

        assert answer["status"] == "completed"
        assert (report["datasetId"], report["datasetSlug"]) == (made["id"], slug)
        assert [one["operation"] for one in report["operations"]] == [operation]
        assert report["operations"][0]["status"] in ("completed", "skipped")
        if dry_run:
            assert report["auditLogEntries"] == []
    if dry_run:
        assert head(service, slug) == before


def test_a_run_without_operations_does_those_of_the_contract_in_their_order(service: Service, dataset: Json) -> None:
    report = ask(service, "POST", RUN, {"datasetId": dataset["id"], "dryRun": True})["report"]

    assert [one["operation"] for one in report["operations"]] == ["compaction", "retention", "parquetExport"]


def test_operations_run_once_each_in_the_order_in_which_they_are_named(service: Service, dataset: Json) -> None:
    asked = ["verification", "collection", "compaction", "collection", "retention"]
    report = run(service, "maintained", *asked, dryRun=True)

    assert [one["operation"] for one in report["operations"]] == asked[:3] + asked[4:]


def test_an_id_goes_before_a_slug_and_may_be_a_slug(service: Service, dataset: Json) -> None:
    both = {"datasetId": dataset["id"], "datasetSlug": "nowhere", "operations": ["verification"]}

    assert ask(service, "POST", RUN, both)["report"]["datasetSlug"] == "maintained"
    assert ask(service, "POST", RUN, {**both, "datasetId": "maintained"})["report"]["datasetId"] == dataset["id"]
    assert ask(service, "POST", RUN, {**both, "datasetId": ""}, status=404)["error"] == "dataset nowhere not found"


@pytest.mark.parametrize("body", [{}, {"datasetId": "", "datasetSlug": ""}, {"datasetId": None}, {"dataset": "x"}])
def test_no_dataset_is_refused(service: Service, body: Json) -> None:
    answer = ask(service, "POST", RUN, body, status=400)

    assert answer["error"] == answer["message"] == "datasetId or datasetSlug is required"


@pytest.mark.parametrize("key", ["datasetId", "datasetSlug"])
@pytest.mark.parametrize("name", ["nowhere", "ds-6446c113-4e73-48c3-8a6e-298c16325473", "a\0b"])
def test_an_unknown_dataset_is_404_and_leaves_no_run(service: Service, key: str, name: str) -> None:
    before = ask(service, "GET", "/admin/lifecycle/status")["metrics"]["jobsStarted"]
    answer = ask(service, "POST", RUN, {key: name}, status=404)

    assert answer["error"] == f"dataset {name} not found"
    assert ask(service, "GET", "/admin/lifecycle/status")["metrics"]["jobsStarted"] == before


@pytest.mark.parametrize(
    ("changes", "path", "said"),
    [
        ({"operations": []}, "operations", "is empty"),
        ({"operations": ["defragment"]}, "operations", "'defragment' is unknown; there are retention, compaction"),
        ({"operations": ["compaction", "Compaction"]}, "operations", "'Compaction' is unknown"),
        ({"operations": ["x" * 500]}, "operations", "'" + "x" * 40 + "' is unknown"),
        ({"operations": "compaction"}, "operations", "must be of type array"),
        ({"operations": [1]}, "operations[0]", "must be of type string"),
        ({"mode": "later"}, "mode", "must be one of inline, queue"),
        ({"mode": None}, "mode", "must be"),
        ({"dryRun": "yes"}, "dryRun", "must be of type boolean"),
        ({"force": 1}, "force", "must be of type boolean"),
        ({"datasetId": 7}, "datasetId", "must be of type string or null"),
        ({"datasetSlug": ["maintained"]}, "datasetSlug", "must be of type string or null"),
    ],
)
def test_a_wrong_field_is_named(service: Service, dataset: Json, changes: Json, path: str, said: str) -> None:
    version = head(service, "maintained")["version"]
    answer = ask(service, "POST", RUN, {"datasetSlug": "maintained", **changes}, status=400)

    assert [one["path"] for one in answer["details"]] == [path]
    assert said in answer["details"][0]["message"]
    assert head(service, "maintained")["version"] == version


@pytest.mark.parametrize("body", [[], "x", 1, None])
def test_a_body_that_is_no_object_is_refused(service: Service, body: Any) -> None:
    assert service.client.post(RUN, json=body).status_code == 400
    assert service.client.post(RUN, content=b"{", headers={"content-type": "application/json"}).status_code == 400
    assert service.client.post(RUN, content=b"{}", headers={"content-type": "text/plain"}).status_code == 415


def test_a_queue_is_refused_without_one(service: Service, dataset: Json) -> None:
    answer = ask(service, "POST", RUN, {"datasetSlug": "maintained", "mode": "queue"}, status=400)
    again = ask(service, "POST", "/admin/lifecycle/reschedule", {"jobId": "x"}, status=400)

    assert answer["error"] == "queue mode unavailable when REDIS_URL=inline"
    assert again["error"] == "reschedule unavailable when REDIS_URL=inline"


@pytest.mark.parametrize("body", [{}, {"jobId": 1}, {"jobId": None}])
def test_a_reschedule_of_nothing_is_refused(service: Service, body: Json) -> None:
    answer = ask(service, "POST", "/admin/lifecycle/reschedule", body, status=400)

    assert "jobId" in answer["error"]


def test_an_archived_dataset_can_be_maintained_and_a_deleted_one_cannot(service: Service) -> None:
    for number in range(3):
        ingest(service, "archived", batch([number]))
    ask(service, "POST", "/admin/datasets/archived/archive")

    assert outcome(service, "archived", "compaction")["status"] == "completed"
    assert numbers_of(service, "archived") == [0, 1, 2]
    ask(service, "DELETE", "/admin/datasets/archived", confirm="archived")
    ask(service, "POST", RUN, {"datasetSlug": "archived"}, status=404)


def test_a_dataset_without_a_batch_has_nothing_to_maintain(service: Service) -> None:
    ask(service, "POST", "/admin/datasets", {"slug": "empty"}, status=201)
    report = run(service, "empty", *OPERATIONS)

    assert {one["operation"]: one["status"] for one in report["operations"]} == {
        "retention": "skipped",
        "compaction": "skipped",
        "tiering": "skipped",
        "parquetExport": "skipped",
        "collection": "skipped",
        "verification": "completed",
    }


def test_a_run_is_remembered_with_what_it_did(service: Service) -> None:
    for number in range(3):
        ingest(service, "remembered", batch([number]))
    policy(service, "remembered")
    dry = run(service, "remembered", "compaction", dryRun=True)
    done = run(service, "remembered", "compaction", "collection", "parquetExport")
    status = ask(service, "GET", "/admin/lifecycle/status", datasetId="remembered", limit=5)

    job, before = status["jobs"]
    assert [job["id"], before["id"]] == [done["jobId"], dry["jobId"]]
    assert job["operations"] == ["compaction", "collection", "parquetExport"]
    assert (job["triggerSource"], job["status"], job["attempts"], job["error"]) == ("api", "completed", 1, None)
    assert job["startedAt"] <= job["completedAt"] <= job["updatedAt"]
    assert job["metadata"]["operations"] == done["operations"]
    assert job["id"] == f"ljr-{job['metadata']['requestId']}"
    assert before["metadata"]["dryRun"] is True
    compaction, collection, export = done["operations"]
    totals = status["metrics"]["operationTotals"]
    nothing = {"count": 0, "bytes": 0, "partitions": 0}
    # What a dry run would do is not counted.
    assert totals == {
        **dict.fromkeys(OPERATIONS, nothing),
        **{one["operation"]: {name: one[name] for name in nothing} for one in (compaction, collection, export)},
    }
    assert (compaction["partitions"], collection["count"]) == (3, 3)
    assert status["metrics"]["jobsStarted"] == status["metrics"]["jobsCompleted"] == 2
    assert status["metrics"]["exportLatencyMs"] == [export["exportMs"]]
    assert (status["metrics"]["jobsFailed"], status["metrics"]["lastErrorAt"]) == (0, None)


def test_an_operation_that_fails_is_reported_and_the_others_go_on(service: Service) -> None:
    ingest(service, "failing", batch([1]))
    ingest(service, "failing", batch([2]))
    unknown = f"st-{uuid4()}"
    policy(service, "failing", coldStorageAfterHours=1, metadata={"coldStorageTargetId": unknown})
    body = {"datasetSlug": "failing", "operations": ["tiering", "compaction"]}
    answer = ask(service, "POST", RUN, body)

    tiering, compaction = answer["report"]["operations"]
    assert (answer["status"], tiering["status"], compaction["status"]) == ("failed", "failed", "completed")
    assert tiering["message"] == f"storage target {unknown} not found"
    (job,) = ask(service, "GET", "/admin/lifecycle/status", datasetId="failing")["jobs"]
    assert (job["status"], job["error"]) == ("failed", f"tiering: {tiering['message']}")
    metrics = ask(service, "GET", "/admin/lifecycle/status", datasetId="failing")["metrics"]
    assert (metrics["jobsFailed"], metrics["lastErrorAt"]) == (1, job["updatedAt"])


def test_the_status_is_of_all_datasets_or_of_one_and_limited(service: Service) -> None:
    made = [ingest(service, slug, batch([1]))["dataset"]["id"] for slug in ("status-a", "status-b")]
    for slug in ("status-a", "status-b", "status-a"):
        run(service, slug, "verification")
    path = "/admin/lifecycle/status"

    assert [one["datasetId"] for one in ask(service, "GET", path, limit=3)["jobs"]] == [made[0], made[1], made[0]]
    assert len(ask(service, "GET", path, limit=1)["jobs"]) == 1
    assert len(ask(service, "GET", path, datasetId=made[0])["jobs"]) == 2
    assert len(ask(service, "GET", path, datasetId="status-b")["jobs"]) == 1
    assert ask(service, "GET", path, datasetId="nowhere")["jobs"] == []
    assert ask(service, "GET", path, datasetId="nowhere")["metrics"]["lastRunAt"] is None
    for wrong in ("0", "101", "-1", "x", "1.5"):
        answer = ask(service, "GET", path, limit=wrong, status=400)
        assert answer["details"] == [{"path": "limit", "message": "must be a whole number from 1 to 100"}]


def test_two_maintenances_of_a_dataset_never_run_at_once(service: Service, postgres_url: str) -> None:
    made = ingest(service, "contested", batch([1]))["dataset"]
    ingest(service, "contested", batch([2]))
    lock = [f"timestore-maintenance-{made['id']}"]
    with psycopg.connect(postgres_url, autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", lock)
        answer = ask(service, "POST", RUN, {"datasetSlug": "contested", "operations": ["compaction", "verification"]})

    why = "another maintenance of this dataset is running"
    assert answer["status"] == "skipped"
    assert [(one["status"], one["message"]) for one in answer["report"]["operations"]] == [("skipped", why)] * 2
    assert ask(service, "GET", "/admin/lifecycle/status", datasetId="contested")["metrics"]["jobsSkipped"] == 1
    assert outcome(service, "contested", "compaction")["status"] == "completed"


def test_a_verification_is_done_again_whenever_somebody_asks(service: Service, dataset: Json) -> None:
    for _ in range(2):
        done = outcome(service, "maintained", "verification")
        assert (done["status"], done["findings"]) == ("completed", [])
    assert events(service, "maintained", "retention.partition.deleted") == []
