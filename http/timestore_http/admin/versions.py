"""Earlier versions of a dataset: restored, pinned, compared; and rows that are deleted."""

from __future__ import annotations

import threading

import falcon

from timestore_core.admin import datasets, versions
from timestore_core.catalog.records import dataset_json
from timestore_core.errors import InvalidRequest
from timestore_core.lifecycle.deletion import WireDeletion, delete_rows
from timestore_http.admin.base import AdminResource, int_param
from timestore_http.admin.history import MAX_VERSION
from timestore_http.client import gone


class RestoreResource(AdminResource):
    """POST: without a body take back the deletion of a dataset; with a version, bring that version back."""

    def on_post(self, req: falcon.Request, resp: falcon.Response, key: str) -> None:
        actor = self.admit(req)
        wire = self.optional_body(req, versions.WireRestore)
        if wire.version is None:
            if wire.dry_run:
                raise InvalidRequest.at("version", "is required for a dry run")
            dataset = datasets.restore(self.runtime, key, actor)
            shown = dataset_json(dataset)
            resp.set_header("ETag", f'"{shown["updatedAt"]}"')
            resp.media = {"dataset": shown}
            return
        if not 1 <= wire.version <= MAX_VERSION:
            raise InvalidRequest.at("version", f"must be a whole number from 1 to {MAX_VERSION}")
        resp.media = versions.restore_version(self.runtime, key, wire.version, actor, dry_run=wire.dry_run)


class PinsResource(AdminResource):
    """GET: the versions that are kept."""

    def on_get(self, req: falcon.Request, resp: falcon.Response, key: str) -> None:
        self.admit(req)
        resp.media = versions.pins(self.runtime, key)


class PinResource(AdminResource):
    """PUT and DELETE of one kept version."""

    def on_put(self, req: falcon.Request, resp: falcon.Response, key: str, name: str) -> None:
        actor = self.admit(req)
        wire = self.optional_body(req, versions.WirePin)
        if wire.version is not None and not 1 <= wire.version <= MAX_VERSION:
            raise InvalidRequest.at("version", f"must be a whole number from 1 to {MAX_VERSION}")
        answer, is_new = versions.pin(self.runtime, key, name, wire.version, actor)
        resp.status = falcon.HTTP_201 if is_new else falcon.HTTP_200
        resp.media = answer

    def on_delete(self, req: falcon.Request, resp: falcon.Response, key: str, name: str) -> None:
        actor = self.admit(req)
        resp.media = versions.unpin(self.runtime, key, name, actor)


class ChangesResource(AdminResource):
    """GET: what came and went since a version; waits for the next one on demand."""

    # Waiting holds a thread: whoever comes when so many wait already gets an answer at once.
    _waiting = threading.BoundedSemaphore(4)

    def on_get(self, req: falcon.Request, resp: falcon.Response, key: str) -> None:
        self.admit(req)
        since = int_param(req, "since", 0, MAX_VERSION)
        wait_s = int_param(req, "wait", 0, versions.MAX_WAIT_S) or 0
        if since is None:
            raise InvalidRequest.at("since", "is required: a version, or 0 for everything")
        may_wait = wait_s > 0 and self._waiting.acquire(blocking=False)
        try:
            resp.media = versions.changes(self.runtime, key, since, wait_s if may_wait else 0, gone(req))
        finally:
            if may_wait:
                self._waiting.release()


class DeleteRowsResource(AdminResource):
    """POST: delete the rows of a time range, or say which these are."""

    def on_post(self, req: falcon.Request, resp: falcon.Response, key: str) -> None:
        actor = self.admit(req)
        wire: WireDeletion = self.body(req, WireDeletion)
        resp.media = delete_rows(self.runtime, datasets.find(self.runtime, key), wire, actor)
