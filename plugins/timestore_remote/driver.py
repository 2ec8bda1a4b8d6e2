"""Files in a bucket, through fsspec. A file counts as written when the store says that it has every byte."""

from __future__ import annotations

import errno
import filecmp
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import stamina

from timestore_core.storage import InPlace, StoredFile
from timestore_remote.failures import RemoteError, explained, is_not_understood, is_transient

T = TypeVar("T")

_TRIES = 4
_DEFAULT_RETRY_MS = 5_000
# What a transfer may take beside: a large file is worth more than a failure at its end costs.
_TRIED_AGAIN_BYTES_PER_S = 10 * 2**20
# One request that takes longer than this, and than its bytes take at this speed, has failed.
_DEADLINE_S = 30
_SLOWEST_BYTES_PER_S = 2**18
_MODIFIED = ("LastModified", "last_modified", "updated", "mtime", "timeCreated", "created")
_PROBE = b"timestore"
# What these tell at debug level are whole requests and answers: tokens, signatures, and what a store repeats of them.
_TALKATIVE = ("aiobotocore", "botocore", "s3fs", "gcsfs", "google", "adlfs", "azure", "fsspec", "urllib3", "aiohttp")


@dataclass(frozen=True, slots=True)
class Bucket:
    """Where a target's files are: the bucket (or container), the prefix in it, and both as a URL for DuckDB."""

    name: str
    prefix: str
    url: str

    def path(self, key: str) -> str:
        """The file's path as fsspec takes it. Raises OSError for a key that leads elsewhere."""
        if key.startswith("/") or any(one in ("", ".", "..") for one in key.split("/")):
            raise OSError(errno.EINVAL, f"{key[:200]!r}: is no key of a file")
        return "/".join(part for part in (self.name, self.prefix, key) if part)

    @property
    def root(self) -> str:
        return "/".join(part for part in (self.name, self.prefix) if part)


@dataclass(frozen=True, slots=True)
class Habits:
    """How one kind's library is used: how often a call is tried, for how long, and what a download is asked with.

    `tries` is 1 where the library tries again by itself and cannot be told not to; `deadline_s` ends it then.
    """

    retry_ms: int = _DEFAULT_RETRY_MS
    tries: int = _TRIES
    deadline_s: float = _DEADLINE_S
    download: Mapping[str, Any] = field(default_factory=dict)


