"""Answering a query: head, plan, engine, bytes."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from timestore_core import __version__
from timestore_core.catalog.snapshots import Head
from timestore_core.errors import InvalidRequest
from timestore_core.model import Field
from timestore_core.query.plan import PlannedPartition, QueryPlan, column_scales, resolve_columns, select_partitions
from timestore_core.query.request import QueryRequest
from timestore_core.runtime import Runtime
from timestore_core.storage import StorageDriver


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


def make_plan(runtime: Runtime, head: Head, request: QueryRequest) -> tuple[QueryPlan, frozenset[str]]:
    """What to read of the head's snapshot, and the locations that the engine must be allowed to reach.

    Raises InvalidRequest naming the columns that the dataset lacks.
    """
    functions = runtime.plugins.aggregations
    columns, output = resolve_columns(request, head.schema, functions)
    partitions = runtime.snapshots.partitions(head)
    planned, drivers = [], dict[str, StorageDriver]()
    for partition, within in select_partitions(partitions, request):
        driver = drivers.get(partition.storage_target_id)
        if driver is None:
            driver = runtime.targets.driver(runtime.targets.get(partition.storage_target_id))
            drivers[partition.storage_target_id] = driver
        planned.append(
            PlannedPartition(
                id=partition.id,
                target_id=partition.storage_target_id,
                location=driver.location(partition.file_path),
                file_path=partition.file_path,
                format=partition.file_format,
                table_name=partition.table_name,
                schema=partition.schema,
                size_bytes=partition.file_size_bytes,
                rows=partition.row_count,
                within_range=within,
            )
        )
    settings = runtime.settings
    guard = request.limit is None
    plan = QueryPlan(
        dataset_id=head.dataset.id,
        dataset_slug=head.dataset.slug,
        version=head.version,
        partitions=tuple(planned),
        considered=len(partitions),
        time_range=request.time_range,
        timestamp_column=request.timestamp_column,
        columns=columns,
        bucket=request.bucket,
        aggregations=request.aggregations,
        output=output,
        row_limit=settings.query_max_rows + 1 if request.limit is None else request.limit,
        limit_is_guard=guard,
        timeout_ms=settings.query_timeout_ms,
        scales=column_scales(request.aggregations, columns, functions, partitions),
    )
    return plan, frozenset(one for driver in drivers.values() for one in driver.allowed_locations())


def answer(runtime: Runtime, head: Head, request: QueryRequest, is_gone: Callable[[], bool] | None = None) -> Answer:
    """The JSON answer to the request over the head's snapshot. `is_gone` says that nobody waits any more."""
    mode = "raw" if request.bucket is None else "downsampled"
    if not head.schema.fields:
        return Answer(_body(b"", _asked_columns(request), mode), 0, 0)
    plan, allowed = make_plan(runtime, head, request)
    unread = {partition.format for partition in plan.partitions} - runtime.engine.formats
    if unread:
        raise InvalidRequest(f"the query engine reads no partitions of format {', '.join(sorted(unread))}")
    started = time.perf_counter()
    result = runtime.engine.json_rows(plan, allowed, is_gone)
    runtime.plugins.observe(
        "timestore_queried", plan=plan, rows=result.rows, elapsed_ms=(time.perf_counter() - started) * 1000
    )
    body = _body(result.objects, [field.name for field in plan.output], mode)
    return Answer(body, result.rows, len(plan.partitions))


def _asked_columns(request: QueryRequest) -> list[str]:
    """The columns of an answer over a dataset that has none yet."""
    if request.bucket is None:
        return list(request.columns or [])
    return [Field(request.timestamp_column, "timestamp").name, *(one.alias for one in request.aggregations)]


def _body(objects: bytes, columns: list[str], mode: str) -> bytes:
    tail = msgspec.json.encode({"columns": columns, "mode": mode})
    return b'{"rows":[%b],%b' % (objects, tail[1:])
