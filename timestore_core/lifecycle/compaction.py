"""Few large sorted partitions out of many small ones.

Neighbours in time that share key, table and target are gathered, at most TIMESTORE_LIFECYCLE_COMPACTION_MAX_PARTITIONS
at a time. Fresh partitions are gathered wherever two of them are neighbours. What was gathered before is taken again
only into at least FAN_OUT times the rows of the largest of them, so that a row is rewritten no more often than the
logarithm of its dataset's size to that base, and the partitions that are left are that few.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import structlog

from timestore_core.catalog.change import Change, Changed, Event, InputsGoneError, publish_change
from timestore_core.catalog.database import Row
from timestore_core.catalog.snapshots import read_head
from timestore_core.dedupe import dedupe_of
from timestore_core.errors import InsufficientStorage, TimestoreError, Unavailable
from timestore_core.lifecycle.live import LivePartition, live_partitions, whole_partitions
from timestore_core.lifecycle.operation import Maintenance, Outcome, Status
from timestore_core.lifecycle.rewriting import Rewrite, merged_schema, new_partition, rewrite
from timestore_core.model import Dataset, Partition, Schema, StorageTarget
from timestore_core.partitions.inline import FORMAT as INLINE
from timestore_core.partitions.inline import file_format_of
from timestore_core.partitions.stored import Place, StoredPartition, discard
from timestore_core.settings import Settings

log = structlog.get_logger(__name__)

CREATED_BY = "timestore-compaction"
NOTHING_TO_DO = "no small partition groups found for compaction"

# Partitions that are no files need no place among those that are attached at a time.
_MOST_TOGETHER = 2000
_SOURCES_NAMED = 100

Group = tuple[LivePartition, ...]


@dataclass(slots=True)
class _Done:
    """What a run has done so far; `broken` are partitions that could not be read, which it leaves alone."""

    groups: int = 0
    partitions: int = 0
    bytes: int = 0
    audit: list[Row] = field(default_factory=list)
    broken: frozenset[str] = frozenset()
    problem: str | None = None

    def outcome(self) -> Outcome:
        status: Status = "failed" if self.problem else "completed" if self.groups else "skipped"
        message = self.problem or (None if self.groups else NOTHING_TO_DO)
        return Outcome(status, message, self.groups, self.partitions, self.bytes, tuple(self.audit))


def compact(maintenance: Maintenance) -> Outcome:
    """Gather until no group is left. A group that cannot be read is set aside and named; the others go on."""
    runtime, dataset = maintenance.runtime, maintenance.dataset
    done = _Done()
    if maintenance.dry_run:
        return _preview(plan_groups(live_partitions(runtime.database, dataset.id), runtime.settings))
    while not maintenance.stop.is_set():
        live = [one for one in live_partitions(runtime.database, dataset.id) if one.id not in done.broken]
        groups = plan_groups(live, runtime.settings)
        if not groups:
            break
        for number, group in enumerate(groups):
            if maintenance.stop.is_set():
                break
            maintenance.progress("compaction", number, len(groups))
            _compact_one(maintenance, group, done)
        maintenance.progress("compaction", len(groups), len(groups))
    return done.outcome()


def plan_groups(live: Iterable[LivePartition], settings: Settings) -> list[Group]:
    """What can be gathered now, in time's order within each key; no partition is in two groups."""
    neighbours = defaultdict[tuple[object, ...], list[LivePartition]](list)
    for one in live:
        if one.bytes < settings.lifecycle_compaction_small_bytes or one.file_format == INLINE:
            key = (tuple(sorted(one.partition_key.items())), one.table_name, one.storage_target_id)
            neighbours[key].append(one)
    groups = []
    for small in neighbours.values():
        small.sort(key=lambda one: (one.start_time, one.id))
        groups += _of_one_key(small, settings)
    return groups


def _of_one_key(small: Sequence[LivePartition], settings: Settings) -> list[Group]:
    """The groups of the smallest size at which there are any: larger ones wait until these are gathered."""
    fan_out = settings.lifecycle_compaction_fan_out
    sizes = {one.id: _size_class(one, fan_out) for one in small}
    for size in sorted(set(sizes.values())):
        chunks = _chunks([one for one in small if sizes[one.id] <= size], settings)
        groups = [chunk for chunk in chunks if _is_worth_it(chunk) and _grows(chunk, fan_out)]
        if groups:
            return groups
    return []


def _size_class(one: LivePartition, fan_out: int) -> int:
    """0 for fresh partitions, then one more for each power of the fan-out in the rows."""
    return 0 if one.level == 0 else 1 + int(math.log(max(one.rows, 1), fan_out))


