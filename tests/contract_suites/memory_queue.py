"""A queue in this process's memory: the least that does what a queue must."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from timestore_core.queues import GiveUp, Handler, Job, JobState, QueueName, RetryLater


@dataclass
class _Entry:
    name: str
    data: Mapping[str, Any]
    sent_ms: int
    due: float
    state: JobState
    starts: int = 0


class MemoryQueue:
    """Forgets everything with its process."""

    deferred = True

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: dict[tuple[str, str], _Entry] = {}

    def enqueue(self, queue: QueueName, job_id: str, name: str, data: Mapping[str, Any], *, delay_ms: int = 0) -> None:
        state = JobState("delayed" if delay_ms else "waiting")
        entry = _Entry(name, data, int(time.time() * 1000), time.monotonic() + delay_ms / 1000, state)
        with self._lock:
            self._jobs.setdefault((queue, job_id), entry)

    def state(self, queue: QueueName, job_id: str) -> JobState:
        with self._lock:
            entry = self._jobs.get((queue, job_id))
            return entry.state if entry else JobState("unknown")

    def counts(self, queue: QueueName) -> Mapping[str, int]:
        with self._lock:
            return Counter(entry.state.state for (name, _), entry in self._jobs.items() if name == queue)

    def consume(self, queue: QueueName, handler: Handler, concurrency: int, stop: threading.Event) -> None:
        slots = threading.Semaphore(concurrency)
        with ThreadPoolExecutor(concurrency) as pool:
            while not stop.wait(0.01):
                while slots.acquire(blocking=False):
                    taken = self._take(queue)
                    if taken is None:
                        slots.release()
                        break
                    pool.submit(self._run, *taken, handler).add_done_callback(lambda _: slots.release())

    def check(self) -> Mapping[str, Any]:
        return {"mode": "memory"}

    def close(self) -> None:
        pass

    def _take(self, queue: QueueName) -> tuple[str, _Entry] | None:
        with self._lock:
            for (name, job_id), entry in self._jobs.items():
                if name == queue and entry.state.state in ("waiting", "delayed") and entry.due <= time.monotonic():
                    entry.state = JobState("active")
                    entry.starts += 1
                    return job_id, entry
        return None

    def _run(self, job_id: str, entry: _Entry, handler: Handler) -> None:
        try:
            result = handler(Job(job_id, entry.name, entry.data, entry.sent_ms, entry.starts))
            entry.state = JobState("completed", result=result)
        except RetryLater as later:
            entry.due = time.monotonic() + later.delay_ms / 1000
            entry.state = JobState("delayed", str(later), True)
        except GiveUp as error:
            entry.state = JobState("failed", str(error))
