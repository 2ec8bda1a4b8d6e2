"""The cache's directory: files named by their checksums, parts of downloads, and the kernel's locks on both.

A shared lock on a file keeps it from being evicted. A stripe, one of a few files that exist to be locked, is held by
whoever fetches a file of that stripe. Both end with the process that held them, however it ended. What a part may
grow to stands in its name, so that room stays reserved for it when the index is lost.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from uuid import uuid4

_STRIPES = 256
_NAME = r"[0-9a-f]{40}\.[a-z0-9]{1,16}"
_FILE = re.compile(_NAME)
_PART = re.compile(rf"\.({_NAME})\.(\d{{1,19}})\.[0-9a-f-]{{36}}\.part")


class CacheFault(Exception):
    """The cache's own directory or index does not work: queries go on without it."""


@contextmanager
def own_faults() -> Iterator[None]:
    """What fails in the block is the cache's fault, not that of a store."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        raise CacheFault(str(error)) from error


@dataclass(frozen=True, slots=True)
class CachedFile:
    """A file that the cache may hold: its checksum (SHA-1), its size, and its format's extension."""

    checksum: str
    size_bytes: int
    extension: str

    @property
    def name(self) -> str:
        return f"{self.checksum}.{self.extension}"

    @property
    def can_be_kept(self) -> bool:
        """Whether its name is one that is found again when the index is lost."""
        return self.size_bytes >= 0 and _FILE.fullmatch(self.name) is not None


@dataclass(frozen=True, slots=True)
class Found:
    """What lies in the directory: a file, or what may become one (`ready` is false) and the bytes it may grow to."""

    name: str
    size_bytes: int
    ready: bool
    modified_ns: int


class Held:
    """A cached file that cannot be evicted until it is let go."""

    def __init__(self, path: Path, opened: FileIO) -> None:
        self.path = path
        self._opened = opened

    def let_go(self) -> None:
        """Allow its eviction. Once is enough, again does no harm."""
        self._opened.close()


class CacheFiles:
    """The files, parts and locks of one directory. What is not named as they are is left alone and not counted."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "files"
        self._locks = directory / "locks"

    def make(self) -> None:
        """Make the directories, which anybody may delete at any time."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self._locks.mkdir(exist_ok=True)

    def path(self, name: str) -> Path:
        return self.directory / name

    def new_part(self, file: CachedFile) -> Path:
        """A path of its own for one download of the file."""
        return self.directory / f".{file.name}.{file.size_bytes}.{uuid4()}.part"

    def scan(self) -> list[Found]:
        """Parts and then files, the ones changed longest ago first."""
        found = []
        for entry in os.scandir(self.directory):
            part = _PART.fullmatch(entry.name)
            if part is None and _FILE.fullmatch(entry.name) is None:
                continue
            with suppress(FileNotFoundError):
                about = entry.stat(follow_symlinks=False)
                name, size_bytes = (part[1], max(int(part[2]), about.st_size)) if part else (entry.name, about.st_size)
                found.append(Found(name, size_bytes, part is None, about.st_mtime_ns))
        return sorted(found, key=lambda one: (one.ready, one.modified_ns))

    def opened(self, name: str) -> FileIO | None:
        """The file, locked against eviction; None where it is not there or cannot be read."""
        try:
            return locked_open(self.path(name))
        except OSError:
            return None

    def is_in_place(self, name: str, opened: FileIO) -> bool:
        """Whether the opened file is the one of this name, still."""
        try:
            return os.path.samestat(os.fstat(opened.fileno()), self.path(name).lstat())
        except OSError:
            return False

    def remove_unused(self, name: str) -> bool:
        """Remove the file; False where somebody holds it, or it is none that could be removed."""
        try:
            with FileIO(self.path(name)) as opened:
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self.path(name).unlink()
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return True

    def remove_abandoned(self, name: str, own_stripe: int | None) -> bool:
        """Remove what somebody was fetching; False where it is being fetched, or was put in place and is in use."""
        stripe = self.stripe(name)
        lock = nullcontext(True) if stripe == own_stripe else self.locked(stripe, wait=False)
        with lock as is_locked:
            if is_locked:
                self.remove_parts(name)
            return is_locked and self.remove_unused(name)

    def remove_parts(self, name: str) -> None:
        """Remove all parts of the file. Only for who holds its stripe: nobody else can be fetching it."""
        for part in self.directory.glob(f".{name}.*.part"):
            part.unlink(missing_ok=True)

    def stripe(self, name: str) -> int:
        return zlib.crc32(name.encode()) % _STRIPES

    @contextmanager
    def locked(self, stripe: int, *, wait: bool = True) -> Iterator[bool]:
        """The lock of everybody who fetches a file of this stripe; whether it could be had."""
        with own_faults():
            lock = FileIO(os.open(self._locks / f"{stripe:02x}", os.O_RDWR | os.O_CREAT, 0o644), "r+")
        with lock:
            with own_faults():
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
                    is_locked = True
                except BlockingIOError:
                    is_locked = False
            yield is_locked

    @contextmanager
    def same_directory(self) -> Iterator[None]:
        """An OSError while the directory was deleted, or replaced, is the cache's fault."""
        with own_faults():
            # Kept open, so that no other directory can get its inode.
            descriptor = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            yield
        except OSError as error:
            with own_faults():
                if not os.path.samestat(os.fstat(descriptor), self.directory.stat()):
                    raise CacheFault("its directory was deleted meanwhile") from error
            raise
        finally:
            os.close(descriptor)


def locked_open(path: Path) -> FileIO:
    """The file with a shared lock. Raises OSError, FileNotFoundError where it was removed before it was locked."""
    opened = FileIO(path)
    try:
        fcntl.flock(opened, fcntl.LOCK_SH)
        if os.fstat(opened.fileno()).st_nlink == 0:
            raise FileNotFoundError(path)
    except BaseException:
        opened.close()
        raise
    return opened


def is_right(file: CachedFile, opened: FileIO) -> bool:
    """Whether the bytes are those of the file. Raises OSError where they cannot be read."""
    if os.fstat(opened.fileno()).st_size != file.size_bytes:
        return False
    opened.seek(0)
    return hashlib.file_digest(opened, lambda: hashlib.sha1(usedforsecurity=False)).hexdigest() == file.checksum
