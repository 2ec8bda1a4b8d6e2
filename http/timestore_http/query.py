"""POST /datasets/:slug/query"""

from __future__ import annotations

from collections.abc import Mapping

import falcon

from timestore_core.catalog.snapshots import Head, head_as_of, read_head
from timestore_core.errors import Gone, NotFound, PartitionUnreadable
from timestore_core.query.formats import JSON
from timestore_core.query.request import QueryRequest, parse_query
from timestore_core.query.service import entity_tag, open_answer
from timestore_core.runtime import Runtime
from timestore_http.access import identify, require
from timestore_http.answers import send, vary
from timestore_http.body import read_body
from timestore_http.client import gone
from timestore_http.media import require_json, wanted_coding, wanted_form

# How often a query starts again because its version was replaced, and its files collected, while it was read.
_MAX_OVERTAKEN = 8


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
        request = parse_query(body, runtime.plugins.aggregations, runtime.settings, head.dataset.id)
        if request.as_of is not None:
            # That version or none: a newer one would be another answer.
            try:
                self._answer(req, resp, head_as_of(runtime.database, head, request.as_of), request)
            except PartitionUnreadable:
                # Collected while it was read, perhaps: then this says so.
                head_as_of(runtime.database, head, request.as_of)
                raise
            return
        for _ in range(_MAX_OVERTAKEN):
            try:
                self._answer(req, resp, head, request)
                return
            except (PartitionUnreadable, Gone) as error:
                head = self._newer(head, error)
        self._answer(req, resp, head, request)

    def _newer(self, head: Head, error: PartitionUnreadable | Gone) -> Head:
        """The version that took this one's place while it was read, where that explains the error; else raises it.

        What was replaced may have lost its files by now, and the newer version has their rows.
        """
        runtime, broken = self._runtime, error.details
        newer = read_head(runtime.database, head.dataset.slug)
        if newer is None or newer.dataset.id != head.dataset.id or newer.version == head.version:
            raise error
        if isinstance(broken, Mapping) and any(
            one.id == broken.get("partitionId") for one in runtime.snapshots.partitions(newer)
        ):
            raise error
        return newer

    def _answer(self, req: falcon.Request, resp: falcon.Response, head: Head, request: QueryRequest) -> None:
        vary(resp)
        form = JSON if request.explain else wanted_form(req)
        coding = wanted_coding(req, form)
        variant = "" if form is JSON and coding is None else f"{form.name}+{coding}"
        tag = entity_tag(head, request, variant)
        resp.set_header("ETag", tag)
        resp.set_header("X-Timestore-Version", str(head.version))
        req.context.log |= {"version": head.version, "form": form.name}
        if tag in (req.get_header("If-None-Match") or "") and not request.explain:
            resp.status = falcon.HTTP_304
            return
        answer = open_answer(self._runtime, head, request, form, gone(req))
        if answer.next_cursor is not None:
            resp.set_header("X-Timestore-Next-Cursor", answer.next_cursor)
        send(req, resp, answer, form, coding)
