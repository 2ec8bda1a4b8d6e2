"""Rows of a time range are deleted: partitions that lie wholly in it leave, those that reach out of it are rewritten.

One new version does it all at once; what it took away can be restored until the grace period is over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from timestore_core.catalog.audit import about
from timestore_core.catalog.change import Change, Event, InputsGoneError, NewPartition, publish_change
from timestore_core.catalog.snapshots import Head, read_head
from timestore_core.dedupe import dedupe_of
from timestore_core.errors import Conflict, Gone, InvalidRequest, NotFound, PartitionUnreadable, Problem, Unavailable
from timestore_core.lifecycle.live import whole_partitions
from timestore_core.lifecycle.rewriting import Rewrite, new_partition, opened, rewrite
from timestore_core.model import Actor, Dataset, Partition, TimeRange
from timestore_core.partitions.inline import FORMAT as INLINE
from timestore_core.partitions.inline import file_format_of
from timestore_core.partitions.stored import Place, StoredPartition, discard
from timestore_core.query.rows_sql import count_sql, gathered_sql, outside_range_sql
from timestore_core.runtime import Runtime
from timestore_core.wire import WireTimeRange, checked_range

CREATED_BY = "timestore-deletion"
# Compaction and ingest go on meanwhile: where they take a partition away, what is to go is looked up again.
_TRIES = 5


class WireDeletionFilters(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Which partitions are meant: key -> accepted values."""

    partition_key: dict[str, list[str]] | None = None


