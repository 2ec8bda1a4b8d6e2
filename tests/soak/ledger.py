"""The writers' own record: which batches they meant to send, and what they were told of each."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

from tests.soak.batches import Batch, Key

_HOUR_US = 3_600_000_000
_LATE = 0.05


class Ledger:
    """Thread-safe. Batches are drawn here, each with a range of time that no other batch of its dataset has."""

    def __init__(self, report: Callable[[str], None]) -> None:
        self._report = report
        self._lock = threading.Lock()
        self._batches: list[Batch] = []
        self._versions: dict[int, int] = {}
        self._told: list[int] = []
        self._fresh: set[int] = set()
        self._known: set[str] = set()
        self._next_us: dict[str, int] = {}
        self._before_us: dict[str, int] = {}

    def draw(self, slug: str, key: Key, rng: random.Random, count: int) -> Batch:
        """A new batch of now; sometimes one of long ago, as late data is."""
        step_us = rng.choice([500, 997, 1000, 2000])
        late, notes = rng.random() < _LATE, rng.random() < 0.7
        with self._lock:
            now_us = time.time_ns() // 1000
            if late:
                end_us = self._before_us.get(slug, now_us - _HOUR_US) - 1
                start_us = end_us - (count - 1) * step_us
                self._before_us[slug] = start_us
            else:
                start_us = max(now_us, self._next_us.get(slug, 0))
                self._next_us[slug] = start_us + count * step_us
            number = len(self._batches)
            # The first one of a dataset has every column, and so has the dataset from then on.
            notes = notes or slug not in self._known
            self._known.add(slug)
            batch = Batch(number, slug, key, start_us, step_us, count, notes)
            self._batches.append(batch)
        return batch

    def batch_of(self, idempotency_key: str) -> Batch | None:
        """The batch that was sent under this key."""
        name, _, number = idempotency_key.rpartition("-")
        if name != "batch" or not number.isdigit() or int(number) >= len(self._batches):
            return None
        return self._batches[int(number)]

    def told(self, batch: Batch, version: int, *, replayed: bool) -> None:
        """The service answered that the batch is published, by this version."""
        with self._lock:
            if batch.number not in self._versions:
                self._told.append(batch.number)
            before = self._versions.setdefault(batch.number, version)
            again = not replayed and batch.number in self._fresh
            if not replayed:
                self._fresh.add(batch.number)
        if before != version:
            self._report(f"{batch.idempotency_key}: acknowledged in version {version}, before that in version {before}")
        if again:
            self._report(f"doubled: {batch.idempotency_key} was taken as new twice, in version {version}")

    def is_acknowledged(self, batch: Batch) -> bool:
        return batch.number in self._versions

    def acknowledged(self) -> dict[Batch, int]:
        """The batches that were acknowledged, with their versions."""
        with self._lock:
            return {self._batches[number]: version for number, version in self._versions.items()}

    def unacknowledged(self) -> list[Batch]:
        """Those whose answer never came."""
        with self._lock:
            return [one for one in self._batches if one.number not in self._versions]

    def some(self, rng: random.Random) -> Batch | None:
        """Any batch that was acknowledged before, or None where there is none yet."""
        with self._lock:
            return self._batches[rng.choice(self._told)] if self._told else None
