"""Time limits and vanished clients: one thread interrupts the statements that nobody should wait for."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import duckdb

from timestore_core.errors import QueryCancelled, QueryTimeout

_INTERVAL_S = 0.025


@dataclass(slots=True)
class Watched:
    """A cursor whose statements are watched, and until when."""

    cursor: duckdb.DuckDBPyConnection
    timeout_s: float
    deadline: float
    is_gone: Callable[[], bool] | None
    verdict: str | None = None

    def restart(self) -> None:
        """The time limit holds anew from here on: the next statement begins."""
        self.deadline = time.monotonic() + self.timeout_s

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The time of the block does not count: what was found is handed out, as fast as somebody takes it."""
        left, self.deadline = self.deadline - time.monotonic(), math.inf
        try:
            yield
        finally:
            self.deadline = time.monotonic() + left


class Watchdog:
    """Watches running statements. Its thread starts with the first one and sleeps while there is none."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._watched: dict[int, Watched] = {}
        self._thread: threading.Thread | None = None

    @contextmanager
    def watching(
        self, cursor: duckdb.DuckDBPyConnection, timeout_ms: int, is_gone: Callable[[], bool] | None
    ) -> Iterator[Watched]:
        """Interrupt what the cursor runs in this block once the time is over or the client has gone.

        Raises QueryTimeout or QueryCancelled in place of the engine's own interruption.
        """
        entry = Watched(cursor, timeout_ms / 1000, time.monotonic() + timeout_ms / 1000, is_gone)
        self._add(entry)
        try:
            yield entry
        except duckdb.InterruptException as error:
            if entry.verdict == "gone":
                raise QueryCancelled("the client went away") from error
            raise QueryTimeout(
                f"the query took longer than {timeout_ms} ms (TIMESTORE_QUERY_TIMEOUT_MS) and was stopped; "
                "ask for a shorter time range, fewer columns or larger buckets"
            ) from error
        finally:
            with self._condition:
                self._watched.pop(id(entry), None)

    def _add(self, entry: Watched) -> None:
        with self._condition:
            self._watched[id(entry)] = entry
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="query-watchdog", daemon=True)
                self._thread.start()
            self._condition.notify()

    def _run(self) -> None:
        while True:
            with self._condition:
                while not self._watched:
                    self._condition.wait()
                self._look(time.monotonic())
            time.sleep(_INTERVAL_S)

    def _look(self, now: float) -> None:
        for entry in self._watched.values():
            if entry.verdict is None and now >= entry.deadline:
                entry.verdict = "late"
            elif entry.verdict is None and entry.is_gone is not None and entry.is_gone():
                entry.verdict = "gone"
            if entry.verdict is not None:
                # Again each round: an interruption between two statements would otherwise be lost.
                with suppress(duckdb.Error):
                    entry.cursor.interrupt()
