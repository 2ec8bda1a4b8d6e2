"""Jobs whose worker is gone, frozen or deaf for longer than their lock: done by another one, and done once.

Locks and their checks have the lengths of production, so the tests share one wait: everything is begun at once.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from timestore_bullmq.consumer import LOCK_MS

from tests.faults.killer import make_killer
from tests.faults.queue_stand import QueueStand, log_lines, make_hindrance, queue_stand, write_plugin
from tests.service import Service, Worker, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.extended]

STEPS = ["job.taken", "ingest.decoded", "ingest.file_written", "ingest.file_stored", "ingest.published"]
NUMBERS = list(range(len(STEPS) + 2))
# A lock that expires, two checks (the first one only marks what it sees), and a loaded machine.
TIMEOUT_S = 4 * LOCK_MS / 1000
FROZEN_SWEEP = """
import os
import signal
from pathlib import Path

from timestore_core.hookspecs import hookimpl
from timestore_core.ingest import sweep


def freeze(runtime):
    (Path(__file__).parent / "frozen").touch()
    os.kill(os.getpid(), signal.SIGSTOP)
    return 0


sweep._sweep = freeze


@hookimpl
def timestore_step(step):
    pass
"""


@dataclass(frozen=True)
class Scene:
    """Seven jobs in the hands of seven workers: five were killed, one computes, one is stopped. And a rescuer."""

    stand: QueueStand
    jobs: list[str]
    computing: Worker
    stopped: Worker
    rescuer: Worker

    def deliveries(self) -> dict[str, tuple[int, int]]:
        """How often each job was delivered, and how often it was found stalled."""
        found = {job_id: self.stand.queued(job_id) for job_id in self.jobs}
        return {job_id: (int(job["ats"]), int(job.get("stc", 0))) for job_id, job in found.items()}

    def completed(self) -> int:
        return sum(self.stand.status("held", job_id)["status"] == "completed" for job_id in self.jobs)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("locks")


@dataclass(frozen=True)
class Frost:
    """Two frozen workers, one in its sweep and one in its transaction, a Redis that forgot all, and a third worker."""

    stand: QueueStand
    in_transaction: Worker


@pytest.fixture(scope="module")
def frost(make_service: Callable[..., Service], postgres_url: str, home: Path) -> Iterator[Frost]:
    with queue_stand(make_service, postgres_url, home / "frost") as stand:
        stand.service.start()
        stand.worker(**write_plugin(home / "freezing", "freezing", FROZEN_SWEEP)).start()
        wait_until((home / "freezing" / "frozen").exists, "the first sweep")
        in_transaction = stand.worker(TIMESTORE_INGEST_CONCURRENCY="1").start()
        with stand.catalog() as holder:
            holder.execute("LOCK TABLE lifecycle_audit_log IN EXCLUSIVE MODE")
            stand.accept("frozen", [1], "first")
            stand.wait_for_a_lock_waiter("lifecycle_audit_log")
            os.kill(in_transaction.pid, signal.SIGSTOP)
        stand.accept("frozen", [2], "second")
        stand.accept("swept", [1])
        stand.redis().flushall()
        # Room for the batches that wait for the frozen transaction, beside others.
        stand.worker(TIMESTORE_INGEST_CONCURRENCY="4").start()
        yield Frost(stand, in_transaction)


@pytest.fixture(scope="module")
def scene(frost: Frost, make_service: Callable[..., Service], postgres_url: str, home: Path) -> Iterator[Scene]:
    with queue_stand(make_service, postgres_url, home, TIMESTORE_INGEST_CONCURRENCY="1") as stand:
        stand.service.start()
        killers = [make_killer(home / step) for step in STEPS]
        for killer, step in zip(killers, STEPS, strict=True):
            killer.arm(step)
            stand.worker(**killer.settings)
        burning = make_hindrance(home / "burning", "job.taken", f"burn {LOCK_MS / 1000 + 15}")
        stopping = make_hindrance(home / "stopping", "ingest.file_stored", "stop")
        computing, stopped = stand.worker(**burning.settings), stand.worker(**stopping.settings)
        for worker in stand.workers_made:
            worker.start(wait=False)
        jobs = [stand.accept("held", [number], f"batch-{number}") for number in NUMBERS]

        def all_hold_one() -> bool:
            struck = all(killer.has_struck for killer in killers)
            return struck and all(one.is_reached for one in (burning, stopping))

        wait_until(all_hold_one, f"seven jobs in seven workers; the logs are in {home}", 120)
        yield Scene(stand, jobs, computing, stopped, stand.worker().start())
        os.kill(stopped.pid, signal.SIGCONT)


def test_jobs_of_workers_killed_at_every_step_are_finished_by_another(scene: Scene) -> None:
    wait_until(lambda: scene.completed() == len(scene.jobs), f"all jobs; the logs are in {scene.stand.home}", TIMEOUT_S)

    assert scene.stand.visible("held") == NUMBERS
    assert scene.stand.count("ingest_journal") == 0
    assert len(scene.stand.partitions()) == len(NUMBERS)
    scene.stand.assert_the_catalog_names_only_whole_files()


def test_a_long_computation_keeps_its_lock_and_runs_once(scene: Scene) -> None:
    (done,) = wait_until(lambda: log_lines(scene.computing, "job")[:1], "the computing worker's first job", TIMEOUT_S)

    assert done["ms"] > LOCK_MS
    assert (done["outcome"], done["start"]) == ("completed", 1)
    assert scene.deliveries()[done["job"]] == (1, 0)


def test_a_stopped_worker_that_wakes_up_late_changes_nothing_and_goes_on(scene: Scene) -> None:
    stand, stopped, rescuer = scene.stand, scene.stopped, scene.rescuer
    wait_until(lambda: scene.completed() == len(scene.jobs), "the others to do its job", TIMEOUT_S)
    assert log_lines(stopped, "job") == []

    os.kill(stopped.pid, signal.SIGCONT)
    (late,) = wait_until(lambda: log_lines(stopped, "job")[:1], "the late end of its job")

    assert scene.deliveries()[late["job"]] == (2, 1)
    assert stand.visible("held") == NUMBERS
    # Beside these there is the file of the worker that was killed when it had stored it: collection's to remove.
    assert len(stand.files()) == len(stand.partitions()) + 1
    assert scene.computing.stop() == 0
    for number, worker, other in ((100, stopped, rescuer), (101, rescuer, stopped)):
        assert works_alone(stand, worker, other, number)
    assert stand.visible("held") == [*NUMBERS, 100, 101]


def test_a_worker_frozen_in_its_sweep_does_not_keep_others_from_sweeping(frost: Frost) -> None:
    frost.stand.wait_for("swept", [1])


def test_a_worker_frozen_in_its_transaction_does_not_keep_others_from_its_dataset(frost: Frost) -> None:
    stand, late = frost.stand, frost.in_transaction
    stand.wait_for("frozen", [1, 2])

    os.kill(late.pid, signal.SIGCONT)
    wait_until(lambda: log_lines(late, "job"), "the late end of its job")

    assert stand.visible("frozen") == [1, 2]
    assert late.stop() == 0


def works_alone(stand: QueueStand, worker: Worker, other: Worker, number: int) -> bool:
    """Whether the worker does a batch while the other one is stopped."""
    os.kill(other.pid, signal.SIGSTOP)
    try:
        job_id = stand.accept("held", [number], f"batch-{number}")
        stand.finished("held", job_id)
        return [line["outcome"] for line in log_lines(worker, "job") if line["job"] == job_id] == ["completed"]
    finally:
        os.kill(other.pid, signal.SIGCONT)
