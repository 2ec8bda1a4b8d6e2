"""Everything that a process needs to serve, put together once and given back at the end."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import structlog

from timestore_core.catalog.database import Database
from timestore_core.catalog.datasets import ensure_default_target, find_storage_target, list_storage_targets
from timestore_core.catalog.identity import Identity, next_epoch
from timestore_core.catalog.ownership import claim
from timestore_core.catalog.snapshots import SnapshotCache
from timestore_core.engine.instance import Engine, EngineLimits, own_spill_dir
from timestore_core.errors import ConfigurationError, NotFound, TimestoreError, Unavailable
from timestore_core.model import Dataset, Partition, StorageTarget
from timestore_core.partitions.cache import FileCache
from timestore_core.partitions.inline import FORMAT as INLINE
from timestore_core.partitions.inline import CatalogFiles, FileSource, is_in_catalog
from timestore_core.partitions.inline_load import InlineLoad
from timestore_core.partitions.inline_loading import InlineLoader
from timestore_core.plugins import PluginHost
from timestore_core.query.admission import admission, select_admission
from timestore_core.query.engine import EngineParts, QueryEngine
from timestore_core.queues import Queue
from timestore_core.select.processes import Processes
from timestore_core.settings import MIB, Settings
from timestore_core.storage import StorageDriver
from timestore_core.times import running_s

log = structlog.get_logger(__name__)

ENGINE = "duckdb"
# Partitions that one process rewrites at a time, all within the memory of one engine.
_REWRITES = 2
# All server processes together keep at most one in so many bytes of the cache from eviction while no query reads them.
_ATTACHED_SHARE = 4
# Other processes change targets too: what is known of one is read again after this.
_TARGET_AGE_S = 5.0
_EPOCHS_PER_ORPHAN_AGE = 6


class Targets:
    """Storage targets and their opened drivers, each once per process. Thread-safe."""

    def __init__(self, settings: Settings, database: Database, plugins: PluginHost) -> None:
        self._settings = settings
        self._database = database
        self._plugins = plugins
        self._lock = threading.Lock()
        self._default: StorageTarget | None = None
        self._known: dict[str, tuple[StorageTarget, float]] = {}
        self._drivers: dict[tuple[str, str], StorageDriver] = {}
        self._owned_at_s: dict[tuple[str, str], float] = {}

    @property
    def default(self) -> StorageTarget:
        """The default target, made in the catalog when it is first asked for."""
        if self._default is None:
            kind = self._settings.storage_driver
            config = self._plugins.storage_kind(kind).default_config(self._settings)
            self._default = ensure_default_target(self._database, kind, config)
        return self._default

    def get(self, target_id: str) -> StorageTarget:
        """The target of this id, at most some seconds old. Raises NotFound."""
        known, read_at = self._known.get(target_id, (None, 0.0))
        if known is None or time.monotonic() - read_at > _TARGET_AGE_S:
            known = None if "\0" in target_id else find_storage_target(self._database, target_id)
            if known is None:
                raise NotFound(f"storage target {target_id} not found")
            self._known[target_id] = (known, time.monotonic())
        return known

    def forget(self, target_id: str) -> None:
        """Read the target anew when it is next asked for: it was changed."""
        self._known.pop(target_id, None)

    def for_ingest(self, asked: str | None, dataset: Dataset | None) -> StorageTarget:
        """Where a batch goes: the target asked for, else the dataset's, else the default."""
        if asked is not None:
            return self.get(asked)
        if dataset is not None and dataset.default_storage_target_id is not None:
            return self.get(dataset.default_storage_target_id)
        return self.default

    def driver(self, target: StorageTarget) -> StorageDriver:
        """The target's driver. Raises Unavailable where its kind or its config does not work here."""
        key = (target.id, target.updated_at.isoformat())
        with self._lock:
            if key not in self._drivers:
                try:
                    kind = self._plugins.storage_kind(target.kind)
                    self._drivers[key] = kind.open(kind.complete(target.config, self._settings))
                except (ConfigurationError, ValueError, OSError) as error:
                    raise Unavailable(f"the storage target {target.name} cannot be opened: {error}") from error
            return self._drivers[key]

    def owned_driver(self, target: StorageTarget) -> StorageDriver:
        """The driver of a target that is about to be written: this catalog's marker is there, and not old.

        An older copy of this catalog is known by the epochs that storage has and it has not: they have to follow
        what is written long before collection takes that for leftovers. Raises Unavailable where the target cannot
        be opened or written.
        """
        key = (target.id, target.updated_at.isoformat())
        age_s = running_s() - self._owned_at_s.get(key, -math.inf)
        if age_s > self._settings.lifecycle_orphan_age_minutes * 60 / _EPOCHS_PER_ORPHAN_AGE:
            self.begin_epoch(target)
            self._owned_at_s[key] = running_s()
        return self.driver(target)

    def begin_epoch(self, target: StorageTarget) -> Identity:
        """A new epoch of this catalog, marked in the target too. Raises Unavailable where it cannot be written."""
        try:
            return claim(self.driver(target), next_epoch(self._database), self._database)
        except OSError as error:
            raise Unavailable(f"the storage target {target.name} cannot be written") from error


