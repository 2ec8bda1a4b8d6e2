"""How many queries a process runs at once: a few, a few more wait a moment, the others are told to come again.

Every request holds one of the server's threads while it runs or waits, and while its answer is sent. Queries may hold
only so many of them, so that batches, health and administration always find one.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from timestore_core.errors import TooManyRequests
from timestore_core.settings import Settings

_RETRY_AFTER_S = 1


class Admission:
    """Admits queries in the order in which they come. Thread-safe."""

    def __init__(self, running: int, admitted: int, wait_ms: int) -> None:
        self._free = running
        self._running = running
        self._admitted_at_most = max(admitted, running)
        self._wait_s = wait_ms / 1000
        self._admitted = 0
        self._lock = threading.Lock()
        self._waiting: deque[threading.Event] = deque()

    @contextmanager
    def admitted(self) -> Iterator[Turn]:
        """A turn for one query, which waits for its first run. Raises TooManyRequests where that takes too long."""
        with self._lock:
            if self._admitted >= self._admitted_at_most:
                raise self._refusal()
            self._admitted += 1
        turn = Turn(self)
        try:
            yield turn
        finally:
            turn.end()
            with self._lock:
                self._admitted -= 1

    def begin(self, *, again: bool) -> None:
        """Wait for one of the runs to become free; one that only goes on goes first, and waits as long as it takes."""
        mine = threading.Event()
        with self._lock:
            if self._free and (again or not self._waiting):
                self._free -= 1
                return
            if again:
                self._waiting.appendleft(mine)
            else:
                self._waiting.append(mine)
        if mine.wait(None if again else self._wait_s):
            return
        with self._lock:
            if not mine.is_set():
                self._waiting.remove(mine)
                raise self._refusal()

    def end(self) -> None:
        """One of the runs becomes free: the first that waits has it."""
        with self._lock:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._free += 1

    def _refusal(self) -> TooManyRequests:
        return TooManyRequests(
            f"{self._running} queries run (TIMESTORE_QUERY_CONCURRENCY) and more than may wait "
            "(TIMESTORE_QUERY_QUEUE, TIMESTORE_QUERY_QUEUE_WAIT_MS); try again shortly",
            code="too_many_queries",
            retry_after_s=_RETRY_AFTER_S,
        )


class Turn:
    """One query's place. For one thread at a time."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._runs = False

    def begin(self) -> None:
        """Wait for the first run. Raises TooManyRequests where that takes too long."""
        if not self._runs:
            self._admission.begin(again=False)
            self._runs = True

    def end(self) -> None:
        """Nothing more runs for this query."""
        if self._runs:
            self._runs = False
            self._admission.end()

    @contextmanager
    def away(self) -> Iterator[None]:
        """Let another query run while this one's bytes are sent. Where that fails, this one runs no more."""
        was = self._runs
        self.end()
        yield
        if was:
            self._admission.begin(again=True)
            self._runs = True


def admission(settings: Settings) -> Admission:
    """A process's admission: a quarter of its request threads stays free of queries."""
    most = max(1, settings.http_threads * 3 // 4)
    running = min(settings.query_concurrency, most)
    return Admission(running, min(running + settings.query_queue, most), settings.query_queue_wait_ms)


def select_admission(settings: Settings) -> Admission:
    """A process's admission of SQL statements, each of which has a process of its own."""
    running = settings.query_sql_processes
    return Admission(running, running + settings.query_queue, settings.query_queue_wait_ms)
