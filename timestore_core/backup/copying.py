"""One file from one place to another, checked on the way and where it arrives; and many of them, a few at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

from timestore_core.backup.place import FULL_ERRORS, Place
from timestore_core.backup.problems import BackupError, DamagedError
from timestore_core.errors import InsufficientStorage
from timestore_core.partitions.checksum import sha1_of
from timestore_core.partitions.duckdb_file import sync_file
from timestore_core.partitions.inline import FileSource
from timestore_core.partitions.stored import remove_staged
from timestore_core.storage import StoredFile

T = TypeVar("T")
R = TypeVar("R")

PARALLEL_COPIES = 4


@dataclass(frozen=True, slots=True)
class CopyRequest:
    """A file that should stand in a place too; its size and SHA-1 where they are known. `name` is for people.

    What is there already is compared byte for byte where `compared` says so, else only where that is cheap.
    """

    source: FileSource
    source_key: str
    name: str
    place: Place
    key: str
    size_bytes: int | None
    checksum: str | None
    compared: bool = False


@dataclass(frozen=True, slots=True)
class Copied:
    """The file as it stands there; `was_there` when an earlier run had brought it."""

    size_bytes: int
    checksum: str
    was_there: bool


def copy_file(asked: CopyRequest, *, deep: bool, step: Callable[[str], None]) -> Copied:
    """Bring the file to its place unless it is there. `deep` reads back what was written in any case; where the place
    is a local directory that is cheap, and always done.

    Tells `file_written` and `file_stored`. Raises DamagedError where the source is missing or altered, and
    BackupError or InsufficientStorage where the place fails.
    """
    with asked.place.errors():
        stored = asked.place.driver.stat(asked.key)
        if stored is not None and _is_whole(asked, stored, deep=deep or asked.compared):
            return Copied(stored.size_bytes, asked.checksum or "", was_there=True)
        staged = asked.place.driver.staging_dir() / f"copy-{uuid4()}"
    try:
        _fetch(asked, staged)
        size_bytes, checksum = _checked(asked, staged)
        with asked.place.errors():
            sync_file(staged)
            step("file_written")
            if stored is not None:
                asked.place.driver.delete(asked.key)
            stored = asked.place.driver.put(staged, asked.key)
            step("file_stored")
            seen = _checksum_there(asked.place, asked.key, deep=deep)
            if stored.size_bytes != size_bytes or seen not in (None, checksum):
                asked.place.driver.delete(asked.key)
                raise BackupError(f"{asked.place.label} does not give back what was written: {asked.key}")
    finally:
        remove_staged(staged)
    return Copied(size_bytes, checksum, was_there=False)


def checksum_of(place: Place, key: str) -> str:
    """The SHA-1 of a file in its place, read from there. Raises FileNotFoundError where there is none."""
    local = _local(place, key)
    if local is not None:
        return sha1_of(local)
    fetched = place.driver.staging_dir() / f"check-{uuid4()}"
    try:
        place.driver.fetch(key, fetched)
        return sha1_of(fetched)
    finally:
        remove_staged(fetched)


def in_parallel(work: Callable[[T], R], items: Iterable[T]) -> Generator[R]:
    """The results, in the items' order, of a few at a time: neither items nor results pile up.

    An exception of the work is raised where its result would come; nothing new is begun then.
    """
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(PARALLEL_COPIES, thread_name_prefix="copy") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) >= 2 * PARALLEL_COPIES:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for one in waiting:
                one.cancel()


def _is_whole(asked: CopyRequest, stored: StoredFile, *, deep: bool) -> bool:
    """Whether what is there already is the file. Where its size or checksum are not known nobody can tell."""
    if asked.checksum is None or stored.size_bytes != asked.size_bytes:
        return False
    return _checksum_there(asked.place, asked.key, deep=deep) in (None, asked.checksum)


def _fetch(asked: CopyRequest, staged: Path) -> None:
    try:
        asked.source.fetch(asked.source_key, staged)
    except FileNotFoundError:
        raise DamagedError(f"{asked.name} is missing") from None
    except OSError as error:
        if error.errno in FULL_ERRORS:
            raise InsufficientStorage(f"{asked.place.label} is full") from error
        raise DamagedError(f"{asked.name} cannot be read: {error.strerror or str(error)[:300]}") from error


def _checked(asked: CopyRequest, staged: Path) -> tuple[int, str]:
    """The size and checksum of what came. Raises DamagedError where they are not what they should be."""
    size_bytes, checksum = staged.stat().st_size, sha1_of(staged)
    if asked.size_bytes is not None and size_bytes != asked.size_bytes:
        raise DamagedError(f"{asked.name} has {size_bytes} bytes instead of {asked.size_bytes}")
    if asked.checksum is not None and checksum != asked.checksum:
        raise DamagedError(f"{asked.name} is not what was written (its checksum is {checksum})")
    return size_bytes, checksum


def _checksum_there(place: Place, key: str, *, deep: bool) -> str | None:
    """The checksum of what is in the place, or None where reading it back is neither cheap nor asked for."""
    return checksum_of(place, key) if deep or _local(place, key) is not None else None


def _local(place: Place, key: str) -> Path | None:
    """The file as a path, where the place is a directory of this machine."""
    local = Path(place.driver.location(key))
    return local if local.is_absolute() and local.is_file() else None
