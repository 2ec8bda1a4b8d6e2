"""Where DuckDB finds partitions: local files as they are, remote ones in the cache, or streamed from their store.

Which way a remote file takes: what the cache has is read there. What it lacks and is smaller than
TIMESTORE_QUERY_FETCH_BELOW_BYTES is fetched into it, since one request for the whole costs about what DuckDB's first
requests for its header do, and every later query is local. Larger files are streamed, of which a narrow query reads a
part. What cannot be streamed (no httpfs, no such extension for the store, a format without checksums of its own) is
fetched always; what the cache has no room for is streamed, or fetched for the time of the query.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import structlog

from timestore_core.engine.remote import HTTPFS, httpfs_statement
from timestore_core.errors import PartitionUnreadable, Unavailable
from timestore_core.model import Partition, StorageTarget
from timestore_core.partitions.cache import AlteredFileError, CachedFile, Held
from timestore_core.partitions.checksum import sha1_of
from timestore_core.partitions.stored import remove_staged
from timestore_core.runtime import Runtime
from timestore_core.storage import Access, InPlace, Secret, SizedFetch, StorageDriver

log = structlog.get_logger(__name__)

# The formats in whose files DuckDB itself notices a flipped bit; others are held against their checksum first.
_CHECKED_FORMATS = frozenset({"duckdb"})
_PARALLEL_FETCHES = 8
_TRIES = 2


@dataclass(frozen=True, slots=True)
class Located:
    """Each partition's path or URL by its id, what an engine must be able to reach for them, and how they came.

    `streamed` are read from their store, `cached` from the cache: where such a file cannot be read, fetching it
    (anew) may help. `fetched` were not in the cache before.
    """

    locations: Mapping[str, str]
    access: Access
    streamed: frozenset[str]
    cached: Mapping[str, CachedFile]
    fetched: frozenset[str] = frozenset()

    @property
    def remote(self) -> bool:
        """Whether any of them is kept by a remote store."""
        return bool(self.streamed or self.cached)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A partition with its store."""

    partition: Partition
    target: StorageTarget
    driver: StorageDriver
    in_place: InPlace | None

    @property
    def file(self) -> CachedFile | None:
        checksum, size_bytes = self.partition.checksum, self.partition.file_size_bytes
        if checksum is None or not size_bytes:
            return None
        return CachedFile(checksum, size_bytes, self.partition.file_path.rsplit(".", 1)[-1])

    @property
    def can_stream(self) -> bool:
        if self.in_place is None or self.partition.file_format not in _CHECKED_FORMATS:
            return False
        return self.in_place.extension is None or (self.in_place.extension == HTTPFS and httpfs_statement() is not None)


@contextmanager
def located(runtime: Runtime, partitions: Sequence[Partition], *, stream: bool = True) -> Iterator[Located]:
    """The partitions' places, held for the time of the block. Without `stream` every remote file is fetched.

    Raises Unavailable naming a storage target that cannot be read, PartitionUnreadable where a file is missing.
    """
    local, remote = _divided(runtime, partitions)
    locations = {one.partition.id: one.driver.location(one.partition.file_path) for one in local}
    allowed = {place for one in local for place in one.driver.allowed_locations()}
    with ExitStack() as held:
        found, streamed, cached, fetched = _remote_places(runtime, remote, held, stream=stream)
        locations |= found
        secrets: dict[str, Secret] = {}
        for one in remote:
            if one.partition.id in streamed:
                allowed |= set(one.driver.allowed_locations())
                if one.in_place is not None and one.in_place.secret is not None:
                    secrets[one.in_place.secret.scope] = one.in_place.secret
        if remote:
            allowed |= {runtime.cache.location, str(_passing_dir(runtime))}
        access = Access(frozenset(allowed), tuple(secrets.values()))
        yield Located(locations, access, frozenset(streamed), cached, frozenset(fetched))
    if cached:
        runtime.cache.flush()


def _divided(runtime: Runtime, partitions: Sequence[Partition]) -> tuple[list[_Wanted], list[_Wanted]]:
    """Those whose files are on a local disk already, and those of remote stores."""
    local: list[_Wanted] = []
    remote: list[_Wanted] = []
    known: dict[str, tuple[StorageTarget, StorageDriver, InPlace | None]] = {}
    for partition in partitions:
        if partition.storage_target_id not in known:
            target = runtime.targets.get(partition.storage_target_id)
            driver = runtime.targets.driver(target)
            known[target.id] = (target, driver, _in_place(target, driver))
        wanted = _Wanted(partition, *known[partition.storage_target_id])
        is_local = wanted.in_place is not None and wanted.in_place.extension is None
        (local if is_local else remote).append(wanted)
    return local, remote


def _in_place(target: StorageTarget, driver: StorageDriver) -> InPlace | None:
    try:
        return driver.in_place()
    except OSError as error:
        raise _away(target, error) from error


