"""Files in a bucket, through fsspec. A file counts as written when the store says that it has every byte."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import stamina

from timestore_core.storage import InPlace, StoredFile

T = TypeVar("T")

_TRIES = 4
_TRY_FOR_S = 45.0
_MODIFIED = ("LastModified", "last_modified", "updated", "mtime", "timeCreated", "created")
_PROBE = b"timestore"
# What these tell at debug level are whole requests and answers: tokens, signatures, and what a store repeats of them.
_TALKATIVE = ("aiobotocore", "botocore", "s3fs", "gcsfs", "google", "adlfs", "azure", "fsspec", "urllib3", "aiohttp")


class RemoteError(OSError):
    """A store that failed; `transient` ones are worth another try. `code` is the kind of failure, see `_name`."""

    def __init__(self, message: str, *, transient: bool, code: str | None = None) -> None:
        super().__init__(errno.EIO, message)
        self.transient = transient
        self.code = code


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


class RemoteDriver:
    """One target. `connect` gives the fsspec file system, once; `in_place` says how DuckDB may read it itself."""

    def __init__(
        self,
        kind: str,
        bucket: Bucket,
        staging: Path,
        connect: Callable[[], Any],
        in_place: Callable[[], InPlace | None] = lambda: None,
    ) -> None:
        self._kind = kind
        self._bucket = bucket
        self._staging = staging
        self._connect = connect
        self._in_place = in_place
        self._opened: Any = None
        for name in _TALKATIVE:
            logging.getLogger(name).setLevel(logging.WARNING)

    def staging_dir(self) -> Path:
        self._staging.mkdir(parents=True, exist_ok=True)
        return self._staging

    def put(self, source: Path, key: str) -> StoredFile:
        path, size_bytes = self._bucket.path(key), source.stat().st_size
        if self.stat(key) is not None:
            raise FileExistsError(errno.EEXIST, f"{key}: is taken")
        # Nobody else can have made this name up: what is there after a failed try is ours, whole or not at all.
        self._try("write", lambda: self._file_system().put_file(str(source), path))
        found = self.stat(key)
        if found is None or found.size_bytes != size_bytes:
            raise RemoteError(f"{self._kind}: {key} is not there, or not whole, after it was stored", transient=True)
        source.unlink()
        return found

    def fetch(self, key: str, destination: Path) -> None:
        path = self._bucket.path(key)

        def get() -> None:
            destination.unlink(missing_ok=True)
            self._file_system().get_file(path, str(destination))

        self._try("read", get)
        expected = self.stat(key)
        if expected is None or destination.stat().st_size != expected.size_bytes:
            raise RemoteError(f"{self._kind}: {key} came cut short", transient=True)

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
            found = self._try("look up", lambda: self._file_system().info(path, refresh=True))
        except FileNotFoundError:
            return None
        return _stored(key, found) if found.get("type") == "file" else None

    def delete(self, key: str) -> None:
        path = self._bucket.path(key)
        with suppress(FileNotFoundError):
            self._try("delete", lambda: self._file_system().rm_file(path))

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
        self._try("write", lambda: self._file_system().pipe_file(path, _PROBE))
        try:
            if self._try("read", lambda: self._file_system().cat_file(path)) != _PROBE:
                raise RemoteError(f"{self._kind}: does not give back what was written", transient=False)
        finally:
            self.delete(key)

    def _file_system(self) -> Any:
        if self._opened is None:
            self._opened = self._connect()
        return self._opened

    def _try(self, what: str, work: Callable[[], T]) -> T:
        """The work, again where trying again can help. Every step here may be repeated."""
        for attempt in stamina.retry_context(
            on=_is_transient, attempts=_TRIES, timeout=_TRY_FOR_S, wait_initial=0.1, wait_max=3.0
        ):
            with attempt, self._explained(what):
                return work()
        raise AssertionError("unreachable")

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        """Turn whatever the libraries raise into an OSError that says what failed and repeats nothing that came."""
        try:
            yield
        except FileNotFoundError:
            raise FileNotFoundError(errno.ENOENT, f"{self._kind}: there is no such file or bucket") from None
        except PermissionError as error:
            code = _name(error)
            raise RemoteError(f"{self._kind}: no permission to {what} ({code})", transient=False, code=code) from error
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT) and what == "read":
                raise
            if isinstance(error.__cause__, ImportError):
                # The text is our own, and says which package.
                raise RemoteError(f"{self._kind}: {error}", transient=False, code="ImportError") from error
            code = _name(error)
            raise RemoteError(f"{self._kind}: cannot {what} ({code})", transient=True, code=code) from error
        except TimeoutError as error:
            raise RemoteError(
                f"{self._kind}: did not answer in time to {what}", transient=True, code="TimeoutError"
            ) from error
        except Exception as error:
            code = _name(error)
            raise RemoteError(f"{self._kind}: cannot {what} ({code})", transient=True, code=code) from error


def staging_below(spill: Path) -> Path:
    """The local directory where files of remote targets are written before they are sent."""
    return spill.parent / "staging"


def _is_transient(error: Exception) -> bool:
    return isinstance(error, RemoteError) and error.transient


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


def _name(error: BaseException) -> str:
    """What kind of failure it was: a class, a code of the store or of the system, never its text."""
    for one in (error, error.__cause__, error.__context__):
        response = getattr(one, "response", None)
        if isinstance(response, dict):
            code = response.get("Error", {}).get("Code")
            if isinstance(code, str) and code.isalnum():
                return code
        status = getattr(one, "code", None) or getattr(one, "status_code", None)
        if isinstance(status, int):
            return f"HTTP {status}"
    number = getattr(error, "errno", None)
    return os.strerror(number) if isinstance(number, int) and number else type(error).__name__
