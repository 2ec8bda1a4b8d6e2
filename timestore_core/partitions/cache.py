"""Whole files of remote targets on this machine's disk, shared by all its processes, never above their limit.

A file is named by its checksum, so that it can be held against its name, and put in place by a rename. SQLite keeps
who is there and when it was last used; locks of the kernel say who is in use: they end with the process that held
them, however it ended. The whole directory may be deleted at any time.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import sqlite3
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import structlog

from timestore_core.partitions.checksum import sha1_of

log = structlog.get_logger(__name__)

_STRIPES = 256
_BUSY_S = 30
_FLUSH_EVERY_S = 0.5
_NAME = re.compile(r"[0-9a-f]{40}\.[a-z0-9]+")
_COUNTERS = ("hits", "misses", "bytes", "evictions")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS files (
    name TEXT PRIMARY KEY, bytes INTEGER NOT NULL, used REAL NOT NULL, ready INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS files_used ON files (used);
CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
"""


class AlteredFileError(OSError):
    """What was fetched is not what was written: its size or its checksum is another."""


class _CacheError(Exception):
    """The cache's own directory or index does not work: queries go on without it."""


@dataclass(frozen=True, slots=True)
class CachedFile:
    """A file that the cache may hold: its checksum (SHA-1), its size, and its format's extension."""

    checksum: str
    size_bytes: int
    extension: str

    @property
    def name(self) -> str:
        return f"{self.checksum}.{self.extension}"


