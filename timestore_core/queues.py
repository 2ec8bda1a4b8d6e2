"""What a queue is to the core: where a piece of work goes when it need not run in the request."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from timestore_core.settings import Settings


@dataclass(frozen=True, slots=True)
class IngestJob:
    """A batch on its way: the dataset's slug, its idempotency key if it has one, and the wire body."""

    dataset_slug: str
    idempotency_key: str | None
    body: bytes


@dataclass(frozen=True, slots=True)
class Ran:
    """The work was done at once; this is what it gave."""

    result: Any


@dataclass(frozen=True, slots=True)
class Queued:
    """The work is accepted and will run later under this id."""

    job_id: str


class Queue(Protocol):
    """Takes work. `run` does it in this thread; a queue that defers it never calls `run`."""

    def enqueue(self, job: IngestJob, run: Callable[[], Any]) -> Ran | Queued:
        """Do the job or accept it. Raises Unavailable when it can do neither."""

    def check(self) -> Mapping[str, Any]:
        """What readiness reports of the queue; raises OSError when it is away."""


QueueFactory = Callable[[Settings], Queue]
