"""Reading a snapshot: which version is current, and which partitions it has.

A version never changes, so a process keeps the partitions it has read and asks only for what came and went
since (one small read tells the current version).
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from timestore_core.catalog.database import Connection, Database
from timestore_core.catalog.joined import Joined, joined, members_of
from timestore_core.catalog.records import dataset_of, partition_of
from timestore_core.errors import Gone, NotFound
from timestore_core.model import Dataset, Partition, Schema
from timestore_core.times import from_us, parse_time_us

_HEAD = """
SELECT d.*, m.version AS published_version, m.id AS manifest_id, s.schema
FROM datasets d
LEFT JOIN dataset_manifests m ON m.dataset_id = d.id AND m.status = 'published'
LEFT JOIN dataset_schema_versions s ON s.id = m.schema_version_id
WHERE d.slug = %s
"""

_ADDED = """
SELECT p.*, s.schema FROM dataset_partitions p
LEFT JOIN dataset_manifests m ON p.columns IS NULL AND m.id = p.manifest_id
LEFT JOIN dataset_schema_versions s ON s.id = m.schema_version_id
WHERE p.dataset_id = %(dataset)s AND p.added_version > %(since)s AND p.added_version <= %(version)s
    AND (p.removed_version IS NULL OR p.removed_version > %(version)s)
