"""The routes, put together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import falcon

from timestore_core.runtime import Runtime
from timestore_http import errors, influx
from timestore_http.admin.base import AdminResource
from timestore_http.admin.datasets import (
    ArchiveResource,
    DatasetResource,
    DatasetsResource,
    DatasetTargetResource,
    RetentionResource,
)
from timestore_http.admin.history import (
    AuditResource,
    DatasetAuditResource,
    ManifestResource,
    ManifestsResource,
    PartitionsResource,
    SchemasResource,
)
from timestore_http.admin.lifecycle import (
    LifecycleRescheduleResource,
    LifecycleRunResource,
    LifecycleStatusResource,
)
from timestore_http.admin.targets import TargetResource, TargetsResource
from timestore_http.admin.versions import (
    ChangesResource,
    DeleteRowsResource,
    PinResource,
    PinsResource,
    RestoreResource,
)
from timestore_http.docs import DocsAssetResource, DocsResource
from timestore_http.health import HealthResource, ReadyResource
from timestore_http.ingest import IngestResource
from timestore_http.ingest_jobs import IngestJobResource
from timestore_http.media import JSON
from timestore_http.middleware import RequestLog
from timestore_http.openapi.resource import OpenApiResource
from timestore_http.query import QueryResource
from timestore_http.schema import SchemaResource
from timestore_http.sql import SqlResource


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
    app.add_route("/datasets/{slug}/schema", SchemaResource(runtime))
    app.add_route("/datasets/{slug}/sql", SqlResource(runtime))
    app.add_route("/openapi.json", OpenApiResource(runtime))
    app.add_route("/docs", DocsResource())
    app.add_route("/docs/{asset}", DocsAssetResource())
    for path, resource in influx.routes(runtime).items():
        app.add_route(path, resource)
    for path, resource in _admin_routes(runtime).items():
        app.add_route(path, resource)
    return app


def _admin_routes(runtime: Runtime) -> dict[str, AdminResource]:
    dataset = "/admin/datasets/{key}"
    return {
        "/admin/datasets": DatasetsResource(runtime),
        dataset: DatasetResource(runtime),
        f"{dataset}/archive": ArchiveResource(runtime),
        f"{dataset}/restore": RestoreResource(runtime),
        f"{dataset}/retention": RetentionResource(runtime),
        f"{dataset}/storage-target": DatasetTargetResource(runtime),
        f"{dataset}/manifest": ManifestResource(runtime),
        f"{dataset}/manifests": ManifestsResource(runtime),
        f"{dataset}/partitions": PartitionsResource(runtime),
        f"{dataset}/schemas": SchemasResource(runtime),
        f"{dataset}/audit": DatasetAuditResource(runtime),
        f"{dataset}/pins": PinsResource(runtime),
        f"{dataset}/pins/{{name}}": PinResource(runtime),
        f"{dataset}/changes": ChangesResource(runtime),
        f"{dataset}/delete-rows": DeleteRowsResource(runtime),
        "/admin/lifecycle/run": LifecycleRunResource(runtime),
        "/admin/lifecycle/status": LifecycleStatusResource(runtime),
        "/admin/lifecycle/reschedule": LifecycleRescheduleResource(runtime),
        "/admin/audit": AuditResource(runtime),
        "/admin/storage-targets": TargetsResource(runtime),
        "/admin/storage-targets/{target_id}": TargetResource(runtime),
    }
