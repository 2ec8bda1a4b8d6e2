"""The consuming side: jobs to threads, locks renewed on the loop, and a loop that is started again if it ends."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import redis.asyncio
import structlog
from bullmq import Job as BullJob
from bullmq import UnrecoverableError, Worker
from bullmq.custom_errors import DelayedError
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff

from timestore_core.queues import GiveUp, Handler, Job, RetryLater

log = structlog.get_logger(__name__)

LOCK_MS = 60_000
STALLED_CHECK_MS = 15_000
# Crashes of a worker that one job survives in BullMQ's own count; the journal has the last word.
MAX_STALLED = 10
RECONNECT_MS = 1_000
RESTART_AFTER_S = 1.0
# Longer than BullMQ's longest blocking wait (10 s).
SOCKET_TIMEOUT_S = 30
POLL_S = 0.1
# At the end: for a job that is just being fetched, and for giving back one that takes too long.
FETCH_TIMEOUT_S = 2.0
GIVE_BACK_TIMEOUT_S = 2.0


class _Worker(Worker):  # type: ignore[misc]
    """A worker that also repeats what Node's BullMQ 5.x repeats by `queue.add(…, {repeat})`."""

    async def _scheduleNextIteration(self, job: BullJob) -> None:  # noqa: N802
        """Such a job has no template, and the next one would come without data: leave this one's, as Node does."""
        template = self.backend.toKey(f"repeat:{job.repeatJobKey}")
        if await self.client.exists(template):
            await self.client.hsetnx(template, "data", json.dumps(job.data))
        await super()._scheduleNextIteration(job)


class Consumer:
    """Delivers one queue's jobs to a handler until it is told to stop."""

    def __init__(self, url: str, queue: str, handler: Handler, concurrency: int, shutdown_timeout_s: float) -> None:
        self._url = url
        self._queue = queue
        self._handler = handler
        self._concurrency = concurrency
        self._shutdown_timeout_s = shutdown_timeout_s
        self._threads = ThreadPoolExecutor(concurrency, thread_name_prefix=f"job-{queue}")

    async def run(self, stop: threading.Event) -> None:
        """Consume until `stop`; a worker whose loop ended by itself is replaced."""
        while not stop.is_set():
            worker = self._worker()
            running = asyncio.ensure_future(worker.run())
            try:
                while not stop.is_set() and not running.done():
                    await asyncio.sleep(POLL_S)
                if stop.is_set():
                    await self._end(worker)
                else:
                    error = None if running.cancelled() else running.exception()
                    log.error("queue.worker_ended", queue=self._queue, error=repr(error))
            finally:
                await self._abandon(worker, running)
            if not stop.is_set():
                await asyncio.sleep(RESTART_AFTER_S)
        self._threads.shutdown(wait=False)

    def _worker(self) -> Worker:
        worker = _Worker(
            self._queue,
            self._process,
            {
                "connection": self._client(),
                "autorun": False,
                "concurrency": self._concurrency,
                "lockDuration": LOCK_MS,
                "stalledInterval": STALLED_CHECK_MS,
                "maxStalledCount": MAX_STALLED,
                "runRetryDelay": RECONNECT_MS,
                "removeOnComplete": {"age": 24 * 3600, "count": 1000},
                "removeOnFail": {"age": 7 * 24 * 3600, "count": 5000},
            },
        )
        worker.on("error", self._worker_error)
        return worker

    def _client(self) -> redis.asyncio.Redis:
        """One client for commands and for the blocking wait, which take connections of their own from its pool.

        It gives up quickly, so that BullMQ's loop, and a shutdown, are never held by Redis being away.
        """
        return redis.asyncio.from_url(
            self._url,
            decode_responses=True,
            socket_timeout=SOCKET_TIMEOUT_S,
            socket_connect_timeout=3,
            retry=Retry(ExponentialBackoff(cap=0.5, base=0.05), 2),
            health_check_interval=15,
        )

    async def _process(self, job: BullJob, token: str) -> Any:
        """Run the handler in a thread, so that this loop stays free to renew the job's lock."""
        delivered = Job(job.id, job.name, job.data, int(job.timestamp or 0), max(1, int(job.attemptsStarted or 0)))
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._threads, self._handler, delivered)
        except GiveUp as reason:
            raise UnrecoverableError(str(reason)) from None
        except RetryLater as later:
            log.warning("job.delayed", queue=self._queue, job=job.id, delay_ms=later.delay_ms, reason=str(later))
            await job.moveToDelayed(int(time.time() * 1000) + later.delay_ms, token)
            raise DelayedError from None

    def _worker_error(self, error: BaseException, *_: Any) -> None:
        log.warning("queue.worker_error", queue=self._queue, error=f"{type(error).__name__}: {error}"[:300])

    async def _end(self, worker: Worker) -> None:
        """Take nothing new and finish what runs, within the limit; what takes longer goes back to the queue."""
        # BullMQ's own waiting for what runs cannot be interrupted, and misses a job that was just being fetched.
        await worker.pause(do_not_wait_active=True)
        started = time.monotonic()
        while (elapsed_s := time.monotonic() - started) < self._shutdown_timeout_s:
            fetching = sum(not one.done() for one in worker.processing) - len(worker.jobs)
            if not worker.jobs and (fetching <= 0 or elapsed_s > FETCH_TIMEOUT_S):
                break
            await asyncio.sleep(POLL_S)
        taken = [
            one.result() for one in worker.processing if one.done() and not one.cancelled() and not one.exception()
        ]
        unfinished = [*worker.jobs, *((job, job.token) for job in taken if isinstance(job, BullJob))]
        if unfinished:
            await self._give_back(unfinished)

    async def _give_back(self, unfinished: Sequence[tuple[BullJob, str]]) -> None:
        """Let another worker have them now; where that fails it has them when their locks expire."""
        log.warning("queue.given_back", queue=self._queue, jobs=[job.id for job, _ in unfinished])
        now_ms = int(time.time() * 1000)
        giving = [asyncio.ensure_future(job.moveToDelayed(now_ms, token)) for job, token in unfinished]
        await asyncio.wait(giving, timeout=GIVE_BACK_TIMEOUT_S)
        for one in giving:
            if not one.cancel() and one.exception() is not None:
                log.warning("queue.not_given_back", queue=self._queue, error=repr(one.exception()))

    async def _abandon(self, worker: Worker, running: asyncio.Future[Any]) -> None:
        """Close the worker's connections, whatever state they are in."""
        try:
            await asyncio.wait_for(worker.close(force=True), 5)
        except Exception as error:
            log.debug("queue.close_failed", error=repr(error))
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
