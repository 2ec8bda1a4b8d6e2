"""What every queue is expected to do, of what can be seen from one process."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar
from uuid import uuid4

import pytest

from timestore_core.errors import TimestoreError
from timestore_core.queues import GiveUp, Handler, Job, JobState, Queue, QueueName, RetryLater

_DATA = {"datasetSlug": "cpu", "rows": [1, 2.5, None, "ä😀", True], "deep": {"a": {"b": []}}}


class QueueContract:
    """Give the fixture `queue`, anew and empty for each test. A queue that defers nothing has fewer tests."""

    timeout_s: ClassVar[float] = 30.0
    """How long a job may take until it is delivered."""

    @pytest.fixture
    def queue(self) -> Queue:
        raise NotImplementedError(f"{type(self).__name__} needs a fixture `queue`")

    @pytest.fixture
    def deferring(self, queue: Queue) -> Queue:
        if not queue.deferred:
            pytest.skip("this queue defers nothing")
        return queue

    def test_it_says_whether_it_defers(self, queue: Queue) -> None:
        assert isinstance(queue.deferred, bool)

    def test_readiness_is_told_of_it(self, queue: Queue) -> None:
        found = queue.check()

        assert isinstance(found, Mapping)
        assert isinstance(found.get("warnings", []), list)

    def test_it_may_be_closed_twice(self, queue: Queue) -> None:
        queue.close()
        queue.close()

    def test_a_job_that_it_never_heard_of_is_unknown(self, queue: Queue) -> None:
        assert queue.state("ingest", str(uuid4())).state == "unknown"

    def test_its_counts_are_numbers_by_state(self, queue: Queue) -> None:
        names: tuple[QueueName, ...] = ("ingest", "lifecycle")
        for name in names:
            assert all(isinstance(count, int) and count >= 0 for count in queue.counts(name).values())

    def test_where_nothing_is_deferred_nothing_can_be_queued(self, queue: Queue) -> None:
        if queue.deferred:
            pytest.skip("this queue defers")

        with pytest.raises(TimestoreError):
            queue.enqueue("ingest", "job-1", "job", {})
        with pytest.raises(TimestoreError):
            queue.consume("ingest", lambda _: {}, 1, threading.Event())

    def test_a_job_is_delivered_as_it_was_sent_and_its_result_is_known(self, deferring: Queue) -> None:
        seen: list[Job] = []

        def handler(job: Job) -> Mapping[str, Any]:
            seen.append(job)
            return {"rows": 3}

        deferring.enqueue("ingest", "job-1", "the name", _DATA)
        assert deferring.state("ingest", "job-1").state == "waiting"
        with consuming(deferring, handler):
            found = self._settled(deferring, "job-1")

        assert (found.state, found.result) == ("completed", {"rows": 3})
        assert [(job.id, job.name, dict(job.data), job.starts) for job in seen] == [("job-1", "the name", _DATA, 1)]
        assert abs(seen[0].timestamp_ms - time.time() * 1000) < 600_000

    def test_an_id_that_is_known_is_not_added_again(self, deferring: Queue) -> None:
        seen: list[Job] = []
        for number in range(3):
            deferring.enqueue("ingest", "job-1", "job", {"number": number})

        def handler(job: Job) -> Mapping[str, Any]:
            seen.append(job)
            return {}

        with consuming(deferring, handler):
            self._settled(deferring, "job-1")
            deferring.enqueue("ingest", "job-1", "job", {"number": 4})
            deferring.enqueue("ingest", "job-2", "job", {})
            self._settled(deferring, "job-2")

        assert [dict(job.data) for job in seen if job.id == "job-1"] == [{"number": 0}]

    def test_the_queues_are_apart(self, deferring: Queue) -> None:
        deferring.enqueue("lifecycle", "job-1", "job", {})

        assert deferring.state("ingest", "job-1").state == "unknown"
        assert deferring.state("lifecycle", "job-1").state == "waiting"

    def test_a_job_that_gives_up_has_failed_for_good(self, deferring: Queue) -> None:
        starts: list[int] = []

        def handler(job: Job) -> Mapping[str, Any]:
            starts.append(job.starts)
            raise GiveUp("the dataset is gone")

        deferring.enqueue("ingest", "job-1", "job", {})
        with consuming(deferring, handler):
            found = self._settled(deferring, "job-1")

        assert (found.state, found.will_retry, starts) == ("failed", False, [1])
        assert "the dataset is gone" in (found.reason or "")

    def test_a_job_to_be_retried_later_comes_again(self, deferring: Queue) -> None:
        starts: list[int] = []

        def handler(job: Job) -> Mapping[str, Any]:
            starts.append(job.starts)
            if len(starts) == 1:
                raise RetryLater("storage is away", 50)
            return {}

        deferring.enqueue("ingest", "job-1", "job", {})
        with consuming(deferring, handler):
            found = self._settled(deferring, "job-1")

        assert found.state == "completed"
        assert starts == [1, 2]

    def test_a_delayed_job_comes_no_earlier(self, deferring: Queue) -> None:
        seen: list[float] = []
        sent = time.monotonic()
        deferring.enqueue("ingest", "job-1", "job", {}, delay_ms=700)
        assert deferring.state("ingest", "job-1").state == "delayed"

        def handler(_: Job) -> Mapping[str, Any]:
            seen.append(time.monotonic())
            return {}

        with consuming(deferring, handler):
            self._settled(deferring, "job-1")

        assert seen[0] - sent >= 0.65

    def test_jobs_run_at_once_and_no_more_than_are_allowed(self, deferring: Queue) -> None:
        lock, running, most = threading.Lock(), [0], [0]

        def handler(_: Job) -> Mapping[str, Any]:
            with lock:
                running[0] += 1
                most[0] = max(most[0], running[0])
            time.sleep(0.1)
            with lock:
                running[0] -= 1
            return {}

        for number in range(8):
            deferring.enqueue("ingest", f"job-{number}", "job", {})
        with consuming(deferring, handler, concurrency=3):
            for number in range(8):
                assert self._settled(deferring, f"job-{number}").state == "completed"

        assert 1 < most[0] <= 3

    def test_what_runs_is_finished_when_it_is_told_to_stop(self, deferring: Queue) -> None:
        begun, finished = threading.Event(), threading.Event()

        def handler(_: Job) -> Mapping[str, Any]:
            begun.set()
            time.sleep(0.5)
            finished.set()
            return {}

        deferring.enqueue("ingest", "job-1", "job", {})
        with consuming(deferring, handler):
            assert begun.wait(self.timeout_s)

        assert finished.is_set()
        assert self._settled(deferring, "job-1").state == "completed"

    def _settled(self, queue: Queue, job_id: str) -> JobState:
        """Where the job stands once nothing more will happen to it."""
        deadline = time.monotonic() + self.timeout_s
        while time.monotonic() < deadline:
            found = queue.state("ingest", job_id)
            if found.state == "completed" or (found.state == "failed" and not found.will_retry):
                return found
            time.sleep(0.02)
        pytest.fail(f"{job_id} is still {queue.state('ingest', job_id)} after {self.timeout_s} s")


@contextmanager
def consuming(queue: Queue, handler: Handler, concurrency: int = 1) -> Iterator[None]:
    """Deliver what comes for the time of the block; what runs at its end is finished."""
    stop = threading.Event()
    thread = threading.Thread(target=queue.consume, args=("ingest", handler, concurrency, stop))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(60)
        assert not thread.is_alive(), "consume does not return after `stop` is set"
