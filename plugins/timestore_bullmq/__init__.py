"""The queues that Node services share: BullMQ on Redis. Selected by `REDIS_URL=redis://…` (or `rediss://…`)."""

from __future__ import annotations

from collections.abc import Mapping

from timestore_bullmq.queue import BullQueue
from timestore_core.hookspecs import hookimpl
from timestore_core.queues import QueueFactory


@hookimpl
def timestore_queues() -> Mapping[str, QueueFactory]:
    return {"redis": BullQueue, "rediss": BullQueue}
