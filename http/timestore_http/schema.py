"""GET /datasets/:slug/schema"""

from __future__ import annotations

import falcon

from timestore_core.catalog.snapshots import read_head
from timestore_core.errors import NotFound
from timestore_core.query.extent import read_extent
from timestore_core.runtime import Runtime
from timestore_core.times import format_time, from_us
from timestore_http.access import identify, require


class SchemaResource:
    """The columns of the current snapshot, how many rows it has, and the times between which they lie."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def on_get(self, req: falcon.Request, resp: falcon.Response, slug: str) -> None:
        runtime = self._runtime
        req.context.log["dataset"] = slug
        head = None if "\0" in slug else read_head(runtime.database, slug)
        if head is None:
            raise NotFound(f"Dataset {slug} not found")
        require(runtime, identify(runtime, req), "read", head.dataset)
        head, extent = read_extent(runtime, head)
        resp.set_header("X-Timestore-Version", str(head.version))
        span = extent.time_range
        resp.media = {
            "datasetId": head.dataset.id,
            "slug": head.dataset.slug,
            "version": head.version,
            "fields": head.schema.to_json()["fields"],
            "rows": extent.rows,
            "timeRange": None
            if span is None
            else {"start": format_time(from_us(span.start_us)), "end": format_time(from_us(span.end_us))},
        }
