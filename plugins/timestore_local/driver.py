"""Files below one directory. A file appears under its key whole and durable, or not at all."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

from timestore_core.storage import InPlace, StoredFile

_STAGING = ".tmp"


class LocalDriver:
    """The root holds the files, and `.tmp` in it the ones being written, so that a rename puts them in place."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def staging_dir(self) -> Path:
        staging = self._root / _STAGING / "staging"
        staging.mkdir(parents=True, exist_ok=True)
        return staging

    def put(self, source: Path, key: str) -> StoredFile:
        target = self._path(key)
        _make_directories(target.parent, self._root)
        size_bytes = source.stat().st_size
        # A link fails where the name is taken; a rename would replace the other file.
        os.link(source, target)
        source.unlink()
        _sync(target.parent)
        found = self.stat(key)
        if found is None or found.size_bytes != size_bytes:
            raise OSError(f"{key}: the file is not there after it was stored")
        return found

    def fetch(self, key: str, destination: Path) -> None:
        shutil.copyfile(self._path(key), destination)

    def in_place(self) -> InPlace:
        return InPlace()

    def location(self, key: str) -> str:
        if key.startswith("/") or ".." in key.split("/"):
            raise OSError(f"{key!r}: leads outside the storage root")
        return f"{self._root}/{key}"

    def allowed_locations(self) -> Sequence[str]:
        return [str(self._root)]

    def stat(self, key: str) -> StoredFile | None:
        try:
            found = self._path(key).stat()
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(found.st_mode):
            return None
        return StoredFile(key, found.st_size, datetime.fromtimestamp(found.st_mtime, UTC))

    def delete(self, key: str) -> None:
        self._path(key).unlink(missing_ok=True)

    def list(self, prefix: str = "") -> Iterator[StoredFile]:
        start = self._path(prefix) if prefix else self._root
        if prefix and not start.exists():
            return
        for directory, names, files in os.walk(start, onerror=_raise):
            if Path(directory) == self._root and _STAGING in names:
                names.remove(_STAGING)
            for name in files:
                found = self.stat((Path(directory) / name).relative_to(self._root).as_posix())
                if found is not None:
                    yield found

    def check(self) -> None:
        # A name of its own for each probe: readiness is asked from several threads and hosts at once.
        probe = self.staging_dir() / f"probe-{uuid4()}"
        probe.write_bytes(b"timestore")
        probe.unlink()

    def _path(self, key: str) -> Path:
        return Path(self.location(key))


def _make_directories(directory: Path, root: Path) -> None:
    """Make what is missing, each made durable in its parent before a file in it can be.

    Also where another writer made it a moment ago: who comes second must not rely on the first one's sync.
    """
    missing = []
    while not directory.is_dir():
        missing.append(directory)
        if directory == root:
            break
        directory = directory.parent
    for one in reversed(missing):
        one.mkdir(parents=True, exist_ok=True)
        _sync(one.parent)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _raise(error: OSError) -> None:
    raise error
