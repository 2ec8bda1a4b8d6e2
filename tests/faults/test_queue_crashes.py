"""What crashes a worker again and again is put aside, and nothing else is; a loop that ends is begun again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.queue_stand import QueueStand, log_lines, queue_stand, write_plugin
from tests.service import Service, wait_until

pytestmark = pytest.mark.extended

# Crashes the worker that decodes a batch of the dataset `poison` while the file `armed` is there. Locks are short, so
# that a crash is found after a second, and a batch is put aside after five.
POISON = """
import os
import signal
from pathlib import Path

import timestore_bullmq.consumer
import timestore_core.ingest.jobs
from timestore_core.hookspecs import hookimpl

ARMED = Path(__file__).parent / "armed"
decode_batch = timestore_core.ingest.jobs.decode_batch


def decode(runtime, slug, *others):
    if slug == "poison" and ARMED.exists():
        os.kill(os.getpid(), signal.SIGKILL)
    return decode_batch(runtime, slug, *others)


timestore_core.ingest.jobs.decode_batch = decode
timestore_core.ingest.jobs.MAX_CRASHES = 5
timestore_bullmq.consumer.LOCK_MS = 1000
timestore_bullmq.consumer.STALLED_CHECK_MS = 500


@hookimpl
def timestore_step(step):
    pass
"""

# Ends BullMQ's loop from within, as an unexpected error does, when the file `armed` is there.
ENDING = """
import asyncio
from pathlib import Path

import bullmq
from timestore_core.hookspecs import hookimpl

ARMED = Path(__file__).parent / "armed"
run = bullmq.Worker.run


async def run_until_armed(worker):
    running = asyncio.ensure_future(run(worker))
    while not running.done():
        if ARMED.exists():
            running.cancel()
            await asyncio.wait([running])
            how = ARMED.read_text()
            ARMED.unlink()
            if how == "raise":
                raise RuntimeError("unexpected")
            return
        await asyncio.sleep(0.02)


bullmq.Worker.run = run_until_armed


@hookimpl
def timestore_step(step):
    pass
"""


@pytest.mark.slow
def test_a_batch_that_crashes_every_worker_fails_in_the_end_and_alone(
    make_service: Callable[..., Service], postgres_url: str, tmp_path: Path
) -> None:
    plugin = write_plugin(tmp_path / "poison", "poison", POISON)
    armed = tmp_path / "poison" / "armed"
    armed.touch()
    with queue_stand(make_service, postgres_url, tmp_path) as stand:
        stand.service.start()
        first = [stand.accept("others", [number]) for number in range(10)]
        poison = stand.accept("poison", [1], "key")
        others = first + [stand.accept("others", [number]) for number in range(10, 20)]
        # Coalescing workers have the most batches in hand when one of them crashes.
        for worker in [stand.worker(**plugin, TIMESTORE_INGEST_COALESCE="on") for _ in range(2)]:
            worker.start(wait=False)

        def put_aside() -> bool:
            supervise(stand)
            return stand.status("poison", poison)["status"] == "failed"

        wait_until(put_aside, f"the batch to be put aside; the logs are in {stand.home}", 180)
        failed = stand.status("poison", poison)
        supervise(stand)
        done = [stand.finished("others", job_id) for job_id in others]

        assert failed["willRetry"] is False
        assert "5 times" in failed["reason"]
        assert {one["status"] for one in done} == {"completed"}, done
        assert stand.visible("others") == list(range(20))
        armed.unlink()
        assert stand.accept("poison", [1], "key") == poison
        assert stand.finished("poison", poison)["status"] == "completed"
        assert stand.visible("poison") == [1]


def supervise(stand: QueueStand) -> None:
    """Start again what crashed, as a supervisor does."""
    for worker in stand.workers_made:
        if not worker.running:
            worker.run()


def test_a_consuming_loop_that_ends_by_itself_is_begun_again(
    make_service: Callable[..., Service], postgres_url: str, tmp_path: Path
) -> None:
    plugin = write_plugin(tmp_path / "ending", "ending", ENDING)
    armed = tmp_path / "ending" / "armed"
    with queue_stand(make_service, postgres_url, tmp_path) as stand:
        stand.service.start()
        worker = stand.worker(**plugin).start()
        pid = worker.pid
        for number, how in enumerate(["raise", "return"]):
            stand.accept("ending", [number])
            stand.wait_for("ending", list(range(number + 1)))
            armed.write_text(how)
            wait_until(lambda: not armed.exists(), "the loop to end")

        stand.accept("ending", [2])
        stand.wait_for("ending", [0, 1, 2])

        assert worker.pid == pid
        assert len(log_lines(worker, "queue.worker_ended")) == 2
        assert worker.stop() == 0
