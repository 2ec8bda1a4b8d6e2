"""POST /datasets/:slug/query"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable

import falcon

from timestore_core.catalog.snapshots import read_head
from timestore_core.errors import NotFound
from timestore_core.query.request import parse_query
from timestore_core.query.service import answer, entity_tag
from timestore_core.runtime import Runtime
from timestore_http.access import identify, require
from timestore_http.body import read_body
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
        tag = entity_tag(head, request)
        resp.set_header("ETag", tag)
        resp.set_header("X-Timestore-Version", str(head.version))
        if tag in (req.get_header("If-None-Match") or ""):
            resp.status = falcon.HTTP_304
            return
        result = answer(runtime, head, request, _gone(req))
        req.context.log |= {"rows": result.rows, "partitions": result.partitions, "version": head.version}
        resp.data = result.body


def _gone(req: falcon.Request) -> Callable[[], bool] | None:
    """Tells whether the client has closed its connection, where the server lends its socket."""
    connection = req.env.get("gunicorn.socket")
    if not isinstance(connection, socket.socket):
        return None

    def is_gone() -> bool:
        try:
            readable, _, _ = select.select([connection], [], [], 0)
            return bool(readable) and connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False
        except (OSError, ValueError):
            return True

    return is_gone