class RemoteDriver:
    """One target. `connect` gives the fsspec file system, once; `in_place` says how DuckDB may read it itself.

    The libraries' own retries are switched off by `connect`: what can help is tried again here, and nowhere else.
    """

    def __init__(
        self,
        kind: str,
        bucket: Bucket,
        staging: Path,
        connect: Callable[[], Any],
        in_place: Callable[[], InPlace | None] = lambda: None,
        habits: Habits = Habits(),
    ) -> None:
        self._kind = kind
        self._bucket = bucket
        self._staging = staging
        self._connect = connect
        self._in_place = in_place
        self._habits = habits
        self._opened: Any = None
        self._knows_conditions = True
        for name in _TALKATIVE:
            logging.getLogger(name).setLevel(logging.WARNING)
        # It logs each error with the store's own words; the driver raises it without them.
        logging.getLogger("gcsfs").setLevel(logging.CRITICAL)

    def staging_dir(self) -> Path:
        self._staging.mkdir(parents=True, exist_ok=True)
        return self._staging

    def put(self, source: Path, key: str) -> StoredFile:
        path, size_bytes = self._bucket.path(key), source.stat().st_size
        # Also where the store is asked to refuse it: some take no notice of the condition.
        if self.stat(key) is not None:
            raise FileExistsError(errno.EEXIST, f"{key}: is taken")
        try:
            self._try("write", lambda: self._write(source, path, size_bytes), size_bytes)
        except (FileExistsError, FileNotFoundError):
            # Where an earlier answer was lost (the libraries too send a request twice) the file in our way is our own;
            # and an upload in parts that was ended without our hearing of it is not there any more to be given up.
            if not self._is_stored(source, key):
                raise
        found = self.stat(key)
        if found is None or found.size_bytes != size_bytes:
            raise RemoteError(f"{self._kind}: {key} is not there, or not whole, after it was stored", transient=True)
        source.unlink()
        return found

    def fetch(self, key: str, destination: Path) -> None:
        found = self.stat(key)
        if found is None:
            raise FileNotFoundError(errno.ENOENT, f"{self._kind}: there is no such file or bucket")
        self.fetch_sized(key, destination, found.size_bytes)

    def fetch_sized(self, key: str, destination: Path, size_bytes: int) -> None:
        path = self._bucket.path(key)

        def get() -> None:
            destination.unlink(missing_ok=True)
            limit = _AtMost(size_bytes, self._kind)
            deadline_s = self._deadline_s(size_bytes)
            self._file_system().get_file(
                path, str(destination), callback=limit, timeout=deadline_s, **self._habits.download
            )
            if destination.stat().st_size != size_bytes:
                raise RemoteError(f"{self._kind}: a file came cut short", transient=True)

        try:
            self._try("read", get, size_bytes)
        except BaseException:
            destination.unlink(missing_ok=True)
            raise

    def in_place(self) -> InPlace | None:
        return self._in_place()

    def location(self, key: str) -> str:
        self._bucket.path(key)
        return f"{self._bucket.url}/{key}"

    def allowed_locations(self) -> Sequence[str]:
        return [f"{self._bucket.url}/"]

    def stat(self, key: str) -> StoredFile | None:
        path = self._bucket.path(key)
        try:
            found = self._try(
                "look up", lambda: self._file_system().info(path, refresh=True, timeout=self._habits.deadline_s)
            )
        except FileNotFoundError:
            return None
        return _stored(key, found) if found.get("type") == "file" else None

    def delete(self, key: str) -> None:
        path = self._bucket.path(key)
        with suppress(FileNotFoundError):
            self._try("delete", lambda: self._file_system().rm_file(path, timeout=self._habits.deadline_s))

    def list(self, prefix: str = "") -> Iterator[StoredFile]:
        start = self._bucket.path(prefix) if prefix else self._bucket.root
        try:
            found = self._try("list", lambda: self._file_system().find(start, detail=True, refresh=True))
        except FileNotFoundError:
            return
        skipped = len(self._bucket.root) + 1
        for path, about in found.items():
            if about.get("type") == "file":
                yield _stored(path[skipped:], about)

    def check(self) -> None:
        """Write, read and delete a probe."""
        key = f".timestore-probe/{uuid4()}"
        path = self._bucket.path(key)
        try:
            self._try("write", lambda: self._file_system().pipe_file(path, _PROBE))
            if self._try("read", lambda: self._file_system().cat_file(path)) != _PROBE:
                raise RemoteError(f"{self._kind}: does not give back what was written", transient=False)
        finally:
            self.delete(key)

    def _file_system(self) -> Any:
        if self._opened is None:
            self._opened = self._connect()
        return self._opened

    def _write(self, source: Path, path: str, size_bytes: int) -> None:
        """Store the file unless there is one; where the store does not know that condition, whatever there is."""
        system, deadline_s = self._file_system(), self._deadline_s(size_bytes)
        if self._knows_conditions:
            try:
                with explained(self._kind, "write"):
                    system.put_file(str(source), path, mode="create", timeout=deadline_s)
                return
            except RemoteError as error:
                if not is_not_understood(error):
                    raise
        system.put_file(str(source), path, timeout=deadline_s)
        self._knows_conditions = False

    def _is_stored(self, source: Path, key: str) -> bool:
        """Whether the store has this very file under the key."""
        found = self.stat(key)
        if found is None or found.size_bytes != source.stat().st_size:
            return False
        fetched = self.staging_dir() / f"compared-{uuid4()}"
        try:
            self.fetch_sized(key, fetched, found.size_bytes)
            return filecmp.cmp(source, fetched, shallow=False)
        finally:
            fetched.unlink(missing_ok=True)

    def _deadline_s(self, size_bytes: int) -> float:
        return self._habits.deadline_s + size_bytes / _SLOWEST_BYTES_PER_S

    def _try(self, what: str, work: Callable[[], T], size_bytes: int = 0) -> T:
        """The work, again where trying again can help. Every step here may be repeated."""
        for_s = self._habits.retry_ms / 1000
        for attempt in stamina.retry_context(
            on=is_transient,
            attempts=self._habits.tries if for_s else 1,
            timeout=for_s + size_bytes / _TRIED_AGAIN_BYTES_PER_S or None,
            wait_initial=0.1,
            wait_max=2.0,
            wait_jitter=0.4,
        ):
            with attempt, explained(self._kind, what):
                return work()
        raise AssertionError("unreachable")


class _AtMost:
    """What fsspec tells of a download; ends it when the store announces or sends more than the file has."""

    def __init__(self, size_bytes: int, kind: str) -> None:
        self._size_bytes = size_bytes
        self._kind = kind
        self._came = 0

    def set_size(self, size: int | None) -> None:
        if size is not None and size > self._size_bytes:
            raise RemoteError(f"{self._kind}: a file is larger than it was written", transient=False)

    def absolute_update(self, value: int) -> None:
        self._came = value
        self.set_size(value)

    def relative_update(self, inc: int = 1) -> None:
        self.absolute_update(self._came + inc)


def staging_below(spill: Path) -> Path:
    """The local directory where files of remote targets are written before they are sent."""
    return spill.parent / "staging"


def _stored(key: str, about: dict[str, Any]) -> StoredFile:
    return StoredFile(key, int(about.get("size") or 0), _modified(about))


def _modified(about: dict[str, Any]) -> datetime | None:
    for name in _MODIFIED:
        value = about.get(name)
        if isinstance(value, str):
            try:
                value = datetime.fromisoformat(value.replace("Z", "+00:00"))
            except ValueError:
                continue
        if isinstance(value, int | float):
            value = datetime.fromtimestamp(value, UTC)
        if isinstance(value, datetime):
            return value if value.tzinfo is not None else value.replace(tzinfo=UTC)
    return None
