"""The documents of a backup in their place: written whole, and read back checked."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar
from uuid import uuid4

import msgspec

from timestore_core.backup.documents import Part, seal, unseal
from timestore_core.backup.lines import LinesWriter
from timestore_core.backup.place import Place
from timestore_core.backup.problems import DamagedError
from timestore_core.partitions.checksum import sha1_of
from timestore_core.partitions.duckdb_file import sync_file
from timestore_core.partitions.stored import remove_staged

T = TypeVar("T")


def read_document(place: Place, key: str, kind: type[T]) -> T | None:
    """The document, or None where there is none. Raises DamagedError where it was altered."""
    found = _read(place, key)
    return None if found is None else unseal(found, kind, key)


def read_listed(place: Place, key: str, kind: type[T], part: Part) -> T:
    """The document that another one lists with its size and checksum. Raises DamagedError."""
    found = _read(place, key)
    if found is None:
        raise DamagedError(f"{key} is missing")
    if len(found) != part.size_bytes or _sha1(found) != part.checksum:
        raise DamagedError(f"{key} is not what was written")
    return unseal(found, kind, key)


def write_document(place: Place, key: str, document: msgspec.Struct) -> Part:
    """Write the document, in the place of one that an interrupted run may have left."""
    data = seal(document)
    with place.errors():
        staged = place.driver.staging_dir() / f"document-{uuid4()}"
        try:
            staged.write_bytes(data)
            sync_file(staged)
            place.driver.delete(key)
            place.driver.put(staged, key)
        finally:
            remove_staged(staged)
    return _part(data)


def part_of(document: msgspec.Struct) -> Part:
    """The size and checksum of the document as it was written."""
    return _part(seal(document))


@contextmanager
def written_lines(place: Place) -> Iterator[LinesWriter]:
    """A file of lines that is being written; `store_lines` puts it under its key. Gone when the block ends."""
    with place.errors():
        staged = place.driver.staging_dir() / f"lines-{uuid4()}"
        try:
            with LinesWriter(staged) as writer:
                yield writer
        finally:
            remove_staged(staged)


def store_lines(place: Place, key: str, writer: LinesWriter) -> Part:
    """Put the finished lines under the key, in the place of what an interrupted run may have left."""
    with place.errors():
        part = writer.finish()
        place.driver.delete(key)
        place.driver.put(writer.path, key)
    return part


@contextmanager
def fetched_part(source: Place, key: str, part: Part, scratch: Place) -> Iterator[Path]:
    """A local copy of the part, checked, in the other place's staging directory. Raises DamagedError."""
    with scratch.errors():
        fetched = scratch.driver.staging_dir() / f"part-of-backup-{uuid4()}"
    try:
        with source.errors():
            try:
                source.driver.fetch(key, fetched)
            except FileNotFoundError:
                raise DamagedError(f"{key} is missing") from None
        if fetched.stat().st_size != part.size_bytes or sha1_of(fetched) != part.checksum:
            raise DamagedError(f"{key} is not what was written")
        yield fetched
    finally:
        remove_staged(fetched)


def _read(place: Place, key: str) -> bytes | None:
    with place.errors(), TemporaryDirectory(prefix="timestore-backup-") as folder:
        fetched = Path(folder) / "document"
        try:
            place.driver.fetch(key, fetched)
        except FileNotFoundError:
            return None
        return fetched.read_bytes()


def _part(data: bytes) -> Part:
    return Part(1, len(data), _sha1(data))


def _sha1(data: bytes) -> str:
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()
