"""Answering a query: head, plan, engine, bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import pyarrow as pa
import structlog

from timestore_core import __version__
from timestore_core.catalog.snapshots import Head
from timestore_core.errors import InvalidRequest, PartitionUnreadable
from timestore_core.model import ColumnStatistics, Partition, ResultField, TimeRange
from timestore_core.partitions.located import Located, located
from timestore_core.query.answer import Answer, Tally, begun
from timestore_core.query.formats import JSON, AnswerForm, Shape
from timestore_core.query.plan import PlannedPartition, QueryPlan, column_scales, resolve
from timestore_core.query.pruning import select_partitions
from timestore_core.query.request import QueryRequest
from timestore_core.query.zones import UTC_ZONE, Zone, zone_over
from timestore_core.runtime import Runtime

log = structlog.get_logger(__name__)

_DAY_US = 86_400_000_000
# More rows than a stream can have: it has no limit of its own.
_UNLIMITED = 2**62


def entity_tag(head: Head, request: QueryRequest, variant: str = "") -> str:
    """A strong tag: the same snapshot and the same question give the same bytes from this version of the service.

    `variant` is what makes other bytes of the same answer: its form, its compression.
    """
    identity = f"{head.dataset.id}/{request.fingerprint}/{__version__}{variant and '/'}{variant}"
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
    resolved = resolve(request, head.schema, functions)
    asked, skip = _page(request)
    partitions = runtime.snapshots.partitions(head)
    chosen = select_partitions(partitions, asked, resolved.conditions).chosen
    unread = {partition.file_format for partition, _ in chosen} - runtime.engine.formats
    if unread:
        raise InvalidRequest(f"the query engine reads no partitions of format {', '.join(sorted(unread))}")
    with located(runtime, [partition for partition, _ in chosen], stream=stream) as places:
        plan = QueryPlan(
            dataset_id=head.dataset.id,
            dataset_slug=head.dataset.slug,
            version=head.version,
            partitions=tuple(
                _planned(partition, within, places, request.timestamp_column) for partition, within in chosen
            ),
            considered=len(partitions),
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
        )
        yield plan, places


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
        known = [partition.statistics.get(request.timestamp_column) for partition in partitions]
        bounds = [(one.minimum, one.maximum) for one in known if one is not None]
        if len(bounds) == len(known) and bounds:
            lows, highs = ([one for one in ends if isinstance(one, int)] for ends in zip(*bounds, strict=True))
            wanted = TimeRange(max(wanted.start_us, min(lows)), min(wanted.end_us, max(highs)))
    # Whole days, so that one zone serves the questions of a day.
    return zone_over(bucket.timezone, wanted.start_us // _DAY_US * _DAY_US, -(-wanted.end_us // _DAY_US) * _DAY_US)


def _bounds(known: ColumnStatistics | None) -> TimeRange | None:
    low, high = (None, None) if known is None else (known.minimum, known.maximum)
    return TimeRange(low, high) if isinstance(low, int) and isinstance(high, int) else None


def _planned(partition: Partition, within: bool, places: Located, timestamp_column: str) -> PlannedPartition:
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
    )


def open_answer(
    runtime: Runtime,
    head: Head,
    request: QueryRequest,
    form: AnswerForm = JSON,
    is_gone: Callable[[], bool] | None = None,
) -> Answer:
    """The answer over the head's snapshot in this form, from its first byte on; whoever has it closes it.

    `is_gone` says that nobody waits any more. Raises TooManyRequests where too many queries run.
    """
    if not head.schema.fields:
        shape = _shape(runtime, request, [ResultField(name, "string") for name in _asked_columns(request)])
        return Answer(form.encode(iter(()), shape), Tally())
    try:
        return _opened(runtime, head, request, form, is_gone, stream=True)
    except _ReadFailedError:
        # Cut short or mixed up on the way: whole files are held against their checksums before they are read.
        return _opened(runtime, head, request, form, is_gone, stream=False)


def _opened(
    runtime: Runtime,
    head: Head,
    request: QueryRequest,
    form: AnswerForm,
    is_gone: Callable[[], bool] | None,
    *,
    stream: bool,
) -> Answer:
    with ExitStack() as held:
        turn = held.enter_context(runtime.admission.admitted())
        plan, places = held.enter_context(planned(runtime, head, request, stream=stream))
        if form.delivery == "stream" and plan.limit_is_guard:
            plan = replace(plan, row_limit=_UNLIMITED, limit_is_guard=False)
        turn.begin()
        tally = Tally(partitions=len(plan.partitions))

        def ended(elapsed_ms: float) -> None:
            runtime.plugins.observe("timestore_queried", plan=plan, rows=tally.rows, elapsed_ms=elapsed_ms)

        rows = runtime.engine.batches(plan, places.access, form.render, is_gone)
        batches = tally.counted(_read(runtime, head, places, rows, fetches_anew=stream))
        held.callback(batches.close)
        shape = _shape(runtime, request, plan.output)
        return begun(form, batches, shape, tally, turn, held, ended)


def _read(
    runtime: Runtime, head: Head, places: Located, batches: Iterator[pa.RecordBatch], *, fetches_anew: bool
) -> Iterator[pa.RecordBatch]:
    """The batches. Raises _ReadFailedError where a file from a remote store is better fetched anew."""
    try:
        yield from batches
    except PartitionUnreadable as error:
        if not fetches_anew or not places.remote:
            raise
        for file in places.cached.values():
            runtime.cache.distrust(file)
        log.warning("query.read_again", dataset=head.dataset.slug, reason=error.message)
        raise _ReadFailedError from error


def _shape(runtime: Runtime, request: QueryRequest, fields: Sequence[ResultField]) -> Shape:
    settings = runtime.settings
    return Shape(fields, request.mode, settings.spill_dir / "answers", settings.query_max_answer_bytes)


def _asked_columns(request: QueryRequest) -> list[str]:
    """The columns of an answer over a dataset that has none yet."""
    if request.mode in ("raw", "latest"):
        return list(request.columns or [])
    time = [] if request.bucket is None else [request.timestamp_column]
    return [*time, *(request.group_by or ()), *(one.alias for one in request.aggregations)]
