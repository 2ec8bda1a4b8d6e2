"""One DuckDB instance per process and purpose, locked down, and replaced when it must be."""

from __future__ import annotations

import errno
import os
import queue
import shutil
import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import duckdb
import structlog

from timestore_core.engine.attached import AttachedFiles
from timestore_core.engine.inline_tables import InlineTables
from timestore_core.engine.prepared import PreparedStatements
from timestore_core.engine.remote import remote_statements, secret_statement
from timestore_core.names import quote_literal
from timestore_core.storage import Access, Secret

log = structlog.get_logger(__name__)

# Of an instance's memory, what rows of partitions that are no files may take while no query reads them.
_INLINE_SHARE = 4


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """What one instance may use. `spill_dir` holds a directory of its own for each process.

    `max_cached_bytes` is how many bytes of the cache's files it keeps attached while no query reads them; `sorters` is
    how many sorts larger than the memory may run at a time, see `Instance.sorter`.
    """

    threads: int
    memory_bytes: int
    temp_bytes: int
    spill_dir: Path
    max_attached: int = 64
    max_cached_bytes: int = 0
    sorters: int = 0


class Instance:
    """An in-memory DuckDB that can reach the allowed directories and nothing else.

    The order of the settings matters: access is narrowed before the configuration is locked, and read back.
    """

    def __init__(self, limits: EngineLimits, allowed: frozenset[str], spill: Path) -> None:
        self.allowed = allowed
        self._spill = spill
        self._secrets: dict[str, Secret] = {}
        self._secrets_lock = threading.Lock()
        self._connection = duckdb.connect(":memory:")
        for statement in remote_statements(allowed):
            self._connection.execute(statement)
        self._sorters = queue.SimpleQueue[duckdb.DuckDBPyConnection]()
        for _ in range(limits.sorters):
            sorter = self._connection.cursor()
            sorter.execute("SET debug_force_external = true")
            self._sorters.put(sorter)
        directories = ", ".join(quote_literal(_as_directory(one)) for one in sorted(allowed))
        for statement in (
            # Globally: otherwise they would hold for this connection alone, and not for its cursors.
            "SET GLOBAL TimeZone = 'UTC'",
            f"SET threads = {limits.threads:d}",
            f"SET memory_limit = '{limits.memory_bytes:d}B'",
            f"SET temp_directory = {quote_literal(str(spill))}",
            f"SET max_temp_directory_size = '{limits.temp_bytes:d}B'",
            "SET checkpoint_threshold = '0B'",
            "SET allow_persistent_secrets = false",
            "SET autoinstall_known_extensions = false",
            "SET autoload_known_extensions = false",
            "SET allow_community_extensions = false",
            "SET GLOBAL python_enable_replacements = false",
            f"SET allowed_directories = [{directories}]",
            "SET enable_external_access = false",
            "SET lock_configuration = true",
        ):
            self._connection.execute(statement)
        locked = self._connection.execute(
            "SELECT current_setting('enable_external_access'), current_setting('lock_configuration')"
        ).fetchone()
        if locked != (False, True):
            raise RuntimeError(f"DuckDB did not keep its configuration: {locked}")
        self.prepared = PreparedStatements(self._connection)
        self.attached = AttachedFiles(
            self._connection, limits.max_attached, limits.max_cached_bytes, self.prepared.forget
        )
        self.inline = InlineTables(self._connection, limits.memory_bytes // _INLINE_SHARE)
        self.leases = 0
        self.retired = False

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """A connection of its own to this instance, for one thread."""
        return self._connection.cursor()

    def ensure_secrets(self, secrets: Iterable[Secret]) -> None:
        """Give DuckDB the secrets, where they are new or have changed since: credentials are renewed."""
        with self._secrets_lock:
            for secret in secrets:
                if self._secrets.get(secret.scope) != secret:
                    # Not through a cursor: DuckDB 1.5.5 then signs nothing with it.
                    self._connection.execute(secret_statement(secret))
                    self._secrets[secret.scope] = secret

    @contextmanager
    def sorter(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection for sorts that may be larger than the memory; waits while all of them are taken.

        Left to itself DuckDB 1.5 notices too late that a sort with texts in it does not fit, and gives up without
        having spilled a byte. The setting that makes it spill from the start belongs to a connection, and has to be
        made before the configuration is locked.
        """
        sorter = self._sorters.get()
        try:
            yield sorter
        finally:
            self._sorters.put(sorter)

    def close(self) -> None:
        self.prepared.close()
        self._connection.close()
        self.attached.close()
        shutil.rmtree(self._spill, ignore_errors=True)


class Engine:
    """Hands out the current instance; makes another when a new directory is needed or the old one died.

    A replaced instance is closed when its last lease ends, so that what runs on it finishes.
    """

    def __init__(self, name: str, limits: EngineLimits) -> None:
        self._limits = limits
        self._name = name
        self._lock = threading.Lock()
        self._current: Instance | None = None
        self._made = 0
        self._spill = own_spill_dir(limits.spill_dir, name)

    @contextmanager
    def lease(self, wanted: Iterable[str] | Access) -> Iterator[Instance]:
        """The instance that may reach these directories, or has this access, for the time of the block."""
        access = wanted if isinstance(wanted, Access) else Access(frozenset(wanted))
        instance = self._take(access.locations)
        try:
            instance.ensure_secrets(access.secrets)
            yield instance
        except duckdb.Error as error:
            # What a full disk cut short stays in the spill directory until its instance is closed.
            if isinstance(error, duckdb.FatalException) or is_disk_full(error):
                log.exception("engine.replaced", engine=self._name)
                self._retire(instance)
            raise
        finally:
            self._give_back(instance)

    @contextmanager
    def apart(self, memory_bytes: int) -> Iterator[Engine]:
        """An engine of its own with so much memory, for the time of the block: it leaves this one's as it is."""
        with self._lock:
            self._made += 1
            name = f"{self._name}-apart-{self._made}"
        engine = Engine(name, replace(self._limits, memory_bytes=min(memory_bytes, self._limits.memory_bytes)))
        try:
            yield engine
        finally:
            engine.close()

    def close(self) -> None:
        """Close the instance and remove what it spilled."""
        with self._lock:
            if self._current is not None:
                self._current.close()
                self._current = None
        shutil.rmtree(self._spill, ignore_errors=True)

    def _take(self, wanted: frozenset[str]) -> Instance:
        with self._lock:
            current = self._current
            if current is None or not wanted <= current.allowed:
                allowed = wanted | (current.allowed if current else frozenset())
                # Never one that another instance has: they would write over each other's spilled blocks.
                self._made += 1
                spill = self._spill / str(self._made)
                spill.mkdir(parents=True, exist_ok=True)
                current = Instance(self._limits, allowed, spill)
                self._replace(current)
            current.leases += 1
            return current

    def _replace(self, new: Instance | None) -> None:
        old, self._current = self._current, new
        if old is not None:
            old.retired = True
            if old.leases == 0:
                old.close()

    def _retire(self, instance: Instance) -> None:
        with self._lock:
            if self._current is instance:
                self._replace(None)

    def _give_back(self, instance: Instance) -> None:
        with self._lock:
            instance.leases -= 1
            if instance.retired and instance.leases == 0:
                instance.close()


@contextmanager
def disk_errors() -> Iterator[None]:
    """Turn DuckDB's input/output errors into OSError, a full disk into ENOSPC."""
    try:
        yield
    except (duckdb.IOException, duckdb.TransactionException) as error:
        # A write that fails in the middle of a commit comes as a TransactionException.
        number = errno.ENOSPC if is_disk_full(error) else errno.EIO
        raise OSError(number, os.strerror(number)) from error


def is_disk_full(error: duckdb.Error) -> bool:
    """Whether DuckDB's error says that a disk is full: it has no class of its own for that."""
    text = str(error)
    return "not enough disk space" in text.lower() or any(
        os.strerror(number) in text for number in (errno.ENOSPC, errno.EDQUOT)
    )


def _as_directory(location: str) -> str:
    return location if location.endswith("/") else f"{location}/"


def own_spill_dir(parent: Path, name: str) -> Path:
    """This process's directory; those that dead processes of this host left behind are removed."""
    prefix = f"{socket.gethostname()}-"
    if parent.is_dir():
        for left in parent.glob(f"{prefix}*-{name}"):
            pid = left.name.removeprefix(prefix).removesuffix(f"-{name}")
            if pid.isdigit() and not _alive(int(pid)):
                with suppress(OSError):
                    shutil.rmtree(left)
    return parent / f"{prefix}{os.getpid()}-{name}"


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
