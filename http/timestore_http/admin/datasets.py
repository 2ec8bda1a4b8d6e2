"""/admin/datasets and what hangs on one dataset."""

from __future__ import annotations

import falcon

from timestore_core.admin import datasets, retention, targets
from timestore_core.catalog.records import dataset_json
from timestore_core.model import Dataset
from timestore_http.admin.base import AdminResource, choice_param, limit_param, only_params, text_param


class DatasetsResource(AdminResource):
    """GET lists, POST makes."""

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        self.admit(req)
        page = datasets.list_page(
            self.runtime,
            limit=limit_param(req),
            cursor=text_param(req, "cursor"),
            status=choice_param(req, "status", ("active", "inactive", "all"), "active"),
            search=text_param(req, "search"),
        )
        resp.media = datasets.page_json(page)

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        actor = self.admit(req)
        dataset, is_new = datasets.create(self.runtime, self.body(req, datasets.WireNewDataset), actor)
        resp.status = falcon.HTTP_201 if is_new else falcon.HTTP_200
        _show(resp, dataset)


class DatasetResource(AdminResource):
    """GET, PATCH and DELETE of one dataset."""

    def on_get(self, req: falcon.Request, resp: falcon.Response, key: str) -> None:
        self.admit(req)
        _show(resp, datasets.find(self.runtime, key))

    def on_patch(self, req: falcon.Request, resp: falcon.Response, key: str) -> None:
        actor = self.admit(req)
        wire = self.body(req, datasets.WireDatasetPatch)
        _show(resp, datasets.patch(self.runtime, key, wire, req.get_header("If-Match"), actor))

    def on_delete(self, req: falcon.Request, resp: falcon.Response, key: str) -> None:
        actor = self.admit(req)
        # A `dryrun` that nobody reads must not delete.
        only_params(req, "dryRun", "confirm")
        if choice_param(req, "dryRun", ("true", "false"), "false") == "true":
            resp.media = datasets.preview_deletion(self.runtime, key)
            return
        dataset = datasets.delete(self.runtime, key, text_param(req, "confirm"), actor)
        resp.media = {"status": "deleted", "datasetId": dataset.id, "datasetSlug": dataset.slug}


class ArchiveResource(AdminResource):
    """POST: make the dataset inactive."""

    def on_post(self, req: falcon.Request, resp: falcon.Response, key: str) -> None:
        _show(resp, datasets.archive(self.runtime, key, self.admit(req)))


class RetentionResource(AdminResource):
    """GET and PUT of the retention policy."""

    def on_get(self, req: falcon.Request, resp: falcon.Response, key: str) -> None:
        self.admit(req)
        resp.media = retention.read(self.runtime, key)

    def on_put(self, req: falcon.Request, resp: falcon.Response, key: str) -> None:
        actor = self.admit(req)
        resp.media = retention.write(self.runtime, key, self.raw_body(req), actor)


class DatasetTargetResource(AdminResource):
    """PUT: where the dataset's next batches go."""

    def on_put(self, req: falcon.Request, resp: falcon.Response, key: str) -> None:
        actor = self.admit(req)
        choice = self.body(req, datasets.WireStorageTargetChoice)
        datasets.find(self.runtime, key)
        target = self.runtime.targets.get(choice.storage_target_id)
        dataset = datasets.set_storage_target(self.runtime, key, target, actor)
        resp.media = {"dataset": dataset_json(dataset), "storageTarget": targets.target_json(self.runtime, target)}


def _show(resp: falcon.Response, dataset: Dataset) -> None:
    shown = dataset_json(dataset)
    resp.set_header("ETag", f'"{shown["updatedAt"]}"')
    resp.media = {"dataset": shown}
