"""What a queue is to the core: where work goes when it does not run in the request, and where it comes from."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from timestore_core.settings import Settings

QueueName = Literal["ingest", "lifecycle"]
State = Literal["waiting", "active", "completed", "failed", "delayed", "unknown"]


@dataclass(frozen=True, slots=True)
class Job:
    """One delivery of a job. `data` is what the producer sent; `starts` counts deliveries, this one included."""

    id: str
    name: str
    data: Mapping[str, Any]
    timestamp_ms: int
    starts: int


@dataclass(frozen=True, slots=True)
class JobState:
    """Where a job stands. `will_retry` is only meaningful for one that failed."""

    state: State
    reason: str | None = None
    will_retry: bool = False
    result: Any = None


class RetryLater(Exception):
    """Raised by a handler: nothing is wrong with the job, deliver it again after `delay_ms`."""

    def __init__(self, reason: str, delay_ms: int) -> None:
        super().__init__(reason)
        self.delay_ms = delay_ms


class GiveUp(Exception):
    """Raised by a handler: the job can never succeed; its text is the reason that producers see."""


Handler = Callable[[Job], Mapping[str, Any]]


class Queue(Protocol):
    """One process's way to the queues. Thread-safe. Every method raises Unavailable while the queue is away.

    `deferred` says whether work is queued at all: where it is False the caller does it at once and calls nothing
    else.
    """

    deferred: bool

    def enqueue(self, queue: QueueName, job_id: str, name: str, data: Mapping[str, Any], *, delay_ms: int = 0) -> None:
        """Add a job. One whose id is still known is silently not added again."""

    def state(self, queue: QueueName, job_id: str) -> JobState:
        """Where the job stands; `unknown` where the queue has never heard of it, or forgot it."""

    def counts(self, queue: QueueName) -> Mapping[str, int]:
        """Jobs by state."""

    def consume(self, queue: QueueName, handler: Handler, concurrency: int, stop: threading.Event) -> None:
        """Deliver jobs to the handler, in threads, until `stop` is set; then finish what runs and return."""

    def check(self) -> Mapping[str, Any]:
        """What readiness reports of the queue; a list under `warnings` where something is unwise."""

    def close(self) -> None:
        """Give connections back."""


QueueFactory = Callable[[Settings], Queue]