"""

_READABLE_FROM = "SELECT readable_from FROM datasets WHERE id = %s"

_PINNED = "SELECT 1 FROM dataset_pins WHERE dataset_id = %(dataset)s AND version = %(version)s LIMIT 1"

_AS_OF_PIN = "SELECT version FROM dataset_pins WHERE dataset_id = %(dataset)s AND name = %(name)s"

_AS_OF_TIME = """
SELECT version FROM dataset_manifests
WHERE dataset_id = %(dataset)s AND status <> 'draft' AND published_at <= %(time)s ORDER BY version DESC LIMIT 1
"""

_SCHEMA_AT = """
SELECT s.schema FROM dataset_manifests m JOIN dataset_schema_versions s ON s.id = m.schema_version_id
WHERE m.dataset_id = %(dataset)s AND m.version <= %(version)s AND m.status <> 'draft' ORDER BY m.version DESC LIMIT 1
"""

_REMOVED = """
SELECT id FROM dataset_partitions
WHERE dataset_id = %(dataset)s AND removed_version > %(since)s AND removed_version <= %(version)s
"""


@dataclass(frozen=True, slots=True)
class Head:
    """A dataset as it stands now: version 0 and no columns while nothing was published."""

    dataset: Dataset
    version: int
    schema: Schema


def read_head(database: Database, slug: str) -> Head | None:
    """The dataset and its current version in one read, or None where there is no such dataset."""

    def work(connection: Connection) -> Head | None:
        row = connection.execute(_HEAD, [slug]).fetchone()
        if row is None:
            return None
        return Head(dataset_of(row), row["published_version"] or 0, Schema.from_json(row["schema"] or {}))

    return database.read(work)


def head_as_of(database: Database, head: Head, as_of: int | str) -> Head:
    """The dataset as of a version, a pin's name, or an ISO-8601 time.

    Raises NotFound for what never was, Gone for a version whose files may be deleted already.
    """

    def work(connection: Connection) -> Head:
        values = {"dataset": head.dataset.id, "name": as_of, "time": _time_of(as_of), "version": as_of}
        if isinstance(as_of, str):
            found = connection.execute(_AS_OF_PIN, values).fetchone()
            if found is None and values["time"] is not None:
                found = connection.execute(_AS_OF_TIME, values).fetchone()
            if found is None:
                raise NotFound(f"asOf: dataset {head.dataset.slug} has no pin and no kept version of {as_of[:80]!r}")
            values["version"] = found["version"]
        elif not 1 <= as_of <= head.version:
            raise NotFound(f"asOf: dataset {head.dataset.slug} has versions up to {head.version}, and none {as_of}")
        last = connection.execute(_READABLE_FROM, [head.dataset.id]).fetchone()
        is_old = last is not None and int(str(values["version"])) < last["readable_from"]
        if is_old and connection.execute(_PINNED, values).fetchone() is None:
            raise Gone(
                f"asOf: version {values['version']} of {head.dataset.slug} is not whole any more; a pin or a longer "
                "TIMESTORE_SNAPSHOT_RETENTION_HOURS keeps a version",
                code="version_expired",
            )
        row = connection.execute(_SCHEMA_AT, values).fetchone()
        # An expired manifest's schema is a part of the current one: columns are only ever added.
        schema = head.schema if row is None else Schema.from_json(row["schema"])
        return Head(head.dataset, int(str(values["version"])), schema)

    return database.read(work)


def _time_of(as_of: int | str) -> datetime | None:
    try:
        return from_us(parse_time_us(as_of)) if isinstance(as_of, str) else None
    except ValueError:
        return None


class SnapshotCache:
    """The partitions of recent versions, bounded by their number over all datasets. Thread-safe.

    `removed` is told of the partitions that a newer version turned out not to have.
    """

    def __init__(
        self,
        database: Database,
        removed: Callable[[Sequence[Partition]], None] = lambda _: None,
        max_partitions: int = 200_000,
    ) -> None:
        self._database = database
        self._removed = removed
        self._max_partitions = max_partitions
        self._lock = threading.Lock()
        self._known: OrderedDict[str, tuple[int, dict[str, Partition]]] = OrderedDict()
        self._joined: dict[str, tuple[int, Joined]] = {}

    def partitions(self, head: Head) -> tuple[Partition, ...]:
        """The partitions of the head's version. Raises Gone when it was collected meanwhile: a newer one is there."""
        return tuple(self._partitions(head).values())

    def joined(self, head: Head) -> tuple[Partition, ...]:
        """As `partitions`, those that are no files taken together: what a query plans with."""
        with self._lock:
            version, known = self._joined.get(head.dataset.id, (0, Joined()))
        if version == head.version:
            return known.partitions
        partitions = self._partitions(head)
        have = {*known.files, *(id_ for one in known.groups.values() for id_ in members_of(one))}
        if version < head.version and have <= partitions.keys():
            made = joined([one for id_, one in partitions.items() if id_ not in have], known)
        else:
            made = joined(partitions.values())
        with self._lock:
            if self._joined.get(head.dataset.id, (0, known))[0] < head.version and head.dataset.id in self._known:
                self._joined[head.dataset.id] = (head.version, made)
        return made.partitions

    def _partitions(self, head: Head) -> dict[str, Partition]:
        with self._lock:
            since, known = self._known.get(head.dataset.id, (0, {}))
            if since > head.version:
                since, known = 0, {}
        if since < head.version:
            before, known = known, self._read(head, since, known)
            self._keep(head, known)
            gone = [one for key, one in before.items() if key not in known]
            if gone:
                self._removed(gone)
        return known

    def _read(self, head: Head, since: int, known: dict[str, Partition]) -> dict[str, Partition]:
        def work(connection: Connection) -> dict[str, Partition] | None:
            values = {"dataset": head.dataset.id, "since": since, "version": head.version}
            gone = {row["id"] for row in connection.execute(_REMOVED, values)} if known else set()
            kept = {key: value for key, value in known.items() if key not in gone}
            for row in connection.execute(_ADDED, values):
                kept[row["id"]] = partition_of(row, Schema.from_json(row["schema"] or {}))
            # Rows of collected partitions are deleted after this number has grown: read last, it says whether one
            # of them is missing above.
            last = connection.execute(_READABLE_FROM, [head.dataset.id]).fetchone()
            readable_from = last["readable_from"] if last is not None else 0
            if head.version < readable_from and connection.execute(_PINNED, values).fetchone() is None:
                raise Gone(f"version {head.version} of {head.dataset.slug} is not whole any more")
            return None if known and since < readable_from else kept

        found = self._database.read(work)
        return self._read(head, 0, {}) if found is None else found

    def _keep(self, head: Head, partitions: dict[str, Partition]) -> None:
        with self._lock:
            if self._known.get(head.dataset.id, (0, {}))[0] < head.version:
                self._known[head.dataset.id] = (head.version, partitions)
            self._known.move_to_end(head.dataset.id)
            total = sum(len(kept) for _, kept in self._known.values())
            while total > self._max_partitions and len(self._known) > 1:
                dataset_id, (_, dropped) = self._known.popitem(last=False)
                self._joined.pop(dataset_id, None)
                total -= len(dropped)
