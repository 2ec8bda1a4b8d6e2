"""The queue `inline`: work runs in the request that brings it. Selected by `REDIS_URL=inline`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from timestore_core.hookspecs import hookimpl
from timestore_core.queues import IngestJob, QueueFactory, Ran
from timestore_core.settings import Settings


class InlineQueue:
    """Does each job at once."""

    def __init__(self, settings: Settings) -> None:
        del settings

    def enqueue(self, job: IngestJob, run: Callable[[], Any]) -> Ran:  # noqa: ARG002
        return Ran(run())

    def check(self) -> Mapping[str, Any]:
        return {}


@hookimpl
def timestore_queues() -> Mapping[str, QueueFactory]:
    return {"inline": InlineQueue}
