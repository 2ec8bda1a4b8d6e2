"""The producing side: jobs in, states and counts out, each within a time limit."""

from __future__ import annotations

import threading
import time
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

import redis.asyncio
import structlog
from bullmq import Job as BullJob
from bullmq import Queue as Bull
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from timestore_bullmq.consumer import Consumer
from timestore_bullmq.loop import LoopThread
from timestore_core.errors import Unavailable
from timestore_core.queues import Handler, JobState, QueueName, State
from timestore_core.settings import Settings

log = structlog.get_logger(__name__)
T = TypeVar("T")

CALL_TIMEOUT_S = 3.0
# After a failure, callers that can do without the queue are told at once for this long.
AWAY_S = 2.0
# Redis must not grow with the work that was done: by age in seconds, and by number.
KEEP_COMPLETED = {"age": 24 * 3600, "count": 1000}
KEEP_FAILED = {"age": 7 * 24 * 3600, "count": 5000}
# For a Node worker that takes our jobs; our own worker delays transient failures without counting them.
ATTEMPTS = 5
BACKOFF = {"type": "exponential", "delay": 1000, "jitter": 0.5}
STATES: Mapping[str, State] = {
    "waiting": "waiting",
    "paused": "waiting",
    "prioritized": "waiting",
    "waiting-children": "waiting",
    "active": "active",
    "completed": "completed",
    "failed": "failed",
    "delayed": "delayed",
}


class BullQueue:
    """The queues of one process, on one event loop thread that starts with the first call."""

    deferred = True

    def __init__(self, settings: Settings) -> None:
        self._url = settings.redis_url.get_secret_value()
        self._names: dict[QueueName, str] = {
            "ingest": settings.ingest_queue_name,
            "lifecycle": settings.lifecycle_queue_name,
        }
        self._shutdown_timeout_s = settings.shutdown_timeout_ms / 1000
        self._loop = LoopThread("bullmq")
        self._client: redis.asyncio.Redis | None = None
        self._queues: dict[QueueName, Bull] = {}
        self._away_until = 0.0

    def enqueue(self, queue: QueueName, job_id: str, name: str, data: Mapping[str, Any], *, delay_ms: int = 0) -> None:
        options = {
            "jobId": job_id,
            "delay": delay_ms,
            "attempts": ATTEMPTS,
            "backoff": BACKOFF,
            "removeOnComplete": KEEP_COMPLETED,
            "removeOnFail": KEEP_FAILED,
        }
        self._call(self._add(queue, name, dict(data), options))

    def state(self, queue: QueueName, job_id: str) -> JobState:
        return self._call(self._state(queue, job_id))

    def counts(self, queue: QueueName) -> Mapping[str, int]:
        return self._call(self._counts(queue))

    def consume(self, queue: QueueName, handler: Handler, concurrency: int, stop: threading.Event) -> None:
        consumer = Consumer(self._url, self._names[queue], handler, concurrency, self._shutdown_timeout_s)
        self._loop.run(consumer.run(stop), timeout_s=None)

    def check(self) -> Mapping[str, Any]:
        return self._call(self._check())

    def close(self) -> None:
        if self._client is not None:
            client, self._client = self._client, None
            self._queues.clear()
            self._loop.run(client.aclose(), CALL_TIMEOUT_S)

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run it within the time limit; while Redis is known to be away, fail at once."""
        if time.monotonic() < self._away_until:
            work.close()
            raise Unavailable("Redis cannot be reached; try again shortly")
        try:
            return self._loop.run(work, CALL_TIMEOUT_S)
        except Unavailable as error:
            self._is_away(error)
            raise
        except Exception as error:
            # Redis' own errors, and whatever the libraries make of an answer that is none.
            self._is_away(error)
            raise Unavailable("Redis cannot be reached, or answers with errors; try again shortly") from error

    def _is_away(self, error: Exception) -> None:
        self._away_until = time.monotonic() + AWAY_S
        log.warning("queue.unreachable", error=f"{type(error).__name__}: {error}"[:300])

    async def _add(self, queue: QueueName, name: str, data: dict[str, Any], options: dict[str, Any]) -> None:
        job = await self._bull(queue).add(name, data, options)
        if job.id != options["jobId"]:
            raise Unavailable("Redis did not answer with the job's id; try again shortly")

    async def _state(self, queue: QueueName, job_id: str) -> JobState:
        bull = self._bull(queue)
        state = STATES.get(await bull.getJobState(job_id) or "", "unknown")
        if state not in ("completed", "failed", "delayed"):
            return JobState(state)
        job: BullJob | None = await bull.getJob(job_id)
        if job is None:
            return JobState("unknown")
        return JobState(state, job.failedReason, state == "delayed", job.returnvalue)

    async def _counts(self, queue: QueueName) -> Mapping[str, int]:
        wanted = ("waiting", "paused", "prioritized", "active", "delayed", "completed", "failed")
        found = await self._bull(queue).getJobCounts(*wanted)
        return {state: int(count) for state, count in found.items()}

    async def _check(self) -> Mapping[str, Any]:
        info = await self._redis().info()
        if info.get("role", "master") != "master":
            raise Unavailable("Redis is a replica, which takes no jobs; REDIS_URL must lead to the primary")
        policy = info.get("maxmemory_policy")
        if policy not in (None, "noeviction"):
            return {"warnings": [f"Redis' maxmemory-policy is {policy}; jobs can be lost unless it is noeviction"]}
        return {}

    def _redis(self) -> redis.asyncio.Redis:
        """The client, made on the loop: few connections, short time limits, no retries of its own."""
        if self._client is None:
            self._client = redis.asyncio.from_url(
                self._url,
                decode_responses=True,
                socket_timeout=CALL_TIMEOUT_S,
                socket_connect_timeout=CALL_TIMEOUT_S,
                retry=Retry(NoBackoff(), 1),
                health_check_interval=15,
                max_connections=16,
            )
        return self._client

    def _bull(self, queue: QueueName) -> Bull:
        if queue not in self._queues:
            self._queues[queue] = Bull(self._names[queue], {"connection": self._redis()})
        return self._queues[queue]
