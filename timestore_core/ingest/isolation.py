"""Batches whose runs ended in crashes run alone: what runs beside them would be counted, and put aside, with them."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from timestore_core.errors import TimestoreError
from timestore_core.ingest import journal
from timestore_core.ingest.acceptance import entry_id_of
from timestore_core.queues import Handler, Job
from timestore_core.runtime import Runtime

ALONE_AFTER_CRASHES = 2


class Isolated:
    """A handler of jobs under which a batch that crashed before has its process to itself. One for each process."""

    def __init__(self, runtime: Runtime, handler: Handler) -> None:
        self._runtime = runtime
        self._handler = handler
        self._changed = threading.Condition()
        self._beside = 0
        self._wanting_alone = 0
        self._alone = False

    def perform(self, job: Job) -> Mapping[str, Any]:
        """As the handler, after waiting for whatever must not run at the same time."""
        with self._by_itself() if self._is_suspect(job) else self._beside_others():
            return self._handler(job)

    def _is_suspect(self, job: Job) -> bool:
        """Only a job that comes again is looked up: the first delivery of most is the only one."""
        if job.starts < 2:
            return False
        try:
            entry = journal.read(self._runtime.database, entry_id_of(job.id))
        except TimestoreError:
            # The handler meets the same trouble, and says what becomes of the job.
            return False
        return entry is not None and entry.attempts >= ALONE_AFTER_CRASHES

    @contextmanager
    def _beside_others(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._alone and not self._wanting_alone)
            self._beside += 1
        try:
            yield
        finally:
            with self._changed:
                self._beside -= 1
                self._changed.notify_all()

    @contextmanager
    def _by_itself(self) -> Iterator[None]:
        with self._changed:
            self._wanting_alone += 1
            self._changed.wait_for(lambda: not self._alone and not self._beside)
            self._wanting_alone -= 1
            self._alone = True
        try:
            yield
        finally:
            with self._changed:
                self._alone = False
                self._changed.notify_all()
