"""The bounded registry of files that an instance keeps attached, least recently used out first.

What DuckDB has attached it has open: removed, it would still fill the disk. So a file of the cache is locked against
removal for as long as it is attached, and such files have a limit in bytes of their own, which leaves the cache room.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path

import duckdb

from timestore_core.partitions.cache_files import locked_open


@dataclass(frozen=True, slots=True)
class Attachment:
    """One file to be attached: its alias, which is unique for ever, and the two statements.

    `cached` is its path where it lies in the cache; whoever asks for it holds it meanwhile.
    """

    alias: str
    attach: str
    detach: str
    cached: Path | None = None


@dataclass(slots=True)
class _Entry:
    attachment: Attachment
    pins: int = 0
    ready: threading.Event = field(default_factory=threading.Event)
    error: Exception | None = None
    forgotten: bool = False
    lock: FileIO | None = None
    locked_bytes: int = 0


class AttachedFiles:
    """Attaches each file once, however many queries want it, and never detaches one that is in use.

    `detaching` is told of the alias of each that is about to be.
    """

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        capacity: int,
        cached_bytes: int,
        detaching: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._connection = connection
        self._detaching = detaching
        self._detacher = connection.cursor()
        self._capacity = capacity
        self._cached_bytes = cached_bytes
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, _Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    @contextmanager
    def pinned(
        self, attachments: Sequence[Attachment], failed: Callable[[Attachment, Exception], Exception]
    ) -> Iterator[None]:
        """Keep the files attached for the time of the block.

        Where one cannot be attached, `failed` makes the error that is raised.
        """
        taken, new = self._take(attachments)
        try:
            self._attach(new)
            for entry in taken:
                entry.ready.wait()
                if entry.error is not None:
                    raise failed(entry.attachment, entry.error) from entry.error
            yield
        finally:
            self._release(taken)

    def forget(self, alias: str) -> None:
        """Detach this file as soon as no query uses it, so that the next one opens what is there then."""
        with self._lock:
            entry = self._entries.get(alias)
            if entry is not None:
                entry.forgotten = True
                self._drop_if_forgotten(entry)

    def close(self) -> None:
        """Give back the locks, once the connection is closed."""
        with self._lock:
            for entry in self._entries.values():
                _unlock(entry)
            self._entries.clear()

    def _take(self, attachments: Sequence[Attachment]) -> tuple[list[_Entry], list[_Entry]]:
        taken, new = [], []
        with self._lock:
            for attachment in attachments:
                entry = self._entries.get(attachment.alias)
                if entry is None:
                    entry = self._entries[attachment.alias] = _Entry(attachment)
                    new.append(entry)
                else:
                    self._entries.move_to_end(attachment.alias)
                entry.pins += 1
                taken.append(entry)
        return taken, new

    def _attach(self, entries: Sequence[_Entry]) -> None:
        """Attach them all, on a cursor of its own: no query's time limit may interrupt it half-way."""
        if not entries:
            return
        with self._connection.cursor() as cursor:
            for entry in entries:
                try:
                    if entry.attachment.cached is not None:
                        entry.lock = locked_open(entry.attachment.cached)
                        entry.locked_bytes = os.fstat(entry.lock.fileno()).st_size
                    cursor.execute(entry.attachment.attach)
                except Exception as error:
                    entry.error = error
                finally:
                    entry.ready.set()

    def _release(self, entries: Sequence[_Entry]) -> None:
        with self._lock:
            for entry in entries:
                entry.pins -= 1
                if entry.error is not None and self._entries.get(entry.attachment.alias) is entry:
                    del self._entries[entry.attachment.alias]
                    _unlock(entry)
                self._drop_if_forgotten(entry)
            self._evict()

    def _evict(self) -> None:
        cached_bytes = sum(entry.locked_bytes for entry in self._entries.values())
        for entry in list(self._entries.values()):
            is_full, is_heavy = len(self._entries) > self._capacity, cached_bytes > self._cached_bytes
            if not is_full and not is_heavy:
                return
            if entry.pins == 0 and (is_full or entry.locked_bytes):
                cached_bytes -= entry.locked_bytes
                self._drop(entry)

    def _drop_if_forgotten(self, entry: _Entry) -> None:
        if entry.forgotten and entry.pins == 0 and self._entries.get(entry.attachment.alias) is entry:
            self._drop(entry)

    def _drop(self, entry: _Entry) -> None:
        del self._entries[entry.attachment.alias]
        self._detaching(entry.attachment.alias)
        try:
            self._detacher.execute(entry.attachment.detach)
        finally:
            _unlock(entry)


def _unlock(entry: _Entry) -> None:
    if entry.lock is not None:
        entry.lock.close()