def _remote_places(
    runtime: Runtime, remote: Sequence[_Wanted], held: ExitStack, *, stream: bool
) -> tuple[dict[str, str], set[str], dict[str, CachedFile], set[str]]:
    """The places of remote partitions, which are streamed, which lie in the cache, and which came only now."""
    places, streamed, cached = dict[str, str](), set[str](), dict[str, CachedFile]()
    missing = []
    for one in remote:
        kept = runtime.cache.hold(one.file) if runtime.settings.query_cache_enabled and one.file is not None else None
        if kept is None or one.file is None:
            missing.append(one)
        else:
            held.callback(kept.let_go)
            places[one.partition.id], cached[one.partition.id] = str(kept.path), one.file
    fetching = []
    for one in missing:
        large = one.partition.file_size_bytes >= runtime.settings.query_fetch_below_bytes
        if stream and one.can_stream and (large or not runtime.settings.query_cache_enabled):
            streamed.add(one.partition.id)
            places[one.partition.id] = one.driver.location(one.partition.file_path)
        else:
            fetching.append(one)
    for one, fetched in zip(fetching, _fetch_all(runtime, fetching, stream=stream), strict=True):
        if isinstance(fetched, Held) and one.file is not None:
            held.callback(fetched.let_go)
            places[one.partition.id], cached[one.partition.id] = str(fetched.path), one.file
        elif isinstance(fetched, Path):
            held.callback(remove_staged, fetched)
            places[one.partition.id] = str(fetched)
        else:
            streamed.add(one.partition.id)
            places[one.partition.id] = one.driver.location(one.partition.file_path)
    came = {one.partition.id for one in fetching} - streamed
    return places, streamed, cached, came


def _fetch_all(runtime: Runtime, wanted: Sequence[_Wanted], *, stream: bool) -> list[Held | Path | None]:
    """Each fetched: into the cache, else to a passing file, else None for one that is to be streamed."""
    if len(wanted) < 2:
        return [_fetch(runtime, one, stream=stream) for one in wanted]
    with ThreadPoolExecutor(min(_PARALLEL_FETCHES, len(wanted)), thread_name_prefix="fetch") as pool:
        running = [pool.submit(_fetch, runtime, one, stream=stream) for one in wanted]
        try:
            return [one.result() for one in running]
        except BaseException:
            for one in running:
                one.cancel()
            for future in running:
                if not future.cancelled() and future.exception() is None:
                    _let_go(future.result())
            raise


def _let_go(fetched: Held | Path | None) -> None:
    if isinstance(fetched, Held):
        fetched.let_go()
    elif isinstance(fetched, Path):
        remove_staged(fetched)


def _fetch(runtime: Runtime, one: _Wanted, *, stream: bool) -> Held | Path | None:
    def download(path: Path) -> None:
        _download(one, path)

    for attempt in range(1, _TRIES + 1):
        try:
            if runtime.settings.query_cache_enabled and one.file is not None:
                held = runtime.cache.fetch(one.file, download)
                if held is not None:
                    return held
                if stream and one.can_stream:
                    return None
            return _fetch_for_now(runtime, one)
        except FileNotFoundError as error:
            raise PartitionUnreadable(
                f"partition {one.partition.id} cannot be read: its file is missing; other time ranges can be queried",
                details={"partitionId": one.partition.id, "filePath": one.partition.file_path},
            ) from error
        except AlteredFileError as error:
            # Cut or mixed up on the way, perhaps; where it is so in the store, nobody may read it.
            if attempt == _TRIES:
                log.error("partition.altered", partition=one.partition.id, target=one.target.name)
                raise _away(one.target, error) from error
        except OSError as error:
            raise _away(one.target, error) from error
    raise AssertionError("unreachable")


def _download(one: _Wanted, path: Path) -> None:
    """The file, which never takes more room than it should. Raises AlteredFileError where it is of another size."""
    key, size_bytes = one.partition.file_path, one.partition.file_size_bytes
    if one.file is None:
        one.driver.fetch(key, path)
    elif isinstance(one.driver, SizedFetch):
        one.driver.fetch_sized(key, path, size_bytes)
    else:
        found = one.driver.stat(key)
        if found is not None and found.size_bytes != size_bytes:
            raise AlteredFileError(f"{key}: its store has {found.size_bytes} bytes of its {size_bytes}")
        one.driver.fetch(key, path)


def _fetch_for_now(runtime: Runtime, one: _Wanted) -> Path:
    """The file, verified, where it stays only as long as the query that needs it."""
    directory = _passing_dir(runtime)
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{uuid4()}.{one.partition.file_path.rsplit('.', 1)[-1]}"
    try:
        _download(one, path)
        if one.partition.checksum is not None and sha1_of(path) != one.partition.checksum:
            raise AlteredFileError("what came is not what was written")
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path


def _passing_dir(runtime: Runtime) -> Path:
    return runtime.settings.spill_dir / "fetched"


def _away(target: StorageTarget, error: OSError) -> Unavailable:
    log.error("storage.unreadable", target=target.name, error=str(error)[:300])
    return Unavailable(f"the storage target {target.name} cannot be read; try again shortly", retry_after_s=2)
