"""What a query would read and why, and what each of its steps took."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from timestore_core.names import quote_identifier
from timestore_core.partitions.inline import FORMAT as INLINE
from timestore_core.partitions.located import Located
from timestore_core.query.plan import QueryPlan
from timestore_core.query.sql import undivided_sql
from timestore_core.runtime import Runtime

_MAX_PARTITIONS = 100
_MAX_SQL_LENGTH = 20_000


class Steps:
    """Milliseconds by step."""

    def __init__(self) -> None:
        self.elapsed_ms: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time what runs in the block."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.elapsed_ms[name] = round((time.perf_counter() - started) * 1000, 3)


def explanation(runtime: Runtime, plan: QueryPlan, places: Located, steps: Steps, rows: int) -> Mapping[str, Any]:
    """The plan as JSON. Files are named as the catalog names them, below their target's root."""
    read = [id_ for one in plan.partitions for id_ in one.members or (one.id,)]
    sources = Counter[str]()
    for one in plan.partitions:
        how = "inline" if one.format == INLINE else _source(one.id, places)
        sources[how] += len(one.members) or 1
    relations = {
        one.id: "inline" if one.format == INLINE else quote_identifier(one.file_path) for one in plan.partitions
    }
    sql = undivided_sql(plan, plan.partitions, relations, runtime.plugins.aggregations)
    return {
        "version": plan.version,
        "partitions": {
            "considered": plan.considered,
            "read": len(read),
            "ruledOut": dict(plan.ruled_out),
            "sources": dict(sources),
            "ids": read[:_MAX_PARTITIONS],
        },
        "bytes": sum(one.size_bytes for one in plan.partitions),
        "rowsInPartitions": sum(one.rows for one in plan.partitions),
        "rows": rows,
        "sql": sql[:_MAX_SQL_LENGTH],
        "milliseconds": steps.elapsed_ms,
    }


def _source(partition_id: str, places: Located) -> str:
    if partition_id in places.streamed:
        return "streamed"
    if partition_id in places.fetched:
        return "fetched"
    return "cacheHit" if partition_id in places.cached else "local"
