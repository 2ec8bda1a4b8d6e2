"""What a storage driver is: a place for immutable files, named by keys below a target's root.

A key is a relative path with `/` between its segments, made by `partitions.paths`; drivers join it to their
root and never interpret it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from timestore_core.settings import Settings


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file as the store reports it: its key, its size in bytes, and when it was put there."""

    key: str
    size_bytes: int
    modified_at: datetime | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Secret:
    """What DuckDB needs to reach a remote place: a secret of this type for everything below `scope`.

    `options` are those of CREATE SECRET, such as KEY_ID and SECRET; its text form shows none of their values.
    """

    type: str
    scope: str
    options: Mapping[str, str | bool] = field(repr=False)


@dataclass(frozen=True, slots=True)
class InPlace:
    """How DuckDB reads a store's files where they are: with an extension and a secret, or, local ones, with neither."""

    extension: str | None = None
    secret: Secret | None = None


@dataclass(frozen=True, slots=True)
class Access:
    """What an engine must be able to reach: directories or URL prefixes, and the secrets for the latter."""

    locations: frozenset[str]
    secrets: tuple[Secret, ...] = ()


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

    def in_place(self) -> InPlace | None:
        """How DuckDB can read files under their `location`, or None where it cannot: they are fetched then.

        Asked before each use, so that credentials which expire are always fresh.
        """

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


@runtime_checkable
class SizedFetch(Protocol):
    """What a driver may offer beside: a download that ends where the file should, whatever the store sends.

    Without it the store is asked for the file's size first, and a file of another size is not downloaded.
    """

    def fetch_sized(self, key: str, destination: Path, size_bytes: int) -> None:
        """As `fetch`; raises OSError, as soon as that shows, where the file is not of this size."""


@dataclass(frozen=True, slots=True)
class StorageKind:
    """How targets of one kind are opened, as a plugin gives it.

    `open` takes the target's config and returns its driver (ValueError names what the config lacks); before that
    `complete` adds from the service's settings what the config leaves open, and where files may be staged;
    `default_config` gives the config of the default target from the service's settings; the values of
    `secret_keys` are never shown.
    """

    open: Callable[[Mapping[str, Any]], StorageDriver]
    default_config: Callable[[Settings], Mapping[str, Any]]
    secret_keys: frozenset[str] = field(default_factory=frozenset)
    complete: Callable[[Mapping[str, Any], Settings], Mapping[str, Any]] = lambda config, _: config
