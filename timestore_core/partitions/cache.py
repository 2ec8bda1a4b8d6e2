"""Whole files of remote targets on this machine's disk, shared by all its processes, never above their limit.

A file is named by its checksum, so that it can be held against its name, and put in place by a rename. An index keeps
which files there are and when they were last used; locks of the kernel say which are in use. Room is reserved before a
download begins and given back when its bytes are gone, so that files and parts together stay below the limit, as long
as downloads end where the file should: `located` sees to that. The whole directory may be deleted at any time.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

import structlog

from timestore_core.partitions.cache_files import (
    CachedFile,
    CacheFault,
    CacheFiles,
    Held,
    is_right,
    locked_open,
    own_faults,
)
from timestore_core.partitions.cache_index import CacheIndex, Rows

__all__ = ["AlteredFileError", "CachedFile", "FileCache", "Held"]

log = structlog.get_logger(__name__)

_FLUSH_EVERY_S = 0.5
_MAX_VERIFIED = 65_536
_COUNTERS = ("hits", "misses", "bytes", "evictions")
_FULL_DISK = frozenset({errno.ENOSPC, errno.EDQUOT})


class AlteredFileError(OSError):
    """What was fetched is not what was written: its size or its checksum is another."""


class FileCache:
    """One directory. Thread-safe, and safe among processes; made after a fork."""

    def __init__(self, directory: Path, max_bytes: int) -> None:
        self._directory = directory
        self._files = CacheFiles(directory)
        self._index = CacheIndex(directory, self._reconcile)
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._verified: dict[str, tuple[int, ...]] = {}
        self._used: dict[str, None] = {}
        self._counted: dict[str, int] = dict.fromkeys(_COUNTERS, 0)
        self._flushed_s = 0.0
        self._reconciled = False

    @property
    def location(self) -> str:
        """The directory that DuckDB must be allowed to read."""
        return str(self._files.directory)

    def hold(self, file: CachedFile) -> Held | None:
        """The file, where it is there and right; it stays until it is let go."""
        held = self._hold(file)
        self._count("hits" if held is not None else "misses")
        return held

    def fetch(self, file: CachedFile, download: Callable[[Path], None]) -> Held | None:
        """The file, downloaded by whoever comes first; None where there is no room for it, or no disk.

        `download` fills a path that does not exist yet. Raises AlteredFileError when it brought something else, and
        whatever it raises itself.
        """
        if not file.can_be_kept or file.size_bytes > self._max_bytes:
            return None
        try:
            self._prepare()
            with self._files.locked(self._files.stripe(file.name)):
                held = self._hold(file)
                if held is not None or not self._reserve(file):
                    return held
                return self._download(file, download)
        except CacheFault as error:
            self._warn(error)
            return None

    def distrust(self, file: CachedFile) -> None:
        """Hold the file against its checksum once more before it is used again: reading it failed."""
        self._verified.pop(file.name, None)

    def counts(self) -> Mapping[str, int]:
        """Hits, misses, bytes fetched and evictions of all processes so far; files and their bytes now."""
        try:
            self._prepare()
            with self._usage() as (used, counted), self._index.transaction() as rows:
                rows.use(used)
                rows.count(counted)
                known = rows.counters()
                files, size_bytes = rows.total()
        except CacheFault as error:
            self._warn(error)
            return {}
        return {**{name: known.get(name, 0) for name in _COUNTERS}, "files": files, "sizeBytes": size_bytes}

    def clear(self) -> int:
        """Remove what no query uses; the bytes that this gave back."""
        try:
            self._prepare()
            with self._index.transaction() as rows:
                return self._evict(rows, 1 << 62)
        except CacheFault as error:
            self._warn(error)
            return 0

    def flush(self) -> None:
        """Write down, now and then, what was used."""
        if time.monotonic() - self._flushed_s < _FLUSH_EVERY_S:
            return
        try:
            self._prepare()
            with self._usage() as (used, counted), self._index.transaction() as rows:
                rows.use(used)
                rows.count(counted)
        except CacheFault as error:
            self._warn(error)

    def _hold(self, file: CachedFile) -> Held | None:
        opened = self._files.opened(file.name) if file.can_be_kept else None
        if opened is None:
            return None
        try:
            if self._is_verified(file, opened):
                with self._lock:
                    self._used.pop(file.name, None)
                    self._used[file.name] = None
                return Held(self._files.path(file.name), opened)
            self._drop(file, opened)
        except (OSError, CacheFault) as error:
            self._warn(error)
        except BaseException:
            opened.close()
            raise
        opened.close()
        return None

    def _is_verified(self, file: CachedFile, opened: FileIO) -> bool:
        """Its checksum, computed when this process first meets it and whenever it was changed since."""
        seen = _state(opened)
        if self._verified.get(file.name) == seen:
            return True
        if not is_right(file, opened):
            return False
        self._remember(file, seen)
        return True

    def _remember(self, file: CachedFile, seen: tuple[int, ...]) -> None:
        with self._lock:
            if len(self._verified) >= _MAX_VERIFIED:
                self._verified.clear()
            self._verified[file.name] = seen

    def _drop(self, file: CachedFile, opened: FileIO) -> None:
        """Remove a file that turned out to be wrong, unless another has taken its place."""
        log.warning("cache.dropped", file=file.name)
        with self._index.transaction() as rows:
            if self._files.is_in_place(file.name, opened):
                self._files.path(file.name).unlink(missing_ok=True)
                rows.remove([file.name], ready=True)

    def _reserve(self, file: CachedFile) -> bool:
        """Room for the file, made by evicting what was used least recently; False where all the rest is in use."""
        with self._usage() as (used, counted), self._index.transaction() as rows:
            rows.use(used)
            rows.count(counted)
            # This process holds the stripe: what lies there of the file is of one that ended, or cannot be used.
            self._files.remove_parts(file.name)
            if not self._files.remove_unused(file.name) or not self._make_room(rows, file):
                return False
            rows.put(file, ready=False)
        return True

    def _download(self, file: CachedFile, download: Callable[[Path], None]) -> Held:
        part = self._files.new_part(file)
        try:
            try:
                with self._files.same_directory():
                    download(part)
            except OSError as error:
                if error.errno in _FULL_DISK or str(error.filename) == str(part):
                    raise CacheFault(str(error)) from error
                raise
            return self._put_in_place(file, part)
        except BaseException:
            # Its bytes first, and then the room that was reserved for them.
            with suppress(OSError, CacheFault):
                part.unlink(missing_ok=True)
                with self._index.transaction() as rows:
                    if not self._files.path(file.name).exists():
                        rows.remove([file.name], ready=False)
            raise

    def _put_in_place(self, file: CachedFile, part: Path) -> Held:
        with own_faults():
            opened = locked_open(part)
        try:
            with own_faults():
                came_right = is_right(file, opened)
            if not came_right:
                raise AlteredFileError(errno.EIO, f"{file.name}: what came is not what was written")
            with self._index.transaction() as rows:
                # An index that was lost meanwhile has lost the reservation too.
                if not rows.knows(file.name) and not self._make_room(rows, file):
                    raise CacheFault(f"{file.name}: its room was taken")
                rows.put(file, ready=True)
                part.rename(self._files.path(file.name))
            self._remember(file, _state(opened))
        except BaseException:
            opened.close()
            raise
        self._count("bytes", file.size_bytes)
        return Held(self._files.path(file.name), opened)

    def _make_room(self, rows: Rows, file: CachedFile) -> bool:
        needed = rows.total(besides=file.name)[1] + file.size_bytes - self._max_bytes
        return needed <= 0 or self._evict(rows, needed, fetching=file.name) >= needed

    def _evict(self, rows: Rows, needed: int, fetching: str = "") -> int:
        """Remove what nobody uses until so many bytes are free; how many became free."""
        freed, unready, ready = 0, list[str](), list[str]()
        own_stripe = self._files.stripe(fetching) if fetching else None
        for name, size_bytes, is_ready in rows.victims(besides=fetching):
            if freed >= needed:
                break
            if is_ready and self._files.remove_unused(name):
                ready.append(name)
                freed += size_bytes
            elif not is_ready and self._files.remove_abandoned(name, own_stripe):
                unready.append(name)
                freed += size_bytes
        rows.remove(unready, ready=False)
        rows.remove(ready, ready=True)
        self._count("evictions", len(ready))
        return freed

    def _prepare(self) -> None:
        """The directory is there, and its index knows its files."""
        with own_faults():
            self._files.make()
        if not self._reconciled:
            with self._index.transaction() as rows:
                self._reconcile(rows)
            self._reconciled = True

    def _reconcile(self, rows: Rows) -> None:
        """Take into the index what lies there without it, drop what is in it and not there, keep the limit.

        Done by every process when it first uses the cache, and whenever an index is made.
        """
        there = self._files.scan()
        for found in there:
            rows.adopt(found)
        rows.remove(rows.names(ready=True) - {found.name for found in there if found.ready}, ready=True)
        self._evict(rows, rows.total()[1] - self._max_bytes)

    @contextmanager
    def _usage(self) -> Iterator[tuple[list[str], Mapping[str, int]]]:
        """What was used and counted and is not written down yet; the counts are kept where that fails."""
        with self._lock:
            used, self._used = self._used, {}
            counted, self._counted = self._counted, dict.fromkeys(_COUNTERS, 0)
            self._flushed_s = time.monotonic()
        try:
            yield list(used), counted
        except BaseException:
            for name, value in counted.items():
                self._count(name, value)
            raise

    def _count(self, name: str, by: int = 1) -> None:
        with self._lock:
            self._counted[name] += by

    def _warn(self, error: Exception) -> None:
        log.warning("cache.unusable", directory=str(self._directory), error=str(error)[:200])


def _state(opened: FileIO) -> tuple[int, ...]:
    """What changes when somebody writes to the file, or puts another in its place."""
    found = os.fstat(opened.fileno())
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
