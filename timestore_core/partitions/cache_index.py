"""The cache's index: which files there are or are being fetched, their bytes, and the order in which they were used.

Its write lock is the directory's too: files are put in place, evicted and counted within its transactions alone. It may
be deleted or damaged at any time: an index begins with what the directory holds.
"""

from __future__ import annotations

import fcntl
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from timestore_core.partitions.cache_files import CachedFile, Found, own_faults

# Transactions take milliseconds: who waits longer meets a stranger's lock, and had better do without the cache.
_BUSY_S = 10
_VERSION = 1
_SCHEMA = (
    "DROP TABLE IF EXISTS files",
    "DROP TABLE IF EXISTS counters",
    "CREATE TABLE files ("
    "name TEXT PRIMARY KEY, bytes INTEGER NOT NULL, used INTEGER NOT NULL, ready INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE INDEX files_used ON files (used)",
    "CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
    f"PRAGMA user_version = {_VERSION}",
)
# `used` counts up: no clock that is changed can disturb the order.
_PUT = """
INSERT INTO files VALUES (:name, :bytes, (SELECT coalesce(max(used), 0) + 1 FROM files), :ready)
ON CONFLICT (name) DO UPDATE SET bytes = excluded.bytes, used = excluded.used, ready = excluded.ready
"""
_ADOPT_FILE = """
INSERT INTO files VALUES (:name, :bytes, (SELECT coalesce(max(used), 0) + 1 FROM files), 1)
ON CONFLICT (name) DO UPDATE SET bytes = excluded.bytes WHERE ready
"""
_ADOPT_PART = """
INSERT INTO files VALUES (:name, :bytes, (SELECT coalesce(max(used), 0) + 1 FROM files), 0)
ON CONFLICT (name) DO NOTHING
"""
_USE = "UPDATE files SET used = (SELECT max(used) + 1 FROM files) WHERE name = ?"
_TOTAL = "SELECT count(*), coalesce(sum(bytes), 0) FROM files WHERE name != ?"
_VICTIMS = "SELECT name, bytes, ready FROM files WHERE name != ? AND ready = ? ORDER BY used"
_COUNT = "INSERT INTO counters VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = value + excluded.value"
_PROBES = ("SELECT name, bytes, used, ready FROM files LIMIT 1", "SELECT name, value FROM counters LIMIT 1")
_BROKEN = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR})


@dataclass(frozen=True, slots=True)
class Rows:
    """The index within a transaction."""

    database: sqlite3.Connection

    def knows(self, name: str) -> bool:
        return self.database.execute("SELECT 1 FROM files WHERE name = ?", (name,)).fetchone() is not None

    def names(self, *, ready: bool) -> set[str]:
        return {name for (name,) in self.database.execute("SELECT name FROM files WHERE ready = ?", (ready,))}

    def total(self, besides: str = "") -> tuple[int, int]:
        """Files, being fetched or there, and their bytes, without the one named."""
        files, size_bytes = self.database.execute(_TOTAL, (besides,)).fetchone()
        return files, size_bytes

    def victims(self, besides: str) -> Iterator[tuple[str, int, bool]]:
        """Name, bytes and whether it is there: what is being fetched, then files, the least recently used first."""
        for ready in (False, True):
            with closing(self.database.execute(_VICTIMS, (besides, ready))) as rows:
                for name, size_bytes in ((row[0], row[1]) for row in rows):
                    yield name, size_bytes, ready

    def put(self, file: CachedFile, *, ready: bool) -> None:
        """Reserve room for the file, or note that it is there. It is the one used last."""
        self.database.execute(_PUT, {"name": file.name, "bytes": file.size_bytes, "ready": ready})

    def adopt(self, found: Found) -> None:
        """Take what lies in the directory for what it is; its place in the order stays."""
        values = {"name": found.name, "bytes": found.size_bytes}
        self.database.execute(_ADOPT_FILE if found.ready else _ADOPT_PART, values)

    def remove(self, names: Iterable[str], *, ready: bool) -> None:
        values = [(name, ready) for name in names]
        self.database.executemany("DELETE FROM files WHERE name = ? AND ready = ?", values)

    def use(self, names: Iterable[str]) -> None:
        """These were used, in this order."""
        self.database.executemany(_USE, [(name,) for name in names])

    def count(self, counted: Mapping[str, int]) -> None:
        self.database.executemany(_COUNT, [(name, value) for name, value in counted.items() if value])

    def counters(self) -> dict[str, int]:
        return dict(self.database.execute("SELECT name, value FROM counters").fetchall())


class CacheIndex:
    """An SQLite file, opened for each transaction: none is open across a fork, nor after the file was deleted."""

    def __init__(self, directory: Path, fill: Callable[[Rows], None]) -> None:
        """`fill` brings an empty index up to what the directory holds, within the transaction that made it."""
        self._directory = directory
        self._path = directory / "index.sqlite"
        self._fill = fill

    @contextmanager
    def transaction(self) -> Iterator[Rows]:
        """The only one on this directory; nothing of it stays when the block raises. Raises CacheFault."""
        with own_faults():
            try:
                database = self._begun()
            except sqlite3.DatabaseError as error:
                if not self._discarded(error):
                    raise
                database = self._begun()
            try:
                with closing(database):
                    yield Rows(database)
                    database.execute("COMMIT")
            except sqlite3.DatabaseError as error:
                self._discarded(error)
                raise

    def _begun(self) -> sqlite3.Connection:
        database = self._connected()
        try:
            # Losing the last transactions with the machine costs nothing: the next processes scan the directory.
            database.execute("PRAGMA synchronous = OFF")
            database.execute("BEGIN IMMEDIATE")
            if _version(database) != _VERSION:
                for statement in _SCHEMA:
                    database.execute(statement)
                self._fill(Rows(database))
        except BaseException:
            database.close()
            raise
        return database

    def _connected(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, timeout=_BUSY_S, isolation_level=None)

    def _discarded(self, error: sqlite3.Error) -> bool:
        """Delete an index that is broken, now and not only for one who waited; whether the error was of that kind."""
        if not _is_broken(error):
            return False
        with (self._directory / "locks" / "index").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self._is_sound():
                return True
            for path in self._directory.glob("index.sqlite*"):
                path.unlink(missing_ok=True)
        return True

    def _is_sound(self) -> bool:
        try:
            with closing(self._connected()) as database:
                if _version(database) == _VERSION:
                    for probe in _PROBES:
                        database.execute(probe).fetchone()
                return bool(database.execute("PRAGMA quick_check").fetchone() == ("ok",))
        except sqlite3.DatabaseError as error:
            return not _is_broken(error)


def _version(database: sqlite3.Connection) -> int:
    version: int = database.execute("PRAGMA user_version").fetchone()[0]
    return version


def _is_broken(error: sqlite3.Error) -> bool:
    return (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _BROKEN
