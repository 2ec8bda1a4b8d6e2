"""POST /datasets/:slug/query"""

from __future__ import annotations

import falcon

from timestore_core.catalog.snapshots import Head, read_head
from timestore_core.errors import Gone, NotFound, PartitionUnreadable
from timestore_core.query.request import QueryRequest, parse_query
from timestore_core.query.service import answer, entity_tag
from timestore_core.runtime import Runtime
from timestore_http.access import identify, require
from timestore_http.body import read_body
from timestore_http.client import gone
from timestore_http.media import require_json


class QueryResource:
    """Answers a query over the current snapshot, which the headers name."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def on_post(self, req: falcon.Request, resp: falcon.Response, slug: str) -> None:
        runtime = self._runtime
        req.context.log["dataset"] = slug
        head = None if "\0" in slug else read_head(runtime.database, slug)
        if head is None:
            raise NotFound(f"Dataset {slug} not found")
        actor = identify(runtime, req)
        require(runtime, actor, "read", head.dataset)
        require_json(req)
        body = read_body(req, runtime.settings.query_max_body_bytes, "TIMESTORE_QUERY_MAX_BODY_BYTES")
        request = parse_query(body, runtime.plugins.aggregations, runtime.settings)
        try:
            self._answer(req, resp, head, request)
        except (PartitionUnreadable, Gone):
            # A version that was replaced while it was read may have lost its files by now: the next one has the rows.
            newer = read_head(runtime.database, slug)
            if newer is None or newer.version == head.version:
                raise
            self._answer(req, resp, newer, request)

    def _answer(self, req: falcon.Request, resp: falcon.Response, head: Head, request: QueryRequest) -> None:
        tag = entity_tag(head, request)
        resp.set_header("ETag", tag)
        resp.set_header("X-Timestore-Version", str(head.version))
        if tag in (req.get_header("If-None-Match") or ""):
            resp.status = falcon.HTTP_304
            return
        result = answer(self._runtime, head, request, gone(req))
        req.context.log |= {"rows": result.rows, "partitions": result.partitions, "version": head.version}
        resp.data = result.body
