"""Answering a query: head, plan, engine, bytes."""

from __future__ import annotations

import hashlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import msgspec
import structlog

from timestore_core import __version__
from timestore_core.catalog.joined import members_of
from timestore_core.catalog.snapshots import Head
from timestore_core.errors import InvalidRequest, PartitionUnreadable
from timestore_core.model import Field, Partition, Schema
from timestore_core.partitions.inline import FORMAT as INLINE
from timestore_core.partitions.located import Located, located
from timestore_core.query.plan import PlannedPartition, QueryPlan, column_scales, resolve_columns, select_partitions
from timestore_core.query.request import QueryRequest
from timestore_core.runtime import Runtime

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Answer:
    """A JSON answer and what it took."""

    body: bytes
    rows: int
    partitions: int


def entity_tag(head: Head, request: QueryRequest) -> str:
    """A strong tag: the same snapshot and the same question give the same bytes from this version of the service."""
    identity = f"{head.dataset.id}/{request.fingerprint}/{__version__}"
    digest = hashlib.blake2b(identity.encode(), digest_size=12).hexdigest()
    return f'"{head.version}-{digest}"'


class _ReadFailedError(Exception):
    """A file that came from a remote store cannot be read: fetched anew it may."""


@contextmanager
def planned(
    runtime: Runtime, head: Head, request: QueryRequest, *, stream: bool = True
) -> Iterator[tuple[QueryPlan, Located]]:
    """What to read of the head's snapshot, and where it is: the files stay there for the time of the block.

    Raises InvalidRequest naming the columns that the dataset lacks, Unavailable where a storage target is away.
    """
    functions, settings = runtime.plugins.aggregations, runtime.settings
    columns, output = resolve_columns(request, head.schema, functions)
    partitions = runtime.snapshots.joined(head)
    chosen = select_partitions(partitions, request)
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
                *(_planned(partition, within, places) for partition, within in files),
                *joined(head.dataset.id, [one for one in chosen if one[0].file_format == INLINE]),
            ),
            considered=sum(len(members_of(one)) for one in partitions),
            time_range=request.time_range,
            timestamp_column=request.timestamp_column,
            columns=columns,
            bucket=request.bucket,
            aggregations=request.aggregations,
            output=output,
            row_limit=settings.query_max_rows + 1 if request.limit is None else request.limit,
            limit_is_guard=request.limit is None,
            timeout_ms=settings.query_timeout_ms,
            scales=column_scales(request.aggregations, columns, functions, partitions),
        )
        yield plan, places


def joined(dataset_id: str, chosen: Sequence[tuple[Partition, bool]]) -> Iterator[PlannedPartition]:
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
        )


def _all_members(partitions: Sequence[Partition]) -> tuple[str, ...]:
    if len(partitions) == 1:
        # The very same tuple each time: what it means to the engine is known by it.
        return members_of(partitions[0])
    return tuple(id_ for one in partitions for id_ in members_of(one))


def _planned(partition: Partition, within: bool, places: Located) -> PlannedPartition:
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
    )


def answer(runtime: Runtime, head: Head, request: QueryRequest, is_gone: Callable[[], bool] | None = None) -> Answer:
    """The JSON answer to the request over the head's snapshot. `is_gone` says that nobody waits any more."""
    if not head.schema.fields:
        mode = "raw" if request.bucket is None else "downsampled"
        return Answer(_body(b"", _asked_columns(request), mode), 0, 0)
    try:
        return _answer(runtime, head, request, is_gone, stream=True)
    except _ReadFailedError:
        # Cut short or mixed up on the way: whole files are held against their checksums before they are read.
        return _answer(runtime, head, request, is_gone, stream=False)


def _answer(
    runtime: Runtime, head: Head, request: QueryRequest, is_gone: Callable[[], bool] | None, *, stream: bool
) -> Answer:
    with planned(runtime, head, request, stream=stream) as (plan, places):
        started = time.perf_counter()
        try:
            result = runtime.engine.json_rows(plan, places.access, is_gone)
        except PartitionUnreadable as error:
            if not stream or not places.remote:
                raise
            for file in places.cached.values():
                runtime.cache.distrust(file)
            log.warning("query.read_again", dataset=head.dataset.slug, reason=error.message)
            raise _ReadFailedError from error
    elapsed_ms = (time.perf_counter() - started) * 1000
    runtime.plugins.observe("timestore_queried", plan=plan, rows=result.rows, elapsed_ms=elapsed_ms)
    mode = "raw" if request.bucket is None else "downsampled"
    body = _body(result.objects, [field.name for field in plan.output], mode)
    return Answer(body, result.rows, sum(len(one.members) or 1 for one in plan.partitions))


def _asked_columns(request: QueryRequest) -> list[str]:
    """The columns of an answer over a dataset that has none yet."""
    if request.bucket is None:
        return list(request.columns or [])
    return [Field(request.timestamp_column, "timestamp").name, *(one.alias for one in request.aggregations)]


def _body(objects: bytes, columns: list[str], mode: str) -> bytes:
    tail = msgspec.json.encode({"columns": columns, "mode": mode})
    return b'{"rows":[%b],%b' % (objects, tail[1:])
