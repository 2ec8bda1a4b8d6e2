"""Our service accepts, a worker of Node's does the job: what it sees, and what our clients see meanwhile."""

from __future__ import annotations

from typing import Any

from tests.interop.stand import Stand
from tests.service import FIELDS, batch, wait_until

ACTOR = {"x-iam-user": "ada", "x-iam-scopes": "write,read"}
BIG = 9007199254740993
LARGEST = 9223372036854775807


def test_a_node_worker_sees_the_whole_batch(outward: Stand) -> None:
    rows = [
        {"timestamp": "2024-01-01T00:00:00Z", "n": 1, "text": "🌡️ שלום e\u0301 \u2028 \"'\\"},
        {"timestamp": "2024-01-01T00:00:01Z", "n": None, "text": None, "extra": {"deep": [{"er": None}, 1.5e300]}},
    ]
    fields = [*FIELDS, {"name": "text", "type": "string"}]
    body = batch([0], schema={"fields": fields}, rows=rows, datasetName="Sæen", tableName="readings", unknown=[{}])

    job_id = accepted(outward, "seen", body, **ACTOR, **{"idempotency-key": "the key/1"})
    job = outward.taken(job_id)

    assert job["name"] == "seen"
    data = job["data"]
    received_at = data.pop("receivedAt")
    assert len(received_at) == len("2024-01-01T00:00:00.000Z")
    assert received_at.endswith("Z")
    assert data == {
        **body,
        "datasetSlug": "seen",
        "idempotencyKey": "the key/1",
        "actor": {"id": "ada", "scopes": ["read", "write"]},
    }
    assert job["opts"]["attempts"] == 5
    assert job["opts"]["backoff"]["type"] == "exponential"


def test_a_batch_without_key_and_actor_has_neither_in_its_data(outward: Stand) -> None:
    job = outward.taken(accepted(outward, "bare", batch([1])))

    assert set(job["data"]) == {*batch([1]), "datasetSlug", "receivedAt"}


def test_integers_beyond_2_53_have_all_their_digits_in_redis_and_javascript_rounds_them(outward: Stand) -> None:
    rows = [{"timestamp": "2024-01-01T00:00:00Z", "n": number} for number in (BIG, LARGEST)]

    job_id = accepted(outward, "digits", batch([0], rows=rows))
    job = outward.taken(job_id)

    assert outward.raw_data(job_id)["rows"] == rows
    assert [row["n"] for row in job["data"]["rows"]] == [BIG - 1, 9223372036854776000]


def test_job_ids_are_such_as_node_accepts_and_the_same_for_the_same_key(outward: Stand) -> None:
    first = accepted(outward, "ids", batch([1]), **{"idempotency-key": "a:b/1"})
    again = accepted(outward, "ids", batch([1]), **{"idempotency-key": "a:b/1"})
    in_body = accepted(outward, "ids", batch([1], idempotencyKey="a:b/1"))
    elsewhere = accepted(outward, "ids2", batch([1]), **{"idempotency-key": "a:b/1"})
    keyless = [accepted(outward, "ids", batch([1])) for _ in range(2)]

    assert first == again == in_body
    ids = [first, elsewhere, *keyless]
    assert len(set(ids)) == 4
    for job_id in ids:
        assert ":" not in job_id
        assert not job_id.isdecimal()
        assert outward.add("mine", {}, jobId=job_id) == job_id
        outward.taken(job_id)


def test_with_the_journal_a_batch_is_open_until_it_is_published_here(outward: Stand) -> None:
    """Node's result says nothing to our journal."""
    job_id = accepted(outward, "open", batch([1]))
    outward.taken(job_id)
    assert outward.status("open", job_id) == {"jobId": job_id, "datasetSlug": "open", "status": "active"}

    outward.release(job_id, result={"manifestId": "dm-node"})

    assert outward.finished(job_id) == {"manifestId": "dm-node"}
    assert outward.status("open", job_id) == {"jobId": job_id, "datasetSlug": "open", "status": "waiting"}


def test_without_the_journal_nodes_result_is_the_batchs(outward_unjournalled: Stand) -> None:
    outward = outward_unjournalled
    job_id = accepted(outward, "trusted", batch([1]))
    outward.taken(job_id)
    assert outward.status("trusted", job_id) == {"jobId": job_id, "datasetSlug": "trusted", "status": "active"}
    wait_until(lambda: outward.heard("progress", job_id), "QueueEvents to hear of the progress")
    assert outward.heard("progress", job_id)[0]["data"] == {"rows": 1}
    result = {"manifestId": "dm-node", "datasetId": "ds-node", "storageTargetId": "st-node"}

    outward.release(job_id, result=result)

    assert outward.finished(job_id) == result
    told = {"jobId": job_id, "datasetSlug": "trusted", "status": "completed", "manifestId": "dm-node"}
    assert outward.status("trusted", job_id) == told


def test_without_the_journal_nodes_failures_are_told_with_their_reason(outward_unjournalled: Stand) -> None:
    outward = outward_unjournalled
    job_id = accepted(outward, "failing", batch([1]))
    outward.taken(job_id)
    outward.release(job_id, failed="the disk is away")
    wait_until(lambda: outward.heard("delayed", job_id), "Node to delay the job")

    told = outward.status("failing", job_id)
    if told["status"] == "delayed":  # Nothing else unless the second attempt has begun already.
        assert (told["reason"], told["willRetry"]) == ("the disk is away", True)

    outward.taken(job_id, times=2)
    outward.release(job_id, failed="it never fits", forGood=True)
    told = wait_until(lambda: (one := outward.status("failing", job_id))["status"] == "failed" and one, "the failure")
    assert (told["reason"], told["willRetry"]) == ("it never fits", False)


def accepted(stand: Stand, slug: str, body: dict[str, Any], **headers: str) -> str:
    answer = stand.service.client.post(f"/datasets/{slug}/ingest", json=body, headers=headers)
    assert answer.status_code == 202, answer.text
    job_id: str = answer.json()["jobId"]
    return job_id