class Runtime:
    """One process's service: settings, plugins, catalog, storage and engines. Made after a fork."""

    def __init__(self, settings: Settings, plugins: PluginHost) -> None:
        self.settings = settings
        self.plugins = plugins
        self.database = Database(settings)
        self.database.open()
        self.targets = Targets(settings, self.database, plugins)
        self.inline_loader = InlineLoader(self.database, self.targets)
        self.snapshots = SnapshotCache(self.database, self._let_go)
        self.cache = FileCache(settings.query_cache_dir, settings.query_cache_max_bytes)
        self.inline_load = InlineLoad(settings)
        self.queue = _queue(settings, plugins)
        self.writing = Engine("write", _limits(settings, threads=1, memory_bytes=512 * MIB, max_attached=64))
        rewriting = _limits(
            settings,
            threads=settings.lifecycle_threads,
            memory_bytes=settings.lifecycle_memory_bytes,
            max_attached=settings.lifecycle_compaction_max_partitions,
        )
        self.rewriting = Engine("rewrite", replace(rewriting, sorters=_REWRITES))
        self.engine = self._query_engine()
        self.admission = admission(settings)
        self.select_admission = select_admission(settings)
        self.select_processes = Processes(settings)
        self.select_spill_dir = own_spill_dir(settings.spill_dir, "select")
        self._closers: list[Callable[[], None]] = [
            self.queue.close,
            self.select_processes.close,
            self.engine.close,
            self.rewriting.close,
            self.writing.close,
            self.database.close,
        ]

    def source_of(self, storage_target_id: str, file_path: str) -> FileSource:
        """Where the bytes of a partition can be fetched from. Raises NotFound, Unavailable."""
        if is_in_catalog(file_path):
            return CatalogFiles(self.database)
        return self.targets.driver(self.targets.get(storage_target_id))

    def close(self) -> None:
        """Give back connections, engines and spilled files."""
        for close in self._closers:
            close()

    def _let_go(self, partitions: Sequence[Partition]) -> None:
        """Files that left a snapshot are soon deleted: kept open they would go on filling the disk."""
        locations = []
        for partition in partitions:
            if partition.file_format == INLINE:
                locations.append(f"{INLINE}:{partition.id}")
                continue
            try:
                driver = self.targets.driver(self.targets.get(partition.storage_target_id))
                locations.append(driver.location(partition.file_path))
                if partition.checksum is not None:
                    extension = partition.file_path.rsplit(".", 1)[-1]
                    locations.append(f"{self.cache.location}/{partition.checksum}.{extension}")
            except (TimestoreError, OSError):
                continue
        self.engine.forget(locations)

    def _query_engine(self) -> QueryEngine:
        settings = self.settings
        limits = replace(
            _limits(
                settings,
                threads=settings.query_threads,
                memory_bytes=settings.query_memory_bytes,
                max_attached=settings.query_max_attached,
            ),
            max_cached_bytes=settings.query_cache_max_bytes // _ATTACHED_SHARE // settings.http_workers,
        )
        factory = self.plugins.query_engines.get(ENGINE)
        if factory is None:
            raise ConfigurationError(f"no plugin gives the query engine {ENGINE!r}")
        return factory(
            EngineParts(
                engine=Engine("query", limits),
                formats=self.plugins.partition_formats,
                aggregations=self.plugins.aggregations,
                max_attached=settings.query_max_attached,
                load_inline=self.inline_loader.load,
                cache=self.cache.location,
            )
        )


def prepare_catalog(settings: Settings, plugins: PluginHost) -> None:
    """Make the default storage target, so that operators find it before the first batch, and mark it as ours."""
    database = Database(settings)
    database.open()
    try:
        targets = Targets(settings, database, plugins)
        try:
            if targets.begin_epoch(targets.default).restored_at is not None:
                # The original must know of a copy wherever they have files in common.
                for target in list_storage_targets(database):
                    targets.begin_epoch(target)
        except Unavailable as error:
            # A storage that is away for now is no reason not to start: readiness says so.
            log.warning("storage.unmarked", reason=error.message)
    finally:
        database.close()


def check_configuration(settings: Settings, plugins: PluginHost) -> None:
    """Raise ConfigurationError where a part that the settings name is given by no plugin."""
    plugins.storage_kind(settings.storage_driver)
    plugins.partition_format("duckdb")
    _queue(settings, plugins)


def _limits(settings: Settings, *, threads: int, memory_bytes: int, max_attached: int) -> EngineLimits:
    spill: Path = settings.spill_dir
    return EngineLimits(threads, memory_bytes, settings.query_temp_bytes, spill, max_attached)


def _queue(settings: Settings, plugins: PluginHost) -> Queue:
    url = settings.redis_url.get_secret_value()
    scheme = "inline" if settings.inline else url.partition(":")[0]
    factory = plugins.queues.get(scheme)
    if factory is None:
        raise ConfigurationError(
            f"REDIS_URL: no plugin gives a queue for {scheme!r}; set REDIS_URL=inline to run all work in the request"
        )
    return factory(settings)
