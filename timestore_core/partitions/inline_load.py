"""How much of each dataset stands in the catalog, as far as this process knows: what it published, and what it counted.

Publishing notes each batch; whoever gathers them into files counts anew. Neither asks the catalog within a request.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from timestore_core.settings import Settings

# Above the limits compaction is asked for; above so many times the limits new batches are files.
_FULL = 2


@dataclass(frozen=True, slots=True)
class InlineCount:
    """The partitions of a dataset that stand in the catalog: how many, their bytes, and the age of the oldest."""

    partitions: int
    bytes: int
    oldest_s: float = 0.0


@dataclass(slots=True)
class _Known:
    """What was counted, and what was published since the count began."""

    partitions: int = 0
    bytes: int = 0
    new_partitions: int = 0
    new_bytes: int = 0


class InlineLoad:
    """Thread-safe."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._known: dict[str, _Known] = {}
        self.is_pressing = threading.Event()

    def note(self, dataset_id: str, size_bytes: int) -> None:
        """A batch was published into the catalog. Above a limit `is_pressing` is set."""
        with self._lock:
            known = self._known.setdefault(dataset_id, _Known())
            known.new_partitions += 1
            known.new_bytes += size_bytes
            if self._exceeds(known, 1):
                self.is_pressing.set()

    def is_full(self, dataset_id: str) -> bool:
        """Whether so much stands in the catalog that new batches are better files."""
        with self._lock:
            known = self._known.get(dataset_id)
            return known is not None and self._exceeds(known, _FULL)

    def datasets(self) -> list[str]:
        """The datasets of which something is or may be in the catalog."""
        with self._lock:
            return list(self._known)

    def begin_count(self, dataset_id: str) -> None:
        """What is noted from now on is not in the count that follows, or is in it too: it is never missed."""
        with self._lock:
            known = self._known.setdefault(dataset_id, _Known())
            known.partitions += known.new_partitions
            known.bytes += known.new_bytes
            known.new_partitions = known.new_bytes = 0

    def counted(self, dataset_id: str, count: InlineCount) -> bool:
        """Whether what was counted is above a limit, its age included. Nothing at all is forgotten."""
        with self._lock:
            known = self._known.setdefault(dataset_id, _Known())
            known.partitions, known.bytes = count.partitions, count.bytes
            if not count.partitions and not known.new_partitions:
                del self._known[dataset_id]
            too_old = count.partitions > 0 and count.oldest_s > self._settings.ingest_inline_max_age_seconds
            return too_old or self._exceeds(known, 1)

    def _exceeds(self, known: _Known, times: int) -> bool:
        settings = self._settings
        return (
            known.partitions + known.new_partitions > times * settings.ingest_inline_max_partitions
            or known.bytes + known.new_bytes > times * settings.ingest_inline_max_total_bytes
        )
