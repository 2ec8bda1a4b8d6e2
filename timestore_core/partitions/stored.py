"""From a written file to one under its final key: staged, checked, put, and removed again where that fails.

staged   a temporary file in the target's staging directory: swept away when it is old
stored   a file under its final key, named by nobody: collection removes it when it is old
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from timestore_core.errors import InsufficientStorage, TimestoreError, Unavailable
from timestore_core.model import StorageTarget, new_id
from timestore_core.partitions.checksum import sha1_of
from timestore_core.partitions.format import WrittenFile
from timestore_core.partitions.inline import EXTENSION, FORMAT
from timestore_core.partitions.paths import partition_key_path
from timestore_core.plugins import PluginHost
from timestore_core.runtime import Runtime
from timestore_core.storage import StorageDriver
from timestore_core.times import running_s

log = structlog.get_logger(__name__)

_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, slots=True)
class StoredPartition:
    """A file under its final key.

    After `publish_before_s` (of `times.running_s`) collection may take it for a crash's leftover: a process that
    was stopped for so long writes it anew.
    """

    partition_id: str
    target: StorageTarget
    format: str
    key: str
    size_bytes: int
    checksum: str
    written: WrittenFile
    publish_before_s: float


@dataclass(frozen=True, slots=True)
class Place:
    """Where a partition is to stand, and in which format."""

    target: StorageTarget
    slug: str
    partition_key: Mapping[str, str]
    format: str


def store_partition(runtime: Runtime, place: Place, step: str, write: Callable[[Path], WrittenFile]) -> StoredPartition:
    """Let `write` fill a new file, then put it under a key that no other attempt can have.

    Tells `<step>.file_written` and `<step>.file_stored`. Raises InsufficientStorage where the store is full and
    Unavailable where it fails; nothing is left behind then.
    """
    partition_id = new_id("part")
    extension = extension_of(runtime.plugins, place.format)
    key = partition_key_path(place.slug, place.partition_key, partition_id, extension)
    driver = runtime.targets.owned_driver(place.target)
    with storage_errors(place.target):
        staged = driver.staging_dir() / f"{partition_id}.{extension}"
        try:
            written = write(staged)
            checksum = sha1_of(staged)
            runtime.plugins.step(f"{step}.file_written")
            # The deadline counts from before the file gets its age: whoever is stopped anywhere after this is late.
            deadline_s = running_s() + runtime.settings.lifecycle_orphan_age_minutes * 60 / 2
            os.utime(staged)
            stored = driver.put(staged, key)
        finally:
            remove_staged(staged)
    runtime.plugins.step(f"{step}.file_stored")
    return StoredPartition(
        partition_id, place.target, place.format, stored.key, stored.size_bytes, checksum, written, deadline_s
    )


def extension_of(plugins: PluginHost, format_name: str) -> str:
    """What a file of this format ends in. Raises NotFound where no plugin gives the format."""
    return EXTENSION if format_name == FORMAT else plugins.partition_format(format_name).extension


def discard(driver: StorageDriver, key: str) -> None:
    """Remove a file that this attempt wrote and nobody will name. A failure leaves it to collection."""
    try:
        driver.delete(key)
    except OSError:
        log.warning("storage.discard_failed", key=key)


def remove_staged(staged: Path) -> None:
    """Remove a temporary file and what DuckDB may have left beside it."""
    for path in (staged, staged.with_name(f"{staged.name}.wal")):
        with suppress(OSError):
            path.unlink(missing_ok=True)


@contextmanager
def storage_errors(target: StorageTarget) -> Iterator[None]:
    """A failing store is the service's trouble, not the client's: 507 when it is full, else 503."""
    try:
        yield
    except TimestoreError:
        raise
    except OSError as error:
        log.error("storage.failed", target=target.name, error=str(error)[:300])
        if error.errno in _FULL:
            raise InsufficientStorage(f"the storage target {target.name} is full; nothing was published") from error
        raise Unavailable(
            f"the storage target {target.name} cannot be written; nothing was published", retry_after_s=5
        ) from error