class Held:
    """A cached file that cannot be evicted until it is let go."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    def let_go(self) -> None:
        os.close(self._descriptor)


class FileCache:
    """One directory. Thread-safe, and safe among processes; made after a fork."""

    def __init__(self, directory: Path, max_bytes: int) -> None:
        self._directory = directory
        self._files = directory / "files"
        self._locks = directory / "locks"
        self._max_bytes = max_bytes
        self._local = threading.local()
        self._lock = threading.Lock()
        self._verified: dict[str, tuple[int, int]] = {}
        self._touched: dict[str, float] = {}
        self._counted: dict[str, int] = dict.fromkeys(_COUNTERS, 0)
        self._flushed_s = 0.0
        self._opened = False

    @property
    def location(self) -> str:
        """The directory that DuckDB must be allowed to read."""
        return str(self._files)

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
        try:
            if not self._prepare():
                return None
            with self._stripe(file.name):
                held = self._hold(file)
                if held is not None or not self._reserve(file):
                    return held
                return self._download(file, download)
        except _CacheError as error:
            log.warning("cache.unusable", directory=str(self._directory), error=str(error)[:200])
            return None

    def _download(self, file: CachedFile, download: Callable[[Path], None]) -> Held | None:
        part = self._files / f".{file.name}.{uuid4()}.part"
        try:
            download(part)
            return self._put_in_place(file, part)
        except OSError as error:
            self._forget(file.name)
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            log.warning("cache.full_disk", directory=str(self._directory))
            return None
        except BaseException:
            self._forget(file.name)
            raise
        finally:
            part.unlink(missing_ok=True)

    def distrust(self, file: CachedFile) -> None:
        """Hold the file against its checksum once more before it is used again: reading it failed."""
        self._verified.pop(file.name, None)

    def drop(self, file: CachedFile) -> None:
        """Remove a file that turned out to be wrong."""
        log.warning("cache.dropped", file=file.name)
        self._verified.pop(file.name, None)
        (self._files / file.name).unlink(missing_ok=True)
        self._forget(file.name)

    def counts(self) -> Mapping[str, int]:
        """Hits, misses, bytes fetched and evictions of all processes so far; files and their bytes now."""
        if not self._prepare():
            return {}
        self._flush(force=True)
        with self._transaction() as database:
            counted = dict(database.execute("SELECT name, value FROM counters").fetchall())
            files, size_bytes = database.execute("SELECT count(*), coalesce(sum(bytes), 0) FROM files").fetchone()
        return {**{name: counted.get(name, 0) for name in _COUNTERS}, "files": files, "sizeBytes": size_bytes}

    def clear(self) -> int:
        """Remove what no query uses; the bytes that this gave back."""
        if not self._prepare():
            return 0
        with self._transaction() as database:
            return self._evict(database, 1 << 62)

    def flush(self) -> None:
        """Write down, now and then, what was used."""
        self._flush(force=False)

    def _hold(self, file: CachedFile) -> Held | None:
        path = self._files / file.name
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except OSError:
            return None
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        found = os.fstat(descriptor)
        if found.st_nlink == 0:
            os.close(descriptor)
            return None
        if found.st_size != file.size_bytes or not self._is_right(file, path, found):
            os.close(descriptor)
            self.drop(file)
            return None
        with self._lock:
            self._touched[file.name] = time.time()
        return Held(path, descriptor)

    def _is_right(self, file: CachedFile, path: Path, found: os.stat_result) -> bool:
        """Its checksum, computed when this process first meets it and whenever it was changed since."""
        seen = (found.st_ino, found.st_mtime_ns)
        if self._verified.get(file.name) == seen:
            return True
        if sha1_of(path) != file.checksum:
            return False
        self._verified[file.name] = seen
        return True

    def _put_in_place(self, file: CachedFile, part: Path) -> Held:
        if part.stat().st_size != file.size_bytes or sha1_of(part) != file.checksum:
            raise AlteredFileError(errno.EIO, f"{file.name}: what came is not what was written")
        descriptor = os.open(part, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        path = self._files / file.name
        part.rename(path)
        found = os.fstat(descriptor)
        self._verified[file.name] = (found.st_ino, found.st_mtime_ns)
        with self._transaction() as database:
            database.execute(
                "INSERT INTO files VALUES (?, ?, ?, 1) "
                "ON CONFLICT (name) DO UPDATE SET ready = 1, used = excluded.used",
                (file.name, file.size_bytes, time.time()),
            )
        self._count("bytes", file.size_bytes)
        return Held(path, descriptor)

    def _reserve(self, file: CachedFile) -> bool:
        """Room for the file, made by evicting what was used least recently; False where all the rest is in use."""
        self._flush(force=True)
        with self._transaction() as database:
            total = database.execute("SELECT coalesce(sum(bytes), 0) FROM files").fetchone()[0]
            needed = total + file.size_bytes - self._max_bytes
            if file.size_bytes > self._max_bytes or (needed > 0 and self._evict(database, needed) < needed):
                return False
            database.execute(
                "INSERT INTO files VALUES (?, ?, ?, 0) ON CONFLICT (name) DO UPDATE SET ready = 0",
                (file.name, file.size_bytes, time.time()),
            )
        return True

    def _evict(self, database: sqlite3.Connection, needed: int) -> int:
        """Remove files that nobody uses until so many bytes are free; how many became free."""
        freed = 0
        for name, size_bytes, ready in database.execute(
            "SELECT name, bytes, ready FROM files ORDER BY used"
        ).fetchall():
            if freed >= needed:
                break
            if self._remove_unused(name) if ready else self._remove_abandoned(name):
                database.execute("DELETE FROM files WHERE name = ?", (name,))
                freed += size_bytes
                self._count("evictions")
        return freed

    def _remove_unused(self, name: str) -> bool:
        path = self._files / name
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
        except BlockingIOError:
            return False
        finally:
            os.close(descriptor)
        return True

    def _remove_abandoned(self, name: str) -> bool:
        """What a process was fetching that is not there any more."""
        with self._stripe(name, wait=False) as locked:
            if locked:
                for part in self._files.glob(f".{name}.*.part"):
                    part.unlink(missing_ok=True)
            # It may have got as far as putting the file in its place.
            return locked and self._remove_unused(name)

    def _forget(self, name: str) -> None:
        with suppress(_CacheError), self._transaction() as database:
            database.execute("DELETE FROM files WHERE name = ?", (name,))

    def _count(self, name: str, by: int = 1) -> None:
        with self._lock:
            self._counted[name] += by

    def _flush(self, *, force: bool) -> None:
        with self._lock:
            if not force and time.monotonic() - self._flushed_s < _FLUSH_EVERY_S:
                return
            touched, self._touched = self._touched, {}
            counted, self._counted = self._counted, dict.fromkeys(_COUNTERS, 0)
            self._flushed_s = time.monotonic()
        if not self._prepare():
            return
        with self._transaction() as database:
            database.executemany(
                "UPDATE files SET used = ? WHERE name = ?", [(at, name) for name, at in touched.items()]
            )
            database.executemany(
                "INSERT INTO counters VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = value + excluded.value",
                [(name, value) for name, value in counted.items() if value],
            )

    @contextmanager
    def _stripe(self, name: str, *, wait: bool = True) -> Iterator[bool]:
        """The lock of everybody who fetches this file; whether it could be had."""
        stripe = zlib.crc32(name.encode()) % _STRIPES
        try:
            descriptor = os.open(self._locks / f"{stripe:02x}", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise _CacheError(os.strerror(error.errno or 0)) from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            yield True
        finally:
            os.close(descriptor)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        try:
            database = self._database()
            database.execute("BEGIN IMMEDIATE")
            try:
                yield database
            except BaseException:
                database.rollback()
                raise
            database.commit()
        except sqlite3.Error as error:
            raise _CacheError(str(error)) from error

    def _database(self) -> sqlite3.Connection:
        """This thread's connection to the index that is there now."""
        index = self._directory / "index.sqlite"
        known: tuple[int, sqlite3.Connection] | None = getattr(self._local, "database", None)
        if known is not None and index.exists() and index.stat().st_ino == known[0]:
            return known[1]
        found = sqlite3.connect(index, timeout=_BUSY_S, isolation_level=None)
        # The index may be lost at any time: it is made again from the files.
        for statement in ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = OFF"):
            found.execute(statement)
        found.executescript(_SCHEMA)
        self._local.database = (index.stat().st_ino, found)
        return found

    def _prepare(self) -> bool:
        """The directory is there, and its index knows its files. False where the disk does not allow a cache."""
        if self._opened and self._files.is_dir():
            return True
        with self._lock:
            try:
                for directory in (self._files, self._locks):
                    directory.mkdir(parents=True, exist_ok=True)
                try:
                    self._adopt()
                except _CacheError:
                    for path in self._directory.glob("index.sqlite*"):
                        path.unlink(missing_ok=True)
                    self._adopt()
            except (OSError, _CacheError) as error:
                log.warning("cache.unusable", directory=str(self._directory), error=str(error)[:200])
                return False
            self._opened = True
        return True

    def _adopt(self) -> None:
        """Take into the index what lies there without it, drop what is in it and not there, keep the limit."""
        with self._transaction() as database:
            known = {row[0] for row in database.execute("SELECT name FROM files WHERE ready = 1")}
            there = set()
            for entry in os.scandir(self._files):
                if _NAME.fullmatch(entry.name) and entry.is_file():
                    there.add(entry.name)
                    if entry.name not in known:
                        values = (entry.name, entry.stat().st_size, entry.stat().st_mtime)
                        database.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?, 1)", values)
            database.executemany("DELETE FROM files WHERE name = ?", [(name,) for name in known - there])
            total = database.execute("SELECT coalesce(sum(bytes), 0) FROM files").fetchone()[0]
            freed = 0
            if total > self._max_bytes:
                for name, size_bytes, ready in database.execute("SELECT name, bytes, ready FROM files ORDER BY used"):
                    if total - freed <= self._max_bytes:
                        break
                    if self._remove_unused(name) if ready else self._remove_abandoned(name):
                        freed += size_bytes
                        database.execute("DELETE FROM files WHERE name = ?", (name,))
