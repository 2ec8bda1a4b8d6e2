"""The queue `inline`: there is none, work runs in the request that brings it. Selected by `REDIS_URL=inline`."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, NoReturn

from timestore_core.errors import ConfigurationError
from timestore_core.hookspecs import hookimpl
from timestore_core.queues import Handler, JobState, QueueFactory, QueueName
from timestore_core.settings import Settings


class InlineQueue:
    """Defers nothing."""

    deferred = False

    def __init__(self, settings: Settings) -> None:
        del settings

    def enqueue(
        self, queue: QueueName, job_id: str, name: str, data: Mapping[str, Any], *, delay_ms: int = 0
    ) -> NoReturn:
        del queue, job_id, name, data, delay_ms
        raise _no_queue()

    def state(self, queue: QueueName, job_id: str) -> JobState:
        del queue, job_id
        return JobState("unknown")

    def counts(self, queue: QueueName) -> Mapping[str, int]:
        del queue
        return {}

    def consume(self, queue: QueueName, handler: Handler, concurrency: int, stop: threading.Event) -> NoReturn:
        del queue, handler, concurrency, stop
        raise _no_queue()

    def check(self) -> Mapping[str, Any]:
        return {"mode": "inline"}

    def close(self) -> None:
        pass


def _no_queue() -> ConfigurationError:
    return ConfigurationError("REDIS_URL=inline: there is no queue; set REDIS_URL to the Redis that the producers use")


@hookimpl
def timestore_queues() -> Mapping[str, QueueFactory]:
    return {"inline": InlineQueue}
