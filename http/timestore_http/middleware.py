"""What happens around every request: its id, its line in the log."""

from __future__ import annotations

import re
import time
from typing import Any
from uuid import uuid4

import falcon
import structlog

log = structlog.get_logger("timestore_http.request")

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}", re.ASCII)


class RequestLog:
    """Gives each request an id (the client's own where it is a plain one) and writes one line when it ends."""

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        given = req.get_header("X-Request-Id") or ""
        request_id = given if _REQUEST_ID.fullmatch(given) else str(uuid4())
        req.context.started = time.perf_counter()
        req.context.log = {}
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        resp.set_header("X-Request-Id", request_id)

    def process_response(self, req: falcon.Request, resp: falcon.Response, resource: Any, succeeded: bool) -> None:
        del resource, succeeded
        fields = dict(getattr(req.context, "log", {}))
        error = getattr(req.context, "error", None)
        if error is not None:
            fields["error"] = error
        quiet = req.uri_template in ("/health", "/ready", "/livez", "/readyz")
        write = log.debug if quiet else log.info
        write(
            "request",
            method=req.method,
            route=req.uri_template,
            status=int(str(resp.status).partition(" ")[0]),
            bytes_out=len(resp.data) if resp.data is not None else 0,
            ms=round((time.perf_counter() - getattr(req.context, "started", time.perf_counter())) * 1000, 2),
            **fields,
        )
