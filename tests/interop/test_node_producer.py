"""Node puts jobs in, our worker does them: once, with the result or the reason that Node is promised."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from tests.interop.node_bullmq import NodeError
from tests.interop.stand import Stand, job_data
from tests.service import FIELDS, batch, wait_until

CHILDREN = 200


def test_a_job_with_neither_id_nor_key_is_published_and_its_result_arrives(shared: Stand) -> None:
    job_id = shared.add("plain", job_data("plain", batch([1, 2])))

    result = shared.finished(job_id)

    published = shared.catalog(
        "SELECT m.id, m.dataset_id, m.metadata ->> 'storageTargetId' AS target "
        "FROM dataset_manifests m JOIN datasets d ON d.id = m.dataset_id WHERE d.slug = %s",
        "plain",
    )
    assert result == {
        "manifestId": published[0]["id"],
        "datasetId": published[0]["dataset_id"],
        "storageTargetId": published[0]["target"],
    }
    wait_until(lambda: shared.heard("completed", job_id), "QueueEvents to hear that the job completed")
    assert [one["returnvalue"] for one in shared.heard("completed", job_id)] == [result]
    assert len(shared.heard("active", job_id)) == 1
    assert shared.job(job_id)["returnvalue"] == result
    assert shared.job(job_id)["attemptsMade"] == 1
    assert shared.visible("plain") == [1, 2]


def test_a_job_with_an_id_of_its_own_is_found_under_it(shared: Stand) -> None:
    job_id = shared.add("named", job_data("named", batch([1])), jobId="import-2024-05-01")

    result = shared.finished(job_id)

    assert job_id == "import-2024-05-01"
    status = shared.status("named", job_id)
    assert (status["status"], status["manifestId"]) == ("completed", result["manifestId"])
    assert shared.visible("named") == [1]


def test_jobs_with_a_priority_or_a_delay_are_published(shared: Stand) -> None:
    urgent = shared.add("ranked", job_data("ranked", batch([1])), priority=1)
    idle = shared.add("ranked", job_data("ranked", batch([2])), priority=2_000_000)
    late = shared.add("ranked", job_data("ranked", batch([3])), delay=1500)

    for job_id in (urgent, idle, late):
        shared.finished(job_id)

    assert shared.visible("ranked") == [1, 2, 3]
    job = shared.job(late)
    assert job["processedOn"] - job["timestamp"] >= 1500


def test_jobs_that_are_added_in_bulk_are_published(shared: Stand) -> None:
    jobs = [{"name": "bulk", "data": job_data("bulk", batch([n])), "opts": {"priority": n}} for n in range(6)]

    ids = shared.producer.ask("addBulk", queue=shared.ingest_queue, jobs=jobs)
    versions = {shared.finished(job_id)["manifestId"] for job_id in ids}

    assert len(versions) == 6
    assert shared.visible("bulk") == list(range(6))


def test_values_arrive_as_node_sent_them(shared: Stand) -> None:
    fields = [
        *FIELDS,
        {"name": "text", "type": "string"},
        {"name": "level", "type": "double"},
        {"name": "on", "type": "boolean"},
    ]
    texts = ["🌡️ 21 °C", "שלום\tworld", "e\u0301", "line\nbreak \"quoted\" \\ 'single'", "\u2028\u0001", ""]
    rows: list[dict[str, Any]] = [
        {"timestamp": "2024-01-01T00:00:00Z", "n": n, "text": text, "level": n / 3, "on": n % 2 == 0}
        for n, text in enumerate(texts)
    ]
    rows.append({"timestamp": "2024-01-01T00:00:01Z", "n": 98, "text": None, "level": None, "on": None})
    rows.append({"timestamp": "2024-01-01T00:00:01Z", "n": 99, "extra": {"deep": [{"er": None}], "é": 1}})
    body = batch([0], schema={"fields": fields}, rows=rows)
    data = job_data("valued", {**body, "unknown": {"nested": ["field", {"of": "the producer"}]}})

    shared.finished(shared.add("valued", data))

    found = sorted(shared.rows("valued"), key=lambda row: row["n"])
    expected = [{"text": None, "level": None, "on": None, **row} for row in rows]
    for row in expected:
        row.pop("extra", None)
    assert [{**row, "timestamp": None} for row in found] == [{**row, "timestamp": None} for row in expected]


def test_integers_beyond_2_53_are_exact_as_strings_and_rounded_as_numbers_of_javascript(shared: Stand) -> None:
    """JavaScript reads 2^53 + 1 as 2^53 and writes 2^60 as …7000: the digits are gone before the queue."""
    exact = [9007199254740993, 9223372036854775807, -9223372036854775808]
    rows = [{"timestamp": "2024-01-01T00:00:00Z", "n": str(number)} for number in exact]
    as_strings = shared.add("digits", job_data("digits", batch([0], rows=rows)))
    rows = [{"timestamp": "2024-01-01T00:00:00Z", "n": number} for number in (9007199254740993, 2**60)]
    as_numbers = shared.add("rounded", job_data("rounded", batch([0], rows=rows)))

    shared.finished(as_strings)
    shared.finished(as_numbers)

    assert shared.visible("digits") == sorted(exact)
    assert shared.visible("rounded") == [9007199254740992, 1152921504606847000]


def test_a_key_of_the_producer_counts_once_whichever_job_brings_it(shared: Stand) -> None:
    data = job_data("keyed", batch([1], idempotencyKey="k"))
    first, second = shared.add("keyed", data), shared.add("keyed", data)

    assert first != second
    assert shared.finished(first) == shared.finished(second)
    assert shared.visible("keyed") == [1]
    with pytest.raises(NodeError, match="'k'"):
        shared.finished(shared.add("keyed", job_data("keyed", batch([2], idempotencyKey="k"))))


def wrong_bodies() -> Iterator[tuple[str, dict[str, Any]]]:
    yield "value", batch([1], rows=[{"timestamp": "2024-01-01T00:00:00Z", "n": "many"}])
    yield "fields", batch([1], schema={"fields": []})
    yield "range", batch([1], partition={"key": {}, "timeRange": {"start": "yesterday", "end": "2024-02-30"}})
    yield "rows", {name: part for name, part in batch([1]).items() if name != "rows"}
    yield "target", batch([1], storageTargetId="st-unknown")
    yield "number", batch([1], rows=[{"timestamp": "2024-01-01T00:00:00Z", "n": 1e21}])
    yield "slug with spaces\n", batch([1])


def test_what_is_wrong_with_a_batch_is_told_once_and_in_the_words_of_http(shared: Stand) -> None:
    for slug, body in wrong_bodies():
        refused = shared.service.client.post(f"/datasets/{quote(slug)}/ingest", json=body)
        job_id = shared.add(slug, job_data(slug, body), attempts=5, backoff={"type": "fixed", "delay": 10})

        with pytest.raises(NodeError) as failed:
            shared.finished(job_id)

        assert refused.status_code in (400, 404), (slug, refused.text)
        assert str(failed.value) == refused.json()["message"], slug
        job = shared.job(job_id)
        assert (job["attemptsMade"], job["failedReason"]) == (1, str(failed.value)), slug
        assert [one["failedReason"] for one in shared.heard("failed", job_id)] == [str(failed.value)], slug


@pytest.mark.parametrize("data", [None, "text", [1], {}, {"datasetSlug": 7}], ids=str)
def test_data_that_is_no_batch_fails_at_once(shared: Stand, data: Any) -> None:
    job_id = shared.add("shapeless", data, attempts=5)

    with pytest.raises(NodeError, match="datasetSlug: is required"):
        shared.finished(job_id)
    assert shared.job(job_id)["attemptsMade"] == 1


def test_half_a_surrogate_pair_fails_at_once(shared: Stand) -> None:
    rows = [{"timestamp": "2024-01-01T00:00:00Z", "n": 1, "text": "\ud83c"}]
    fields = [*FIELDS, {"name": "text", "type": "string"}]
    data = job_data("halved", batch([1], schema={"fields": fields}, rows=rows))
    job_id = shared.add("halved", data, attempts=5)

    with pytest.raises(NodeError, match="surrogate"):
        shared.finished(job_id)
    assert shared.job(job_id)["attemptsMade"] == 1


def test_a_job_id_that_is_added_twice_runs_once(shared: Stand) -> None:
    first = shared.add("twice", job_data("twice", batch([1])), jobId="once")
    meanwhile = shared.add("twice", job_data("twice", batch([2])), jobId="once")
    shared.finished(first)
    afterwards = shared.add("twice", job_data("twice", batch([3])), jobId="once")
    last = shared.add("twice", job_data("twice", batch([4])))
    shared.finished(last)

    assert first == meanwhile == afterwards == "once"
    assert shared.visible("twice") == [1, 4]


def test_what_the_producer_says_of_removal_is_done(shared: Stand) -> None:
    wrong = job_data("removed", batch([1], schema={"fields": []}))
    gone = shared.add("removed", job_data("removed", batch([1])), removeOnComplete=True, removeOnFail=False)
    gone_failed = shared.add("removed", wrong, removeOnFail=True)
    kept = shared.add("removed", job_data("removed", batch([2])), removeOnComplete=False)
    kept_failed = shared.add("removed", wrong, removeOnComplete=True)
    silent = shared.add("removed", job_data("removed", batch([3])))

    assert "manifestId" in shared.finished(gone)
    for job_id in (gone_failed, kept_failed):
        with pytest.raises(NodeError):
            shared.finished(job_id)
    for job_id in (kept, silent):
        shared.finished(job_id)

    states = {job_id: shared.node_state(job_id) for job_id in (gone, gone_failed, kept, kept_failed, silent)}
    assert states == {
        gone: "unknown",
        gone_failed: "unknown",
        kept: "completed",
        kept_failed: "failed",
        silent: "completed",
    }
    assert shared.visible("removed") == [1, 2, 3]


def test_a_flow_of_200_jobs_is_published_once_each_by_two_workers(shared: Stand) -> None:
    """The parent waits in a queue of Node's own until our workers have done its children."""
    shared.worker().start(wait=False)
    parents, collector = f"{shared.ingest_queue}_parents", shared.node("consumer")
    children = [
        {"name": "flow", "queueName": shared.ingest_queue, "data": job_data("flow", batch([n]))}
        for n in range(CHILDREN)
    ]
    collector.ask("work", queue=parents, result="collected", options={})
    shared.producer.ask("listen", queue=parents)
    parent = shared.producer.ask("addFlow", flow={"name": "parent", "queueName": parents, "children": children})

    assert shared.producer.ask("finished", queue=parents, id=parent, timeout_ms=110_000) == "collected"
    values = shared.producer.ask("childrenValues", queue=parents, id=parent)
    assert len({value["manifestId"] for value in values.values()}) == CHILDREN
    assert shared.visible("flow") == list(range(CHILDREN))


