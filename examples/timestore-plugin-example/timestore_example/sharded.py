"""The storage kind `sharded`: a directory whose files are fanned out over two levels of hashed directories.

A file with the key `cpu/host=a/part-1.duckdb` lies at `<root>/af/5c/cpu/host=a/part-1.duckdb`, where `af` and
`5c` are the first two bytes of the SHA-256 of its key, so that a directory holds about one of 65,536 files, however
many a dataset has.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from tempfile import NamedTemporaryFile

from timestore_core.storage import InPlace, StoredFile

_STAGING = ".staging"
_SHARD = re.compile(r"[0-9a-f]{2}")
_PROBE = b"timestore"


class ShardedDriver:
    """One root. It must exist: a disk that is not mounted must never look like an empty store."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def staging_dir(self) -> Path:
        staging = self._root / _STAGING
        staging.mkdir(exist_ok=True)
        return staging

    def put(self, source: Path, key: str) -> StoredFile:
        target = self._path(key)
        size_bytes = source.stat().st_size
        _sync(source)
        self._make_up_to_root(target.parent)
        # A link fails where the name is taken; a rename would replace the other file.
        os.link(source, target)
        try:
            self._sync_up_to_root(target.parent)
            stored = self.stat(key)
            if stored is None or stored.size_bytes != size_bytes:
                raise OSError(errno.EIO, f"{key}: the file is not there after it was stored")
        except OSError:
            # What may not be durable is taken back, so that nobody finds half a promise under the key.
            with suppress(OSError):
                target.unlink()
            raise
        source.unlink()
        return stored

    def fetch(self, key: str, destination: Path) -> None:
        shutil.copyfile(self._path(key), destination)

    def in_place(self) -> InPlace:
        return InPlace()

    def location(self, key: str) -> str:
        return str(self._path(key))

    def allowed_locations(self) -> Sequence[str]:
        return [str(self._root)]

    def stat(self, key: str) -> StoredFile | None:
        return _stored(self._path(key), key)

    def delete(self, key: str) -> None:
        # The directories stay: another process may be about to put a file there.
        self._path(key).unlink(missing_ok=True)

    def list(self, prefix: str = "") -> Iterator[StoredFile]:
        below = f"{_checked(prefix.removesuffix('/'))}/" if prefix else ""
        for shard in self._shards():
            for directory, _, names in os.walk(shard, onerror=_raise):
                for name in names:
                    path = Path(directory, name)
                    key = path.relative_to(shard).as_posix()
                    # A file that was deleted since its directory was read is no longer in the store.
                    if key.startswith(below) and (found := _stored(path, key)) is not None:
                        yield found

    def check(self) -> None:
        # A name of its own for each probe: readiness is asked from many threads, processes and hosts at once.
        with NamedTemporaryFile(dir=self.staging_dir(), prefix="probe-") as probe:
            probe.write(_PROBE)
            probe.flush()
            os.fsync(probe.fileno())
            if Path(probe.name).read_bytes() != _PROBE:
                raise OSError(errno.EIO, "the storage root does not give back what was written")

    def _path(self, key: str) -> Path:
        digest = hashlib.sha256(_checked(key).encode()).hexdigest()
        return self._root / digest[:2] / digest[2:4] / key

    def _shards(self) -> Iterator[Path]:
        for outer in sorted(self._root.iterdir()):
            if _SHARD.fullmatch(outer.name):
                yield from sorted(outer.iterdir())

    def _make_up_to_root(self, directory: Path) -> None:
        """The directories on the way, where they are missing, but never the root: see the class."""
        if directory != self._root:
            self._make_up_to_root(directory.parent)
            directory.mkdir(exist_ok=True)

    def _sync_up_to_root(self, directory: Path) -> None:
        """A file lasts when its name does, and so does every directory on the way, whoever made it."""
        while directory != self._root:
            _sync(directory)
            directory = directory.parent
        _sync(directory)


def _checked(key: str) -> str:
    """The key, when it is a relative path that stays below where it is joined to. Raises OSError."""
    if "\0" in key or any(segment in ("", ".", "..") for segment in key.split("/")):
        raise OSError(errno.EINVAL, f"{key[:200]!r}: is no key: it must be a relative path without empty, . or ..")
    return key


def _stored(path: Path, key: str) -> StoredFile | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(found.st_mode):
        return None
    return StoredFile(key, found.st_size, datetime.fromtimestamp(found.st_mtime, UTC))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _raise(error: OSError) -> None:
    raise error
