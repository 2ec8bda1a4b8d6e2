"""/admin/lifecycle: maintenance asked for, watched, and asked for again."""

from __future__ import annotations

from typing import Any, Literal
from uuid import uuid4

import falcon
import msgspec

from timestore_core.admin import datasets
from timestore_core.errors import InvalidRequest
from timestore_core.lifecycle.operation import Maintenance
from timestore_core.lifecycle.queueing import queue_maintenance, reschedule
from timestore_core.lifecycle.runs import CONTRACT_OPERATIONS, OPERATIONS, Request, maintain
from timestore_core.lifecycle.status import lifecycle_status
from timestore_http.admin.base import AdminResource, limit_param, text_param


class WireRun(msgspec.Struct, frozen=True, rename="camel"):
    """The body of `POST /admin/lifecycle/run`."""

    dataset_id: str | None = None
    dataset_slug: str | None = None
    operations: list[str] | None = None
    mode: Literal["inline", "queue"] = "inline"
    dry_run: bool = False
    force: bool = False


class WireReschedule(msgspec.Struct, frozen=True, rename="camel"):
    """The body of `POST /admin/lifecycle/reschedule`."""

    job_id: str


class LifecycleRunResource(AdminResource):
    """POST: maintain a dataset now, or queue that."""

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        self.admit(req)
        wire = self.body(req, WireRun)
        key = wire.dataset_id or wire.dataset_slug
        if not key:
            raise InvalidRequest("datasetId or datasetSlug is required")
        operations = _operations(wire)
        if wire.mode == "queue":
            if not self.runtime.queue.deferred:
                raise InvalidRequest("queue mode unavailable when REDIS_URL=inline")
            if wire.dry_run or wire.force:
                raise InvalidRequest.at("mode", "a dry run and a forced one are answered inline")
            dataset = datasets.find(self.runtime, key)
            resp.status = falcon.HTTP_202
            resp.media = {"jobId": queue_maintenance(self.runtime, dataset, operations, "api"), "status": "queued"}
            return
        dataset = datasets.find(self.runtime, key)
        maintenance = Maintenance(self.runtime, dataset, "api", dry_run=wire.dry_run, force=wire.force)
        report = maintain(maintenance, Request(operations, str(uuid4())))
        resp.media = {"status": report.status, "report": report.to_json()}


class LifecycleStatusResource(AdminResource):
    """GET: the latest runs, and what they add up to."""

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        self.admit(req)
        key = text_param(req, "datasetId")
        dataset_id = None if key is None else datasets.id_of(self.runtime, key)
        resp.media = lifecycle_status(self.runtime, limit=limit_param(req), dataset_id=dataset_id)


class LifecycleRescheduleResource(AdminResource):
    """POST: do once more what an earlier run was asked for."""

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        self.admit(req)
        resp.media = {"status": "queued", "jobId": reschedule(self.runtime, self.body(req, WireReschedule).job_id)}


def _operations(wire: WireRun) -> list[str]:
    if wire.operations is None:
        return list(CONTRACT_OPERATIONS)
    problems: list[Any] = [name for name in wire.operations if name not in OPERATIONS]
    if problems:
        raise InvalidRequest.at("operations", f"{problems[0][:40]!r} is unknown; there are {', '.join(OPERATIONS)}")
    if not wire.operations:
        raise InvalidRequest.at("operations", f"is empty; there are {', '.join(OPERATIONS)}")
    return list(dict.fromkeys(wire.operations))
