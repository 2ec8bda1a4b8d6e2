"""A worker that dies in the middle of a job: the other side's takes the job over, and nobody's before it is dead."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.interop.node_bullmq import VERSIONS, BullMq
from tests.interop.stand import Stand, job_data
from tests.interop.step_plugin import StepPlugin, make_step_plugin
from tests.service import batch, wait_until

pytestmark = pytest.mark.extended

WAIT_S = 90
# Node's worker here: gone is who has not renewed its lock for a second.
IMPATIENT = {"lockDuration": 1000, "stalledInterval": 500}
LOCK_MS = 60_000


@pytest.fixture
def plugin(tmp_path: Path) -> StepPlugin:
    return make_step_plugin(tmp_path / "plugin")


def test_a_node_worker_takes_over_from_ours_and_the_journal_has_the_last_word(stand: Stand, plugin: StepPlugin) -> None:
    """With the journal what Node makes of it counts for nothing here: our next worker publishes the batch."""
    job_id = stand.service.ingest("taken", batch([1]), "k").json()["jobId"]
    plugin.kill_at("job.taken")
    crashing = stand.worker(**plugin.settings)
    crashing.run()
    wait_until(lambda: not crashing.running, "our worker to be killed", WAIT_S)

    stand.work_from_node(options=IMPATIENT, hold=False, result={"manifestId": "dm-node"})
    assert 0 < expire_lock(stand, job_id) <= LOCK_MS

    assert stand.finished(job_id) == {"manifestId": "dm-node"}
    assert stand.taken(job_id)["data"]["idempotencyKey"] == "k"
    assert stand.status("taken", job_id)["status"] == "waiting"
    assert stand.visible("taken") == []
    stand.consumer.ask("close", queue=stand.ingest_queue)
    stand.worker().start(wait=False)
    wait_until(lambda: stand.status("taken", job_id)["status"] == "completed", "our worker to publish it", WAIT_S)
    assert stand.visible("taken") == [1]


def test_a_node_worker_takes_over_a_job_of_node_from_ours(stand: Stand, plugin: StepPlugin) -> None:
    """Killed when its file was stored and not yet named: what was written is seen by nobody."""
    plugin.kill_at("ingest.file_stored")
    crashing = stand.worker(**plugin.settings)
    crashing.run()
    stand.producer.ask("listen", queue=stand.ingest_queue)
    job_id = stand.add("stored", job_data("stored", batch([1])))
    wait_until(lambda: not crashing.running, "our worker to be killed", WAIT_S)

    stand.work_from_node(options=IMPATIENT, hold=False, result={"manifestId": "dm-node"})
    assert 0 < expire_lock(stand, job_id) <= LOCK_MS

    assert stand.finished(job_id) == {"manifestId": "dm-node"}
    wait_until(lambda: stand.heard("stalled", job_id), "QueueEvents to hear that the job stalled")
    assert stand.visible("stored") == []


def test_a_node_worker_leaves_the_job_that_ours_is_at(stand: Stand, plugin: StepPlugin) -> None:
    plugin.hold_at("ingest.file_stored")
    stand.worker(**plugin.settings).run()
    job_id = stand.add("busy", job_data("busy", batch([1])))
    plugin.wait_for("ingest.file_stored", WAIT_S)

    stand.work_from_node(options=IMPATIENT)
    wait_for_stalled_checks(stand, 3)
    assert stand.node_state(job_id) == "active"
    plugin.release("ingest.file_stored")

    assert stand.finished(job_id)["manifestId"].startswith("dm-")
    assert stand.consumer.ask("seen", queue=stand.ingest_queue) == []
    assert stand.visible("busy") == [1]


@pytest.fixture
def stands(bullmq_release: Callable[[str], BullMq], new_stand: Callable[[BullMq], Stand]) -> Iterator[list[Stand]]:
    """A stand for each release, to wait for them together: our check for stalled jobs comes every 15 s."""
    with ExitStack() as all_of_them:
        made = [new_stand(bullmq_release(version)) for version in VERSIONS]
        for one in made:
            all_of_them.callback(one.close)
        yield made


def test_our_worker_takes_over_from_nodes_and_only_what_a_dead_one_had(stands: list[Stand]) -> None:
    held, left = {}, {}
    for stand in stands:
        queue, dying, living = stand.ingest_queue, stand.node("consumer", "dying"), stand.consumer
        held[queue] = stand.add("survived", job_data("survived", batch([1])))
        living.ask("work", queue=queue, hold=True, options={"lockDuration": 1000, "skipStalledCheck": True})
        stand.taken(held[queue])
        left[queue] = stand.add("survived", job_data("survived", batch([2])))
        dying.ask("work", queue=queue, hold=True, options=IMPATIENT)
        wait_until(lambda stand=stand: is_marked(stand, left[stand.ingest_queue]), "the job to be taken and watched")
        dying.kill()

    for stand in stands:
        stand.worker().start(wait=False)

    for stand in stands:
        queue = stand.ingest_queue
        assert stand.finished(left[queue])["manifestId"].startswith("dm-"), stand.bullmq
        assert stand.node_state(held[queue]) == "active", stand.bullmq
        stand.release(held[queue], result="done by Node")
        assert stand.finished(held[queue]) == "done by Node", stand.bullmq
        assert stand.visible("survived") == [2], stand.bullmq


def is_marked(stand: Stand, job_id: str) -> bool:
    """Whether the next check will take the job for stalled, unless its lock is renewed."""
    return bool(stand.redis.sismember(f"bull:{stand.ingest_queue}:stalled", job_id))


def expire_lock(stand: Stand, job_id: str) -> int:
    """Let the time of a dead worker's lock be over now; how many milliseconds it had left."""
    lock = f"bull:{stand.ingest_queue}:{job_id}:lock"
    left_ms: int = stand.redis.pttl(lock)
    stand.redis.pexpire(lock, 1)
    return left_ms


def wait_for_stalled_checks(stand: Stand, number: int) -> None:
    """Return when a worker has looked for stalled jobs that often from now."""
    seen: set[str | None] = set()

    def enough() -> bool:
        seen.add(stand.redis.get(f"bull:{stand.ingest_queue}:stalled-check"))
        return len(seen - {None}) > number

    wait_until(enough, f"{number} checks for stalled jobs", WAIT_S)
