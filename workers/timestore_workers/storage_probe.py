"""`timestore storage check`: does a target do all that the service needs of it, and if not, what to do about it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import duckdb
import pyarrow as pa

from timestore_core.engine.instance import Engine, EngineLimits
from timestore_core.engine.remote import HTTPFS, httpfs_statement
from timestore_core.errors import TimestoreError
from timestore_core.model import Field, Schema, StorageTarget, new_id
from timestore_core.partitions.stored import remove_staged
from timestore_core.runtime import Runtime
from timestore_core.settings import MIB
from timestore_core.storage import Access, InPlace, StorageDriver

_FOLDER = ".timestore-probe"
_FORMAT = "duckdb"
_ROWS = 100
_SCHEMA = Schema((Field("n", "integer"),))
_SKEW_S = 60

_KEYS = "the target's access key and secret (config, or the service's environment)"
_REGION = "the bucket is in another region; set config.region (and config.endpoint, where there is one) to the bucket's"
_SKEWED = "this host's clock differs from the store's by more than it accepts; set the clock (NTP)"
_NETWORK = "check config.endpoint, this host's DNS, its routes and its firewall"
# What to do about a failure, by the store's code or the class of the exception.
_REMEDIES = {
    "NoSuchBucket": "there is no such bucket; create it, or correct the bucket's name in the config",
    "AccessDenied": "these credentials may not do that here; let them read, write, list and delete objects of this "
    "bucket (s3:GetObject, s3:PutObject, s3:DeleteObject, s3:ListBucket)",
    "AllAccessDisabled": "the store has closed this bucket; ask its provider",
    "InvalidAccessKeyId": f"the store does not know this access key; correct {_KEYS}",
    "SignatureDoesNotMatch": f"the secret does not belong to the access key; correct {_KEYS}",
    "ExpiredToken": "the session token has expired; set a new one, or let the host's role give it",
    "InvalidToken": "the session token is not valid; set a new one, or none where the key needs none",
    "NoCredentialsError": f"there are no credentials; set {_KEYS}",
    "RequestTimeTooSkewed": _SKEWED,
    "AuthorizationHeaderMalformed": _REGION,
    "PermanentRedirect": _REGION,
    "IllegalLocationConstraintException": _REGION,
    "301": _REGION,
    # How botocore ends when each region sends it to another one.
    "RecursionError": _REGION,
    "EndpointConnectionError": f"no connection: refused, or no such host; {_NETWORK}",
    "ClientConnectorError": f"no connection: refused, or no such host; {_NETWORK}",
    "ConnectionRefusedError": f"nothing listens there; {_NETWORK}",
    "ConnectTimeoutError": f"no route: nobody answered in time; {_NETWORK}",
    "ReadTimeoutError": f"the store took the connection and did not answer in time; {_NETWORK}",
    "TimeoutError": f"nobody answered in time; {_NETWORK}",
    "ServiceRequestError": f"no connection; {_NETWORK}",
    "ConnectionClosedError": f"the store closed the connection; https where it speaks http, or the reverse? {_NETWORK}",
    "SSLError": "TLS fails: the certificate is not trusted or not for this name, or the endpoint speaks http; correct "
    "config.endpoint, or give this host the authority's certificate (AWS_CA_BUNDLE, SSL_CERT_FILE)",
    "SlowDown": "the store is overloaded; try again",
    "ImportError": "install that package where the service runs",
    "400": "the store does not understand the request: is it the right region and endpoint?",
    "401": f"the credentials are not accepted; correct {_KEYS}",
    "403": f"the credentials are not accepted, or may not do that; correct {_KEYS}, or what they may do",
    "404": "there is no such bucket or container; create it, or correct its name in the config",
}


class ProbeError(Exception):
    """What is wrong, in a sentence that holds no secret."""


@dataclass(frozen=True, slots=True)
class Step:
    """A step that went well: what was done, how long it took, and what to know about it."""

    what: str
    elapsed_ms: float
    notes: tuple[str, ...] = ()


def remedy(error: BaseException) -> str | None:
    """What to do about a store's failure, where it is one of those that people can do something about."""
    code = getattr(error, "code", None)
    found = _REMEDIES.get(code.removeprefix("HTTP ")) if isinstance(code, str) else None
    if found is not None:
        return found
    if isinstance(error, FileNotFoundError):
        return "there is no such bucket, container or directory; create it, or correct its name in the config"
    if isinstance(error, PermissionError):
        return "the user that runs the service may not read and write there; change the owner or the mode"
    if isinstance(error, NotADirectoryError | FileExistsError):
        return "a file is in the way where there must be a directory; correct the config's root, or move the file"
    return None


