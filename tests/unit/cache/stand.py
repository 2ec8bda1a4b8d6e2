"""Made-up files, the store that they come from, and what lies in a cache's directory."""

from __future__ import annotations

import gc
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from timestore_core.partitions.cache import CachedFile, FileCache

SIZE = 1000
PLENTY = 1_000_000


def content(number: int, size: int = SIZE) -> bytes:
    return f"{number:08}".encode() * (size // 8)


def file_of(data: bytes) -> CachedFile:
    return CachedFile(hashlib.sha1(data).hexdigest(), len(data), "parquet")


def writing(data: bytes) -> Callable[[Path], None]:
    """A download that brings these bytes."""

    def download(path: Path) -> None:
        path.write_bytes(data)

    return download


class Store:
    """Stands for a remote store: counts what is fetched from it."""

    def __init__(self) -> None:
        self.fetched: list[bytes] = []

    def of(self, data: bytes) -> Callable[[Path], None]:
        def download(path: Path) -> None:
            assert not path.exists()
            self.fetched.append(data)
            path.write_bytes(data)

        return download

    def read(self, cache: FileCache, data: bytes) -> bool:
        """Read the file as a query does, check its bytes; whether the cache had or took it."""
        file = file_of(data)
        held = cache.hold(file) or cache.fetch(file, self.of(data))
        if held is None:
            return False
        assert held.path.read_bytes() == data
        held.let_go()
        return True


def lying(home: Path) -> set[str]:
    return {path.name for path in (home / "files").iterdir()}


def names(*contents: bytes) -> set[str]:
    return {file_of(data).name for data in contents}


def path_in(home: Path, data: bytes) -> Path:
    return home / "files" / file_of(data).name


def descriptors() -> int:
    # What earlier tests left to the collector is not this one's.
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


def flip(path: Path) -> None:
    """Change a byte and keep the size; the time of change differs however coarse the clock of the disk is."""
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))


def fails(*_: object) -> None:
    raise AssertionError("nothing was to be downloaded")
