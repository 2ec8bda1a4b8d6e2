"""Manifests, partitions, schemas and audit."""

from __future__ import annotations

import falcon

from timestore_core.admin import history
from timestore_http.admin.base import AdminResource, int_param, limit_param, pairs_param, text_param

MAX_VERSION = 2**31 - 1


class ManifestResource(AdminResource):
    """GET: the published manifest, or that of `?version=`."""

    def on_get(self, req: falcon.Request, resp: falcon.Response, key: str) -> None:
        self.admit(req)
        resp.media = history.manifest(self.runtime, key, int_param(req, "version", 1, MAX_VERSION))


class ManifestsResource(AdminResource):
    """GET: the history."""

    def on_get(self, req: falcon.Request, resp: falcon.Response, key: str) -> None:
        self.admit(req)
        resp.media = history.manifests(self.runtime, key, limit_param(req), text_param(req, "cursor"))


class PartitionsResource(AdminResource):
    """GET: the partitions of a snapshot."""

    def on_get(self, req: falcon.Request, resp: falcon.Response, key: str) -> None:
        self.admit(req)
        resp.media = history.partitions_page(
            self.runtime,
            key,
            limit=limit_param(req),
            cursor=text_param(req, "cursor"),
            version=int_param(req, "version", 1, MAX_VERSION),
            start=text_param(req, "from"),
            end=text_param(req, "to"),
            partition_key=pairs_param(req, "key"),
        )


class SchemasResource(AdminResource):
    """GET: the versions of the schema."""

    def on_get(self, req: falcon.Request, resp: falcon.Response, key: str) -> None:
        self.admit(req)
        resp.media = history.schemas(self.runtime, key, limit_param(req), text_param(req, "cursor"))


class DatasetAuditResource(AdminResource):
    """GET: what happened to one dataset."""

    def on_get(self, req: falcon.Request, resp: falcon.Response, key: str) -> None:
        self.admit(req)
        _audit(self, req, resp, key)


class AuditResource(AdminResource):
    """GET: everything that happened."""

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        self.admit(req)
        _audit(self, req, resp, None)


def _audit(resource: AdminResource, req: falcon.Request, resp: falcon.Response, key: str | None) -> None:
    resp.media = history.audit(
        resource.runtime,
        key,
        limit=limit_param(req),
        cursor=text_param(req, "cursor"),
        event_type=text_param(req, "eventType"),
    )
