"""POST /datasets/:slug/sql"""

from __future__ import annotations

import falcon

from timestore_core.catalog.snapshots import Head, head_as_of, read_head
from timestore_core.errors import Gone, NotFound, PartitionUnreadable
from timestore_core.model import Actor
from timestore_core.runtime import Runtime
from timestore_core.select.request import SelectRequest, parse_select
from timestore_core.select.service import open_select
from timestore_http.access import identify, require
from timestore_http.answers import send, vary
from timestore_http.body import read_body
from timestore_http.client import gone
from timestore_http.media import require_json, wanted_coding, wanted_form

# How often a statement starts again because a version was replaced, and its files collected, while it was read.
_MAX_OVERTAKEN = 3


class SqlResource:
    """Answers one read-only SELECT over the dataset's current snapshot, and over others that may be read."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def on_post(self, req: falcon.Request, resp: falcon.Response, slug: str) -> None:
        runtime = self._runtime
        req.context.log["dataset"] = slug
        head = self._head(slug)
        if head is None:
            raise NotFound(f"Dataset {slug} not found")
        actor = identify(runtime, req)
        require(runtime, actor, "read", head.dataset)
        require_json(req)
        body = read_body(req, runtime.settings.query_max_body_bytes, "TIMESTORE_QUERY_MAX_BODY_BYTES")
        request = parse_select(body, runtime.settings)
        vary(resp)
        for _ in range(_MAX_OVERTAKEN):
            try:
                self._answer(req, resp, actor, head, request)
                return
            except (PartitionUnreadable, Gone):
                newer = self._head(slug)
                if request.as_of is not None or newer is None or newer.dataset.id != head.dataset.id:
                    raise
                if newer.version == head.version:
                    raise
                head = newer
        self._answer(req, resp, actor, head, request)

    def _answer(
        self, req: falcon.Request, resp: falcon.Response, actor: Actor, head: Head, request: SelectRequest
    ) -> None:
        runtime = self._runtime
        if request.as_of is not None:
            head = head_as_of(runtime.database, head, request.as_of)

        def lookup(name: str) -> Head | None:
            found = self._head(name)
            if found is None or not runtime.plugins.may(actor, "read", found.dataset, runtime.settings):
                return None
            return found

        form = wanted_form(req)
        resp.set_header("X-Timestore-Version", str(head.version))
        req.context.log |= {"version": head.version, "form": form.name}
        answer = open_select(runtime, head, request, lookup, form, gone(req))
        send(req, resp, answer, form, wanted_coding(req, form))

    def _head(self, slug: str) -> Head | None:
        return None if "\0" in slug else read_head(self._runtime.database, slug)
