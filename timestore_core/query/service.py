"""Answering a query: head, plan, engine, bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pyarrow as pa
import structlog

from timestore_core import __version__
from timestore_core.catalog.snapshots import Head
from timestore_core.dedupe import KEY as DEDUPE
from timestore_core.errors import PartitionUnreadable
from timestore_core.model import ResultField
from timestore_core.partitions.located import Located
from timestore_core.query.answer import Answer, Tally, begun
from timestore_core.query.explaining import Steps, explanation
from timestore_core.query.formats import JSON, AnswerForm, Shape
from timestore_core.query.paging import next_cursor
from timestore_core.query.planning import planned
from timestore_core.query.request import QueryRequest
from timestore_core.runtime import Runtime

log = structlog.get_logger(__name__)

# More rows than a stream can have: it has no limit of its own.
_UNLIMITED = 2**62


def entity_tag(head: Head, request: QueryRequest, variant: str = "") -> str:
    """A strong tag: the same snapshot and the same question give the same bytes from this version of the service.

    `variant` is what makes other bytes of the same answer: its form, its compression.
    """
    rule = repr(head.dataset.metadata[DEDUPE]) if DEDUPE in head.dataset.metadata else ""
    identity = f"{head.dataset.id}/{request.fingerprint}/{__version__}{rule}{variant and '/'}{variant}"
    digest = hashlib.blake2b(identity.encode(), digest_size=12).hexdigest()
    return f'"{head.version}-{digest}"'


class _ReadFailedError(Exception):
    """A file that came from a remote store cannot be read: fetched anew it may."""


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
        beside = {"nextCursor": None} if request.paged else {}
        shape = _shape(runtime, request, [ResultField(name, "string") for name in _asked_columns(request)], beside)
        return Answer(form.encode(iter(()), shape), Tally())
    if request.explain:
        return _explained(runtime, head, request, is_gone)
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
        tally = Tally(partitions=sum(len(one.members) or 1 for one in plan.partitions))

        def ended(elapsed_ms: float) -> None:
            runtime.plugins.observe("timestore_queried", plan=plan, rows=tally.rows, elapsed_ms=elapsed_ms)

        rows = runtime.engine.batches(plan, places.access, form.render, is_gone)
        batches = tally.counted(_read(runtime, head, places, rows, fetches_anew=stream))
        held.callback(batches.close)
        cursor = next_cursor(runtime, plan, request, places.access, is_gone) if request.paged else None
        shape = _shape(runtime, request, plan.output, {"nextCursor": cursor} if request.paged else {})
        answer = begun(form, batches, shape, tally, turn, held, ended)
        answer.next_cursor = cursor
        return answer


def _explained(runtime: Runtime, head: Head, request: QueryRequest, is_gone: Callable[[], bool] | None) -> Answer:
    """The question is answered, and thrown away; what is told is how."""
    steps, tally = Steps(), Tally()
    with ExitStack() as held:
        with steps.step("admission"):
            turn = held.enter_context(runtime.admission.admitted())
        with steps.step("planning"):
            plan, places = held.enter_context(planned(runtime, head, request))
        turn.begin()
        tally.partitions = sum(len(one.members) or 1 for one in plan.partitions)
        with steps.step("execution"):
            for _ in tally.counted(runtime.engine.batches(plan, places.access, JSON.render, is_gone)):
                pass
        told = explanation(runtime, plan, places, steps, tally.rows)
        shape = _shape(runtime, request, plan.output, {"explain": told})
        return Answer(JSON.encode(iter(()), shape), tally)


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


def _shape(runtime: Runtime, request: QueryRequest, fields: Sequence[ResultField], beside: Mapping[str, Any]) -> Shape:
    settings = runtime.settings
    return Shape(fields, request.mode, settings.spill_dir / "answers", settings.query_max_answer_bytes, beside)


def _asked_columns(request: QueryRequest) -> list[str]:
    """The columns of an answer over a dataset that has none yet."""
    if request.mode in ("raw", "latest"):
        return list(request.columns or [])
    time = [] if request.bucket is None else [request.timestamp_column]
    return [*time, *(request.group_by or ()), *(one.alias for one in request.aggregations)]
