"""Whether a page is the last one, and where the next begins: found out before the page is sent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from timestore_core.model import ResultField
from timestore_core.query.cursor import Position, write_cursor
from timestore_core.query.plan import QueryPlan
from timestore_core.query.render_sql import COLUMNS
from timestore_core.query.request import QueryRequest
from timestore_core.runtime import Runtime
from timestore_core.storage import Access


def next_cursor(
    runtime: Runtime, plan: QueryPlan, request: QueryRequest, access: Access, is_gone: Callable[[], bool] | None
) -> str | None:
    """The cursor of the page after the plan's, or None where it is the last."""
    if request.limit is None:
        return None

    def times(asked: QueryPlan) -> pa.ChunkedArray:
        found = [batch.column(0) for batch in runtime.engine.batches(asked, access, COLUMNS, is_gone)]
        return pa.chunked_array(found) if found else pa.chunked_array([], pa.int64())

    if plan.is_raw and not plan.latest:
        position = _after_rows(plan, request.limit, times)
    else:
        more = times(replace(plan, row_limit=1, skip=plan.skip + request.limit))
        position = Position(plan.version, None, plan.skip + request.limit) if len(more) else None
    return None if position is None else write_cursor(request.question, position)


def _after_rows(plan: QueryPlan, limit: int, times: Callable[[QueryPlan], pa.ChunkedArray]) -> Position | None:
    """Behind the page's last time and as many rows of that time as were given: rows are in a total order."""
    only_times = replace(
        plan, columns=(), output=(ResultField(plan.timestamp_column, "timestamp"),), row_limit=limit + 1
    )
    found = times(only_times).cast(pa.timestamp("us")).cast(pa.int64())
    if len(found) <= limit:
        return None
    page = found.slice(0, limit)
    last_us: int = page[limit - 1].as_py()
    given: int = pc.sum(pc.equal(page, last_us)).as_py()
    first_us = plan.time_range.end_us if plan.descending else plan.time_range.start_us
    # Rows of this time that earlier pages gave were left out by this one.
    return Position(plan.version, last_us, given + (plan.skip if last_us == first_us else 0))