def _is_worth_it(group: Group) -> bool:
    """A partition alone stays as it is, unless it stands in the catalog, where it must not grow old."""
    return len(group) > 1 or any(one.file_format == INLINE for one in group)


def _grows(group: Group, fan_out: int) -> bool:
    largest = max((one.rows for one in group if one.level > 0), default=0)
    return sum(one.rows for one in group) >= fan_out * largest


def _chunks(small: Sequence[LivePartition], settings: Settings) -> list[Group]:
    chunks, chunk, size_bytes, files = [], list[LivePartition](), 0, 0
    for one in small:
        full = files == settings.lifecycle_compaction_max_partitions or len(chunk) == _MOST_TOGETHER
        if chunk and (full or size_bytes + one.bytes > settings.lifecycle_compaction_target_bytes):
            chunks.append(tuple(chunk))
            chunk, size_bytes, files = [], 0, 0
        chunk.append(one)
        size_bytes += one.bytes
        files += one.file_format != INLINE
    return [*chunks, tuple(chunk)]


def _compact_one(maintenance: Maintenance, group: Group, done: _Done) -> None:
    runtime = maintenance.runtime
    sources = whole_partitions(runtime.database, maintenance.dataset.id, [one.id for one in group])
    # Read after the sources: the tags that name their rows were committed with them.
    head = read_head(runtime.database, maintenance.dataset.slug)
    if len(sources) < len(group) or head is None:
        return
    asked = _rewrite_of(head.dataset, head.schema, sources, runtime.targets.get(group[0].storage_target_id))
    try:
        stored = rewrite(runtime, asked, "compaction")
    except (Unavailable, InsufficientStorage):
        raise
    except TimestoreError as error:
        log.error("compaction.group_failed", dataset=maintenance.dataset.slug, reason=error.message)
        done.problem = error.message
        done.broken |= {one.id for one in group}
        return
    changed = _publish(maintenance, group, asked, stored)
    if changed is not None:
        done.groups += 1
        done.partitions += len(group)
        done.bytes += stored.size_bytes
        done.audit += changed.audit


def _rewrite_of(dataset: Dataset, schema: Schema, sources: Sequence[Partition], target: StorageTarget) -> Rewrite:
    format_name = file_format_of(str(dataset.metadata.get("compactedFormat") or dataset.write_format))
    place = Place(target, dataset.slug, sources[0].partition_key, format_name)
    columns = merged_schema(schema, sources)
    return Rewrite(sources, columns, place, sources[0].table_name, dedupe=dedupe_of(dataset.metadata, columns))


def _publish(maintenance: Maintenance, group: Group, asked: Rewrite, stored: StoredPartition) -> Changed | None:
    """Replace the group in the snapshot; None where one of it is not there any more."""
    runtime, dataset = maintenance.runtime, maintenance.dataset
    level = 1 + max(one.level for one in group)
    source_ids = [one.id for one in group]
    # The audit log has them all; what comes with every read of the partition stays short.
    made_from = {"level": level, "sourcePartitionIds": source_ids[:_SOURCES_NAMED]}
    added = new_partition(asked, stored, {"lifecycle": {"compaction": made_from}})
    payload = {
        "sourcePartitionIds": source_ids,
        "replacementPartitionId": added.id,
        "partitionKey": dict(added.partition_key),
        "rowCount": added.row_count,
        "fileSizeBytes": added.file_size_bytes,
        "sourceBytes": sum(one.bytes for one in group),
        "storageTargetId": added.target_id,
    }
    change = Change(
        dataset_id=dataset.id,
        dataset_slug=dataset.slug,
        removed=source_ids,
        added=[added],
        events=[Event("compaction.group.compacted", payload)],
        created_by=CREATED_BY,
        reason="compaction",
        publish_before_s=stored.publish_before_s,
    )
    try:
        changed = publish_change(runtime.database, change)
    except InputsGoneError:
        log.info("compaction.overtaken", dataset=dataset.slug)
        discard(runtime.targets.driver(stored.target), stored.key)
        return None
    runtime.plugins.step("compaction.published")
    return changed


def _preview(groups: Sequence[Group]) -> Outcome:
    """The first round of a run: later ones gather what this one makes."""
    members = [one for group in groups for one in group]
    details = {
        "dryRun": True,
        "groups": [[one.to_json() for one in group] for group in groups[:100]],
        "rows": sum(one.rows for one in members),
        "reason": "small neighbours",
    }
    size_bytes = sum(one.bytes for one in members)
    message = None if groups else NOTHING_TO_DO
    return Outcome("completed" if groups else "skipped", message, len(groups), len(members), size_bytes, (), details)
