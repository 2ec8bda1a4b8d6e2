"""What a storage driver is: a place for immutable files, named by keys below a target's root.

A key is a relative path with `/` between its segments, made by `partitions.paths`; drivers join it to their
root and never interpret it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from timestore_core.settings import Settings


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file as the store reports it: its key, its size in bytes, and when it was put there."""

    key: str
    size_bytes: int
    modified_at: datetime | None = field(default=None, compare=False)


class StorageDriver(Protocol):
    """One storage target, opened. Thread-safe; made once per process and target.

    Every method raises OSError (or a subclass) when the store fails, with a text that holds no secret.
    """

    def staging_dir(self) -> Path:
        """A local directory, on the store's own file system where it is local, for files being written."""

    def put(self, source: Path, key: str) -> StoredFile:
        """Store the finished local file under the key, durably, and remove the source.

        When this returns, the store has said that it holds the whole file. Never overwrites: FileExistsError
        where the key is taken.
        """

    def fetch(self, key: str, destination: Path) -> None:
        """Copy the stored file to a local path that does not exist yet. FileNotFoundError where there is none."""

    def location(self, key: str) -> str:
        """The path or URL under which DuckDB opens the file in place."""

    def allowed_locations(self) -> Sequence[str]:
        """The directories (or URL prefixes) that DuckDB must be allowed to read for `location`."""

    def stat(self, key: str) -> StoredFile | None:
        """The file, or None where there is none."""

    def delete(self, key: str) -> None:
        """Remove the file; no error where there is none."""

    def list(self, prefix: str = "") -> Iterator[StoredFile]:
        """Every file below the prefix, a whole path segment or several; raises when the listing is not complete."""

    def check(self) -> None:
        """Raise OSError unless the target can be read and written now."""


@dataclass(frozen=True, slots=True)
class StorageKind:
    """How targets of one kind are opened, as a plugin gives it.

    `open` takes the target's config and returns its driver (ValueError names what the config lacks);
    `default_config` gives the config of the default target from the service's settings; the values of
    `secret_keys` are never shown.
    """

    open: Callable[[Mapping[str, Any]], StorageDriver]
    default_config: Callable[[Settings], Mapping[str, Any]]
    secret_keys: frozenset[str] = field(default_factory=frozenset)
