"""What both sides see of a queue as a whole: that it is paused, and how many jobs stand where."""

from __future__ import annotations

import os
from collections.abc import Callable
from unittest.mock import patch

from timestore_bullmq import BullQueue

from tests.interop.node_bullmq import NEWEST, BullMq
from tests.interop.stand import Stand, job_data
from tests.service import batch, wait_until
from timestore_core.settings import load_settings

STATES = ["waiting", "paused", "prioritized", "active", "delayed", "completed", "failed"]
FAR = 3_600_000


def our_counts(stand: Stand) -> dict[str, int]:
    """What our processes count, by the same code."""
    with patch.dict(os.environ, stand.settings):
        queue = BullQueue(load_settings())
    counts = dict(queue.counts("ingest"))
    queue.close()
    return counts


def node_counts(stand: Stand) -> dict[str, int]:
    counts: dict[str, int] = stand.producer.ask("counts", queue=stand.ingest_queue, states=STATES)
    return counts


def test_both_sides_count_the_same_jobs(stand: Stand) -> None:
    queue = stand.ingest_queue
    consumer = stand.node("consumer")
    ended = [stand.add("counted", {}) for _ in range(3)]
    consumer.ask("work", queue=queue, hold=True, options={})
    for job_id, how in zip(ended, ({"result": 1}, {"result": 2}, {"failed": "no"}), strict=True):
        stand.taken(job_id)
        stand.release(job_id, **how)
    active = stand.add("counted", {})
    stand.taken(active)
    for options in ({}, {}, {}, {"priority": 3}, {"priority": 9}, {"delay": FAR}):
        stand.add("counted", {}, **options)

    expected = {"waiting": 3, "paused": 0, "prioritized": 2, "active": 1, "delayed": 1, "completed": 2, "failed": 1}
    assert node_counts(stand) == expected
    assert our_counts(stand) == expected

    stand.producer.ask("pause", queue=queue)
    assert our_counts(stand) == node_counts(stand)
    paused = our_counts(stand)
    assert paused["waiting"] + paused["paused"] == 3


def test_a_queue_that_node_paused_holds_our_worker_until_it_is_resumed(stand: Stand) -> None:
    """The job that falls due in the pause shows that our worker looked.

    It moved it to where 6.x keeps the jobs of a paused queue; the resume of 5.x writes over that, and it is lost.
    """
    queue, redis = stand.ingest_queue, stand.redis
    stand.producer.ask("pause", queue=queue)
    jobs = [stand.add("paused", job_data("paused", batch([number]))) for number in range(3)]
    jobs += [stand.add("paused", job_data("paused", batch([number])), priority=number) for number in range(3, 6)]
    due = stand.add("paused", job_data("paused", batch([6])), delay=1)
    stand.worker().start(wait=False)
    wait_until(lambda: redis.lpos(f"bull:{queue}:wait", due) is not None, "our worker to look", 60)

    assert node_counts(stand)["active"] == 0
    assert {stand.status("paused", job_id)["status"] for job_id in (*jobs, due)} == {"waiting"}
    stand.producer.ask("resume", queue=queue)

    for job_id in jobs:
        stand.finished(job_id)
    if stand.bullmq.major == 5:
        assert stand.node_state(due) == "unknown"
    else:
        stand.finished(due)
    assert stand.visible("paused") == list(range(6 if stand.bullmq.major == 5 else 7))


def test_the_resume_of_6_x_loses_nothing_whoever_paused(stand: Stand, bullmq_release: Callable[[str], BullMq]) -> None:
    queue, newest = stand.ingest_queue, stand.node("producer", "newest", bullmq_release(NEWEST))
    early = stand.add("merged", job_data("merged", batch([0])))
    stand.producer.ask("pause", queue=queue)
    ours = stand.service.ingest("merged", batch([1])).json()["jobId"]
    theirs = stand.add("merged", job_data("merged", batch([2])))

    newest.ask("resume", queue=queue)

    assert [stand.node_state(job_id) for job_id in (early, ours, theirs)] == ["waiting"] * 3
    assert node_counts(stand)["waiting"] == our_counts(stand)["waiting"] == 3


def test_what_we_accept_while_node_pauses_the_queue_is_published_after_all(stand: Stand) -> None:
    """The resume of 5.x replaces the list that our jobs are in by its own; the journal queues them again."""
    queue = stand.ingest_queue
    early = stand.service.ingest("held", batch([0])).json()["jobId"]
    stand.producer.ask("pause", queue=queue)
    ours = [stand.service.ingest("held", batch([number])).json()["jobId"] for number in range(1, 4)]
    theirs = stand.add("held", job_data("held", batch([4])))
    stand.producer.ask("resume", queue=queue)

    lost = {"unknown"} if stand.bullmq.major == 5 else {"waiting"}
    assert {stand.node_state(job_id) for job_id in ours} == lost
    assert {stand.node_state(job_id) for job_id in (early, theirs)} == {"waiting"}
    assert {stand.status("held", job_id)["status"] for job_id in ours} == {"waiting"}
    stand.worker().start()
    wait_until(lambda: stand.visible("held") == list(range(5)), "all five batches", 60)
