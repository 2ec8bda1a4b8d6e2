"""/admin/storage-targets"""

from __future__ import annotations

import falcon

from timestore_core.admin import targets
from timestore_core.model import StorageTarget
from timestore_http.admin.base import AdminResource, text_param


class TargetsResource(AdminResource):
    """GET lists, POST makes."""

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        self.admit(req)
        found = targets.list_targets(self.runtime, text_param(req, "kind"))
        resp.media = {"storageTargets": [targets.target_json(self.runtime, one) for one in found]}

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        actor = self.admit(req)
        resp.status = falcon.HTTP_201
        self._show(resp, targets.create(self.runtime, self.body(req, targets.WireNewTarget), actor))

    def _show(self, resp: falcon.Response, target: StorageTarget) -> None:
        resp.media = {"storageTarget": targets.target_json(self.runtime, target)}


class TargetResource(AdminResource):
    """PATCH of one target."""

    def on_patch(self, req: falcon.Request, resp: falcon.Response, target_id: str) -> None:
        actor = self.admit(req)
        wire = self.body(req, targets.WireTargetPatch)
        changed = targets.patch(self.runtime, target_id, wire, req.get_header("If-Match"), actor)
        resp.media = {"storageTarget": targets.target_json(self.runtime, changed)}
