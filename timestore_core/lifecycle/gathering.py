"""Small batches that stand in the catalog become files without anyone asking: each process that publishes them watches.

Above a limit of number, bytes or age the dataset is compacted: by a worker where there is a queue, else in a thread of
this process, one dataset at a time, and of several processes by one. The scheduled compaction gathers them too.
"""

from __future__ import annotations

import threading
import time
from uuid import uuid4

import structlog

from timestore_core.catalog.database import Connection, Row, translated
from timestore_core.catalog.datasets import find_dataset_by_id
from timestore_core.errors import TimestoreError
from timestore_core.lifecycle.operation import Maintenance
from timestore_core.lifecycle.queueing import queue_maintenance
from timestore_core.lifecycle.runs import Request, maintain
from timestore_core.model import Dataset
from timestore_core.partitions.inline_load import InlineCount
from timestore_core.runtime import Runtime

log = structlog.get_logger(__name__)

# What other processes publish, and what grows old, is looked for this often; what this one publishes is known at once.
_EVERY_S = 5.0
# Between two looks at a limit that is exceeded, and between two jobs for the same dataset.
_PAUSE_S = 0.5
_JOB_EVERY_S = 30.0

_NOTHING: Row = {"partitions": 0, "bytes": 0, "oldest_s": 0.0}

_COUNT = """
SELECT dataset_id, count(*) AS partitions, coalesce(sum(file_size_bytes), 0)::bigint AS bytes,
    coalesce(extract(epoch FROM now() - min(created_at)), 0)::float8 AS oldest_s
FROM dataset_partitions
WHERE dataset_id = ANY(%s) AND file_format = 'inline' AND added_version IS NOT NULL AND removed_version IS NULL
GROUP BY dataset_id
"""


class Gatherer:
    """The watch of one process, in a daemon thread from `start` to `stop`."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._stop = threading.Event()
        self._queued_at_s: dict[str, float] = {}
        self._thread = threading.Thread(target=self._watch, name="gather", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """End after the current step; what is not gathered yet stays as it is."""
        self._stop.set()
        self._runtime.inline_load.is_pressing.set()
        self._thread.join(5)

    def _watch(self) -> None:
        pressing = self._runtime.inline_load.is_pressing
        while not self._stop.is_set():
            pressing.wait(_EVERY_S)
            pressing.clear()
            try:
                self.gather()
            except TimestoreError as error:
                log.warning("gathering.postponed", reason=error.message)
            except Exception:
                log.exception("gathering.failed")
            self._stop.wait(_PAUSE_S)

    def gather(self) -> None:
        """Compact, or have compacted, every dataset of this process's that is above a limit."""
        for dataset_id in self._above(self._runtime.inline_load.datasets()):
            if self._stop.is_set():
                return
            dataset = find_dataset_by_id(self._runtime.database, dataset_id)
            if dataset is not None and self._runtime.queue.deferred:
                self._queue(dataset)
            elif dataset is not None:
                self._compact(dataset)

    def _above(self, dataset_ids: list[str]) -> list[str]:
        """Those of the datasets that are above a limit, counted anew in one read."""
        load = self._runtime.inline_load
        if not dataset_ids:
            return []
        for one in dataset_ids:
            load.begin_count(one)

        def work(connection: Connection) -> dict[str, Row]:
            return {row["dataset_id"]: row for row in connection.execute(_COUNT, [dataset_ids])}

        rows = self._runtime.database.read(work)
        counts = {
            one: InlineCount(row["partitions"], row["bytes"], row["oldest_s"])
            for one in dataset_ids
            for row in [rows.get(one, _NOTHING)]
        }
        return [one for one, found in counts.items() if load.counted(one, found)]

    def _queue(self, dataset: Dataset) -> None:
        now_s = time.monotonic()
        if now_s - self._queued_at_s.get(dataset.id, -_JOB_EVERY_S) < _JOB_EVERY_S:
            return
        self._queued_at_s[dataset.id] = now_s
        queue_maintenance(self._runtime, dataset, ["compaction"], "schedule")

    def _compact(self, dataset: Dataset) -> None:
        """Unless another process is at it."""
        lock = [f"timestore-gathering-{dataset.id}"]
        with translated(), self._runtime.database.connection() as connection:
            held = connection.execute("SELECT pg_try_advisory_lock(hashtextextended(%s, 0)) AS held", lock).fetchone()
            if held is None or not held["held"]:
                return
            try:
                if self._above([dataset.id]):
                    maintenance = Maintenance(self._runtime, dataset, "schedule", stop=self._stop)
                    maintain(maintenance, Request(["compaction"], str(uuid4())))
                    self._above([dataset.id])
            finally:
                connection.execute("SELECT pg_advisory_unlock(hashtextextended(%s, 0))", lock)