class WireDeletion(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """The body of `POST /admin/datasets/:id/delete-rows`."""

    time_range: WireTimeRange
    timestamp_column: str = "timestamp"
    filters: WireDeletionFilters | None = None
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Deletion:
    """What is to be deleted, checked."""

    time_range: TimeRange
    timestamp_column: str
    partition_key: Mapping[str, frozenset[str]]


@dataclass(frozen=True, slots=True)
class _Touched:
    """A partition that holds such rows, and how many of them; all of them when it can go as a whole."""

    partition: Partition
    rows: int

    @property
    def whole(self) -> bool:
        return self.rows == self.partition.row_count


def delete_rows(runtime: Runtime, dataset: Dataset, wire: WireDeletion, actor: Actor) -> dict[str, Any]:
    """Delete the rows, or say which would go. Raises InvalidRequest, NotFound, Conflict, PartitionUnreadable."""
    deletion = _checked(wire)
    for _ in range(_TRIES):
        head = read_head(runtime.database, dataset.slug)
        if head is None:
            raise NotFound(f"dataset {dataset.slug} not found")
        try:
            looked_at = [_touched(runtime, one, deletion) for one in _candidates(runtime, head, deletion)]
            touched = [one for one in looked_at if one.rows]
            report = _report(dataset, touched)
            if wire.dry_run or not touched:
                return {**report, "dryRun": wire.dry_run, "version": head.version}
            version = _delete(runtime, head.dataset, deletion, touched, actor)
        except (InputsGoneError, Gone):
            continue
        except PartitionUnreadable as error:
            if not _has_left(runtime, dataset, error):
                raise
            continue
        return {**report, "dryRun": False, "version": version}
    raise Conflict("the dataset's partitions changed all the time; try again", code="overtaken")


def _has_left(runtime: Runtime, dataset: Dataset, error: PartitionUnreadable) -> bool:
    """Whether the partition left the snapshot before it was read: its file may have been collected since."""
    ids = error.details.get("partitionIds", ()) if isinstance(error.details, Mapping) else ()
    return len(whole_partitions(runtime.database, dataset.id, ids)) < len(ids)


def _checked(wire: WireDeletion) -> Deletion:
    problems: list[Problem] = []
    time_range = checked_range(wire.time_range, "timeRange", problems)
    if problems:
        raise InvalidRequest.of(problems)
    keys = (wire.filters and wire.filters.partition_key) or {}
    return Deletion(time_range, wire.timestamp_column, {key: frozenset(values) for key, values in keys.items()})


def _candidates(runtime: Runtime, head: Head, deletion: Deletion) -> list[Partition]:
    """The partitions whose key and statistics do not rule such rows out."""
    if head.schema.fields and head.schema.type_of(deletion.timestamp_column) != "timestamp":
        raise InvalidRequest.at("timestampColumn", f"{deletion.timestamp_column!r} is no timestamp of this dataset")
    rule = dedupe_of(head.dataset.metadata, head.schema)
    if rule is not None and deletion.timestamp_column != rule.time_column:
        # The row that such a one had replaced, with another time here, would be back.
        raise InvalidRequest.at(
            "timestampColumn", f"this dataset keeps one row per series and {rule.time_column!r}: delete by that column"
        )
    found = []
    for partition in runtime.snapshots.partitions(head):
        if any(partition.partition_key.get(key) not in values for key, values in deletion.partition_key.items()):
            continue
        if partition.schema.type_of(deletion.timestamp_column) is None:
            continue
        known = partition.statistics.get(deletion.timestamp_column)
        if known is not None:
            low, high = known.minimum, known.maximum
            if not isinstance(low, int) or not isinstance(high, int):
                continue
            if low > deletion.time_range.end_us or high < deletion.time_range.start_us:
                continue
        found.append(partition)
    return sorted(found, key=lambda one: (one.start_time, one.id))


def _touched(runtime: Runtime, partition: Partition, deletion: Deletion) -> _Touched:
    known = partition.statistics.get(deletion.timestamp_column)
    if known is not None and known.nulls == 0:
        low, high = known.minimum, known.maximum
        assert isinstance(low, int)
        assert isinstance(high, int)
        if low >= deletion.time_range.start_us and high <= deletion.time_range.end_us:
            return _Touched(partition, partition.row_count)
    with opened(runtime, [partition]) as source:
        kept = gathered_sql(source.rows, partition.schema, where=_kept(deletion))
        found = source.cursor.execute(count_sql(kept)).fetchone()
    assert found is not None
    return _Touched(partition, partition.row_count - found[0])


def _kept(deletion: Deletion) -> str:
    return outside_range_sql(deletion.timestamp_column, deletion.time_range.start_us, deletion.time_range.end_us)


def _delete(runtime: Runtime, dataset: Dataset, deletion: Deletion, touched: Sequence[_Touched], actor: Actor) -> int:
    """The version without the rows. Raises InputsGoneError where a partition left the snapshot meanwhile."""
    stored: list[StoredPartition] = []
    added: list[NewPartition] = []
    try:
        for one in touched:
            if not one.whole:
                asked = _rewrite_of(runtime, dataset, one.partition, deletion)
                stored.append(rewrite(runtime, asked, "deletion"))
                kept = one.partition.metadata.get("lifecycle")
                added.append(new_partition(asked, stored[-1], {} if kept is None else {"lifecycle": kept}))
        payload = {
            **about(dataset, actor),
            "rowCount": sum(one.rows for one in touched),
            "partitionIds": [one.partition.id for one in touched[:1000]],
            "startUs": deletion.time_range.start_us,
            "endUs": deletion.time_range.end_us,
            "partitionKey": {key: sorted(values) for key, values in deletion.partition_key.items()},
        }
        change = Change(
            dataset_id=dataset.id,
            dataset_slug=dataset.slug,
            removed=[one.partition.id for one in touched],
            added=added,
            events=[Event("admin.rows.deleted", payload)],
            created_by=actor.id or CREATED_BY,
            reason="delete-rows",
            publish_before_s=min((one.publish_before_s for one in stored), default=float("inf")),
        )
        changed = publish_change(runtime.database, change)
    except Unavailable:
        # Where the commit's answer was lost the files may be named already: they stay, collection decides.
        raise
    except Exception:
        for file in stored:
            discard(runtime.targets.driver(file.target), file.key)
        raise
    runtime.plugins.step("deletion.published")
    return changed.manifest.version


def _rewrite_of(runtime: Runtime, dataset: Dataset, partition: Partition, deletion: Deletion) -> Rewrite:
    target = runtime.targets.get(partition.storage_target_id)
    format_name = dataset.write_format if partition.file_format == INLINE else partition.file_format
    place = Place(target, dataset.slug, partition.partition_key, file_format_of(format_name))
    rule = dedupe_of(dataset.metadata, partition.schema)
    return Rewrite([partition], partition.schema, place, partition.table_name, where=_kept(deletion), dedupe=rule)


def _report(dataset: Dataset, touched: Sequence[_Touched]) -> dict[str, Any]:
    return {
        "datasetId": dataset.id,
        "datasetSlug": dataset.slug,
        "rows": sum(one.rows for one in touched),
        "bytes": sum(one.partition.file_size_bytes for one in touched),
        "partitions": [
            {
                "id": one.partition.id,
                "partitionKey": one.partition.partition_key,
                "rows": one.rows,
                "of": one.partition.row_count,
                "reason": "lies wholly in the range" if one.whole else "is rewritten without them",
            }
            for one in touched[:1000]
        ],
        **({"partitionsTruncated": True} if len(touched) > 1000 else {}),
    }