def test_a_child_that_fails_fails_its_parent_where_the_flow_says_so(shared: Stand) -> None:
    parents, collector = f"{shared.ingest_queue}_failing_parents", shared.node("consumer")
    good, wrong = job_data("fated", batch([1])), job_data("fated", batch([2], schema={"fields": []}))
    children = [
        {"name": "fated", "queueName": shared.ingest_queue, "data": good},
        {"name": "fated", "queueName": shared.ingest_queue, "data": wrong, "opts": {"failParentOnFailure": True}},
    ]
    collector.ask("work", queue=parents, result="collected", options={})
    shared.producer.ask("listen", queue=parents)
    parent = shared.producer.ask("addFlow", flow={"name": "parent", "queueName": parents, "children": children})

    with pytest.raises(NodeError, match=r"child .* failed"):
        shared.producer.ask("finished", queue=parents, id=parent, timeout_ms=60_000)


def test_deduplicated_jobs_run_once_until_the_first_is_done(shared: Stand) -> None:
    def add(number: int) -> str:
        return shared.add("single", job_data("single", batch([number])), deduplication={"id": "one at a time"})

    shared.producer.ask("pause", queue=shared.ingest_queue)
    first, second = add(1), add(2)
    shared.producer.ask("resume", queue=shared.ingest_queue)
    shared.finished(first)
    third = add(3)
    shared.finished(third)

    assert first == second != third
    assert shared.visible("single") == [1, 3]


def test_job_ids_that_share_a_beginning_are_different_jobs(shared: Stand) -> None:
    for number in (1, 2):
        shared.finished(shared.add("dotted", job_data("dotted", batch([number])), jobId=f"sensors.{number}"))

    assert shared.visible("dotted") == [1, 2]


def test_a_job_id_that_the_queue_has_forgotten_brings_new_rows(shared: Stand) -> None:
    """As after removeOnComplete, or a flush of Redis, where the counter of ids begins again."""
    for number in (1, 2):
        data = job_data("again", batch([number]))
        shared.finished(shared.add("again", data, jobId="nightly", removeOnComplete=True))

    assert shared.visible("again") == [1, 2]
