"""What stands in a backup's documents, and how a document is sealed so that an altered byte is noticed.

JSON that the catalog keeps goes in and out as the text that PostgreSQL writes: no number loses a digit on the way.
"""

from __future__ import annotations

import hashlib
from typing import Any, TypeVar

import msgspec

from timestore_core.backup.problems import DamagedError

FORMAT = 1
T = TypeVar("T")


class Part(msgspec.Struct, frozen=True, rename="camel"):
    """A file of the backup that has so many lines: its size in bytes and its SHA-1."""

    lines: int
    size_bytes: int
    checksum: str


class Chosen(msgspec.Struct, frozen=True, rename="camel"):
    """A dataset that a backup is to hold."""

    id: str
    slug: str


class Begun(msgspec.Struct, frozen=True, rename="camel"):
    """What a backup is to hold. `asked` are the slugs that were asked for, None for all that there were."""

    backup_id: str
    name: str
    catalog_id: str
    service_version: str
    begun_at: str
    asked: list[str] | None
    datasets: list[Chosen]


class Fixed(msgspec.Struct, frozen=True, rename="camel"):
    """The version that the backup has of a dataset, 0 for one without a snapshot, and the keys published up to it."""

    version: int
    keys: Part


class Key(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A line of the keys: an idempotency key, and the batch that it counts once. `at` is an ISO-8601 time."""

    key: str
    manifest_id: str
    at: str
    hash: str | None = None
    job: str | None = None


class Copy(msgspec.Struct, frozen=True, rename="camel"):
    """A line of the partitions: the partition's row, and the file that holds it here. `columns` may be null."""

    id: str
    file: str
    size_bytes: int
    checksum: str
    rows: int | None
    format: str
    key: msgspec.Raw
    start: str
    end: str
    metadata: msgspec.Raw
    columns: msgspec.Raw
    created_at: str


class DatasetRow(msgspec.Struct, frozen=True, rename="camel"):
    """The dataset itself. `storage_target` is the name of the place that its batches went to, where it had one."""

    id: str
    slug: str
    name: str
    description: str | None
    status: str
    write_format: str
    storage_target: str | None
    metadata: msgspec.Raw
    created_at: str


class SchemaRow(msgspec.Struct, frozen=True, rename="camel"):
    """The schema version of the snapshot."""

    version: int
    description: str | None
    schema: msgspec.Raw
    checksum: str | None
    created_at: str


class ManifestRow(msgspec.Struct, frozen=True, rename="camel"):
    """The snapshot's manifest."""

    id: str
    version: int
    summary: msgspec.Raw
    statistics: msgspec.Raw
    metadata: msgspec.Raw
    created_by: str | None
    created_at: str
    published_at: str | None


class DatasetDocument(msgspec.Struct, frozen=True, rename="camel"):
    """All that the backup has of a dataset; `policy` is null where it has none of its own."""

    dataset: DatasetRow
    version: int
    schema: SchemaRow | None
    manifest: ManifestRow | None
    policy: msgspec.Raw
    partitions: Part
    rows: int
    bytes: int
    keys: Part


class Summary(msgspec.Struct, frozen=True, rename="camel"):
    """A dataset of a complete backup, and its document's size and SHA-1."""

    id: str
    slug: str
    version: int
    partitions: int
    rows: int
    bytes: int
    keys: int
    document: Part


class Finished(msgspec.Struct, frozen=True, rename="camel"):
    """The last document of a backup."""

    backup_id: str
    name: str
    catalog_id: str
    service_version: str
    begun_at: str
    finished_at: str
    datasets: list[Summary]


class _Sealed(msgspec.Struct, frozen=True):
    format: int
    sha1: str
    content: msgspec.Raw


def seal(document: msgspec.Struct) -> bytes:
    """The document as JSON, with the SHA-1 of its own bytes."""
    content = msgspec.json.encode(document)
    return msgspec.json.encode(_Sealed(FORMAT, _sha1(content), msgspec.Raw(content))) + b"\n"


def unseal(data: bytes, kind: type[T], name: str) -> T:
    """The document of that name. Raises DamagedError where a byte of it was changed, or a later version wrote it."""
    try:
        sealed = msgspec.json.decode(data, type=_Sealed)
        if sealed.format > FORMAT:
            raise DamagedError(f"{name} was written by a later version (format {sealed.format}); read it with that one")
        content = bytes(sealed.content)
        if sealed.sha1 != _sha1(content) or data != msgspec.json.encode(sealed) + b"\n":
            raise DamagedError(f"{name} is not what was written")
        return msgspec.json.decode(content, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise DamagedError(f"{name} is not what was written") from None


def raw(text: str | None) -> msgspec.Raw:
    """JSON that PostgreSQL wrote, to be put into a document as it is."""
    return msgspec.Raw(b"null" if text is None else text.encode())


def text_of(value: msgspec.Raw) -> str | None:
    """The inverse of `raw`."""
    found = bytes(value)
    return None if found == b"null" else found.decode()


def object_of(value: msgspec.Raw) -> dict[str, Any]:
    """The JSON object as Python has it; empty where it is none."""
    found = msgspec.json.decode(bytes(value))
    return found if isinstance(found, dict) else {}


def _sha1(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()
