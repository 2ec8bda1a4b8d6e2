"""From a request over a snapshot to its plan, and the files where the engine finds them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from timestore_core.catalog.joined import members_of
from timestore_core.catalog.snapshots import Head
from timestore_core.dedupe import VERSIONED, Dedupe, dedupe_of
from timestore_core.errors import InvalidRequest
from timestore_core.model import ColumnStatistics, Partition, Schema, TimeRange
from timestore_core.partitions.inline import FORMAT as INLINE
from timestore_core.partitions.located import Located, located
from timestore_core.query.plan import PlannedPartition, QueryPlan, column_scales, resolve
from timestore_core.query.pruning import overlapping, partition_count, select_partitions
from timestore_core.query.request import QueryRequest
from timestore_core.query.shortcuts import constants, without_older
from timestore_core.query.zones import UTC_ZONE, Zone, zone_over
from timestore_core.runtime import Runtime

_DAY_US = 86_400_000_000
# Five centuries: each is looked at for every row.
_MAX_CLOCK_CHANGES = 1_000


@contextmanager
def planned(
    runtime: Runtime, head: Head, request: QueryRequest, *, stream: bool = True
) -> Iterator[tuple[QueryPlan, Located]]:
    """What to read of the head's snapshot, and where it is: the files stay there for the time of the block.

    Raises InvalidRequest naming the columns that the dataset lacks, Unavailable where a storage target is away.
    """
    functions, settings = runtime.plugins.aggregations, runtime.settings
    resolved = resolve(request, head.schema, functions)
    asked, skip = _page(request)
    partitions = runtime.snapshots.joined(head)
    dedupe, again = dedupe_of(head.dataset.metadata, head.schema), frozenset[str]()
    selection = select_partitions(partitions, asked, resolved.conditions, dedupe)
    if dedupe is not None:
        again = overlapping([partition for partition, _ in selection.chosen], dedupe)
        if not again:
            dedupe, selection = None, select_partitions(partitions, asked, resolved.conditions)
    chosen, ruled_out = list(selection.chosen), dict(selection.ruled_out)
    known = constants(request, resolved, head.schema, chosen) if dedupe is None else None
    if known is not None:
        ruled_out["catalog"], chosen = partition_count(chosen), []
    elif request.latest and (dedupe is None or _names_what_is_kept(request, dedupe)):
        newest = without_older(request, resolved, chosen)
        ruled_out["latest"], chosen = partition_count(chosen) - partition_count(newest), list(newest)
    unread = {partition.file_format for partition, _ in chosen} - runtime.engine.formats
    if unread:
        raise InvalidRequest(f"the query engine reads no partitions of format {', '.join(sorted(unread))}")
    files = [(partition, within) for partition, within in chosen if partition.file_format != INLINE]
    with located(runtime, [partition for partition, _ in files], stream=stream) as places:
        plan = QueryPlan(
            dataset_id=head.dataset.id,
            dataset_slug=head.dataset.slug,
            version=head.version,
            partitions=(
                *(_planned(one, within, places, request.timestamp_column, again) for one, within in files),
                *joined(
                    head.dataset.id,
                    [one for one in chosen if one[0].file_format == INLINE],
                    request.timestamp_column,
                    again,
                ),
            ),
            considered=sum(len(members_of(one)) for one in partitions),
            time_range=asked.time_range,
            timestamp_column=request.timestamp_column,
            columns=resolved.columns,
            bucket=request.bucket,
            aggregations=request.aggregations,
            output=resolved.output,
            row_limit=settings.query_max_rows + 1 if request.limit is None else request.limit,
            limit_is_guard=request.limit is None,
            timeout_ms=settings.query_timeout_ms,
            scales=column_scales(request.aggregations, resolved.columns, functions, partitions),
            conditions=resolved.conditions,
            groups=resolved.groups,
            latest=request.latest,
            fill=request.fill,
            fill_range=None if request.fill is None else request.time_range,
            zone=_zone(request, [partition for partition, _ in chosen]),
            descending=request.descending,
            skip=skip,
            constants=known,
            dedupe=dedupe,
            dedupe_fields=tuple(field for field in head.schema.fields if dedupe and field.name in dedupe.key),
            ruled_out=tuple((reason, count) for reason, count in sorted(ruled_out.items()) if count),
        )
        yield plan, places


def _names_what_is_kept(request: QueryRequest, dedupe: Dedupe) -> bool:
    """Whether the newest stored row of a group is at the time of its newest row: groups and time are of the key."""
    of_key = all(name in dedupe.key for name in request.group_by or ())
    return of_key and request.timestamp_column == dedupe.time_column


def _page(request: QueryRequest) -> tuple[QueryRequest, int]:
    """The request with the time range that the page can begin in, and how many rows to leave out then."""
    position = request.position
    if position is None or position.time_us is None:
        return request, 0 if position is None else position.skip
    wanted, time_us = request.time_range, position.time_us
    if request.descending:
        wanted = TimeRange(wanted.start_us, min(time_us, wanted.end_us))
    else:
        wanted = TimeRange(max(time_us, wanted.start_us), wanted.end_us)
    return replace(request, time_range=wanted), position.skip


def _zone(request: QueryRequest, partitions: Sequence[Partition]) -> Zone:
    """The bucket's time zone over the times that the rows can have, or over the range in which gaps are filled."""
    bucket, wanted = request.bucket, request.time_range
    if bucket is None or bucket.timezone is None:
        return UTC_ZONE
    if request.fill is None:
        known = _all_bounds([partition.statistics.get(request.timestamp_column) for partition in partitions])
        if known is not None:
            wanted = TimeRange(max(wanted.start_us, known.start_us), min(wanted.end_us, known.end_us))
    # From where the first bucket can begin, and whole days, so that one zone serves the questions of a day.
    start_us = wanted.start_us - bucket.reach_us
    zone = zone_over(bucket.timezone, start_us // _DAY_US * _DAY_US, -(-wanted.end_us // _DAY_US) * _DAY_US)
    if len(zone.changes) > _MAX_CLOCK_CHANGES:
        raise InvalidRequest.at(
            "downsample.timezone",
            f"the clocks of {bucket.timezone} change {len(zone.changes)} times in the range; at most "
            f"{_MAX_CLOCK_CHANGES} are allowed: ask for a shorter range",
        )
    return zone


def _bounds(known: ColumnStatistics | None) -> TimeRange | None:
    low, high = (None, None) if known is None else (known.minimum, known.maximum)
    return TimeRange(low, high) if isinstance(low, int) and isinstance(high, int) else None


def _all_bounds(known: Sequence[ColumnStatistics | None]) -> TimeRange | None:
    found = [one for one in map(_bounds, known) if one is not None]
    if not found or len(found) < len(known):
        return None
    return TimeRange(min(one.start_us for one in found), max(one.end_us for one in found))


def joined(
    dataset_id: str, chosen: Sequence[tuple[Partition, bool]], timestamp_column: str, again: Collection[str] = ()
) -> Iterator[PlannedPartition]:
    """Inline partitions as the relations in which they stand together: one for each set of columns."""
    by_schema = defaultdict[Schema, list[tuple[Partition, bool]]](list)
    for one in chosen:
        by_schema[one[0].schema].append(one)
    for schema, members in by_schema.items():
        first = members[0][0]
        yield PlannedPartition(
            id=f"{INLINE}-{schema.checksum}",
            target_id=first.storage_target_id,
            location=f"{INLINE}:{dataset_id}",
            file_path=first.file_path,
            format=INLINE,
            table_name=first.table_name,
            schema=schema,
            size_bytes=sum(partition.file_size_bytes for partition, _ in members),
            rows=sum(partition.row_count for partition, _ in members),
            within_range=all(within for _, within in members),
            members=_all_members([partition for partition, _ in members]),
            bounds=_all_bounds([partition.statistics.get(timestamp_column) for partition, _ in members]),
            is_versioned=True,
            # Several stand in one relation: what is one of them is all.
            overlaps=any(partition.id in again for partition, _ in members),
        )


def _all_members(partitions: Sequence[Partition]) -> tuple[str, ...]:
    if len(partitions) == 1:
        # The very same tuple each time: what it means to the engine is known by it.
        return members_of(partitions[0])
    return tuple(id_ for one in partitions for id_ in members_of(one))


def _planned(
    partition: Partition, within: bool, places: Located, timestamp_column: str, again: Collection[str]
) -> PlannedPartition:
    return PlannedPartition(
        id=partition.id,
        target_id=partition.storage_target_id,
        location=places.locations[partition.id],
        file_path=partition.file_path,
        format=partition.file_format,
        table_name=partition.table_name,
        schema=partition.schema,
        size_bytes=partition.file_size_bytes,
        rows=partition.row_count,
        within_range=within,
        bounds=_bounds(partition.statistics.get(timestamp_column)),
        version=partition.version,
        is_versioned=partition.metadata.get(VERSIONED) is True,
        overlaps=partition.id in again,
    )
