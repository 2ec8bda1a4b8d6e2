"""The routes, put together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import falcon

from timestore_core.runtime import Runtime
from timestore_http import errors
from timestore_http.health import HealthResource, ReadyResource
from timestore_http.ingest import IngestResource
from timestore_http.ingest_jobs import IngestJobResource
from timestore_http.media import JSON
from timestore_http.middleware import RequestLog
from timestore_http.query import QueryResource


def make_app(runtime: Runtime, is_draining: Callable[[], bool] = lambda: False) -> falcon.App[Any, Any]:
    """The WSGI application over a runtime. `is_draining` tells readiness that a shutdown has begun."""
    app = falcon.App(middleware=[RequestLog()], media_type=JSON)
    app.req_options.strip_url_path_trailing_slash = True
    app.resp_options.media_handlers[JSON] = app.resp_options.media_handlers["application/json"]
    errors.install(app)
    health, ready = HealthResource(), ReadyResource(runtime, is_draining)
    for path in ("/health", "/livez"):
        app.add_route(path, health)
    for path in ("/ready", "/readyz"):
        app.add_route(path, ready)
    app.add_route("/datasets/{slug}/ingest", IngestResource(runtime))
    app.add_route("/datasets/{slug}/ingest/jobs/{job_id}", IngestJobResource(runtime))
    app.add_route("/datasets/{slug}/query", QueryResource(runtime))
    return app