@dataclass(slots=True)
class Probe:
    """One check of one target. `steps` yields each step that went well, and raises ProbeError at the first that fails.

    What was put there is removed in any case, where the store lets it.
    """

    runtime: Runtime
    target: StorageTarget
    # Named like a partition, so that collection removes what a crash leaves.
    key: str = field(default_factory=lambda: f"{_FOLDER}/{new_id('part')}.duckdb")

    def steps(self) -> Iterator[Step]:
        with self._failing("open"):
            driver = self.runtime.targets.driver(self.target)
        try:
            # First, since the driver's own check asks so that the store says most about what it does not like.
            yield self._timed("write, read and delete a few bytes", lambda: _done(driver.check))
            yield self._timed("write a partition", lambda: self._put(driver))
            yield self._timed(*self._reading(driver))
            yield self._timed("list", lambda: self._list(driver))
            yield self._timed("delete", lambda: self._delete(driver))
        finally:
            with suppress(OSError):
                driver.delete(self.key)

    def _timed(self, what: str, work: Callable[[], tuple[str, ...]]) -> Step:
        began = time.monotonic()
        with self._failing(what):
            notes = work()
        return Step(what, 1000 * (time.monotonic() - began), notes)

    @contextmanager
    def _failing(self, what: str) -> Iterator[None]:
        try:
            yield
        except TimestoreError as error:
            raise ProbeError(f"cannot {what}: {error.message}") from error
        except duckdb.Error as error:
            # DuckDB's own text may repeat a signed URL.
            raise ProbeError(f"cannot {what}: {_of_duckdb(error)}") from error
        except OSError as error:
            todo = remedy(error)
            raise ProbeError(f"cannot {what}: {error.strerror or error}" + (f"; {todo}" if todo else "")) from error

    def _put(self, driver: StorageDriver) -> tuple[str, ...]:
        staged = driver.staging_dir() / f"probe-{uuid4()}.duckdb"
        rows = pa.table({"n": pa.array(range(_ROWS), pa.int64())})
        try:
            self.runtime.plugins.partition_format(_FORMAT).write(self.runtime.writing, staged, "records", _SCHEMA, rows)
            size_bytes = staged.stat().st_size
            stored = driver.put(staged, self.key)
        finally:
            remove_staged(staged)
        if stored.size_bytes != size_bytes:
            raise ProbeError(f"cannot write a partition: the store says {stored.size_bytes} bytes of {size_bytes}")
        return _about_age(stored.modified_at)

    def _reading(self, driver: StorageDriver) -> tuple[str, Callable[[], tuple[str, ...]]]:
        """How the service's queries would read the file, in words, and the way to do it."""
        with self._failing("say how files are read"):
            how = driver.in_place()
        if how is None:
            return "fetch it and read it", lambda: self._fetch(driver)
        if how.extension == HTTPFS and httpfs_statement() is None:
            note = "httpfs is not installed, so queries fetch files whole: pip install duckdb-extension-httpfs"
            return "fetch it and read it", lambda: (*self._fetch(driver), note)
        return "read it in place with DuckDB", lambda: self._read(driver.location(self.key), _access(driver, how))

    def _fetch(self, driver: StorageDriver) -> tuple[str, ...]:
        directory = self.runtime.settings.spill_dir / f"probe-{uuid4()}"
        directory.mkdir(parents=True)
        fetched = directory / "fetched.duckdb"
        try:
            driver.fetch(self.key, fetched)
            return self._read(str(fetched), Access(frozenset([str(directory)])))
        finally:
            fetched.unlink(missing_ok=True)
            with suppress(OSError):
                directory.rmdir()

    def _read(self, location: str, access: Access) -> tuple[str, ...]:
        spill: Path = self.runtime.settings.spill_dir
        limits = EngineLimits(1, 256 * MIB, 16 * MIB, spill)
        format_ = self.runtime.plugins.partition_format(_FORMAT)
        attach = format_.attach(location, "probe")
        relation = format_.relation(location, "probe", "records")
        with (
            closing(Engine("probe", limits)) as engine,
            engine.lease(access) as instance,
            instance.cursor() as cursor,
        ):
            if attach is not None:
                cursor.execute(attach)
            found = cursor.sql(f"FROM {relation}").aggregate("count(*), sum(n)").fetchone()
        if found != (_ROWS, _ROWS * (_ROWS - 1) // 2):
            raise ProbeError("cannot read it: other rows came back than were written")
        return ()

    def _list(self, driver: StorageDriver) -> tuple[str, ...]:
        if self.key not in {one.key for one in driver.list(_FOLDER)}:
            raise ProbeError("cannot list: the listing does not name a file that was just written")
        return ()

    def _delete(self, driver: StorageDriver) -> tuple[str, ...]:
        driver.delete(self.key)
        if driver.stat(self.key) is not None:
            raise ProbeError(
                "cannot delete: the file is still there; is the bucket locked or kept by a retention rule?"
            )
        return ()


def _done(work: Callable[[], None]) -> tuple[str, ...]:
    work()
    return ()


def _access(driver: StorageDriver, how: InPlace) -> Access:
    return Access(frozenset(driver.allowed_locations()), (how.secret,) if how.secret else ())


def _about_age(modified_at: datetime | None) -> tuple[str, ...]:
    if modified_at is None:
        return ("the store does not say when files were written: what crashes leave there is never deleted",)
    ahead_s = (modified_at - datetime.now(UTC)).total_seconds()
    if abs(ahead_s) > _SKEW_S:
        return (f"the store's clock is {abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'} this host's",)
    return ()


def _of_duckdb(error: duckdb.Error) -> str:
    """What DuckDB says, without its words."""
    status = re.search(r"HTTP (?:code )?(\d{3})|\((?:HTTP )?(\d{3})\)", str(error))
    code = next((one for one in status.groups() if one), None) if status else None
    said = f"DuckDB gets HTTP {code}" if code else f"DuckDB fails with {type(error).__name__}"
    todo = _REMEDIES.get(code or "")
    return (
        f"{said}, though the driver itself can write there"
        + (f"; {todo}" if todo else "")
        + "; config.endpoint, region and forcePathStyle must be right for DuckDB too"
    )
