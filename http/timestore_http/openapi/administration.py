"""The administrative routes."""

from __future__ import annotations

from timestore_http.openapi import examples
from timestore_http.openapi.operations import admin_operation
from timestore_http.openapi.parameters import refs
from timestore_http.openapi.parts import Json, answer, body, link

_WITH_BODY = ("contentEncoding", "user")
_ID = "$response.body#/dataset/id"


def paths() -> Json:
    """Each path with its operations."""
    dataset = "/admin/datasets/{key}"
    return {
        "/admin/datasets": {"get": _list_datasets(), "post": _create_dataset()},
        dataset: {"get": _get_dataset(), "patch": _update_dataset(), "delete": _delete_dataset()},
        f"{dataset}/archive": {"post": _archive()},
        f"{dataset}/retention": {"get": _get_retention(), "put": _put_retention()},
        f"{dataset}/storage-target": {"put": _put_storage_target()},
        f"{dataset}/manifest": {"get": _manifest()},
        f"{dataset}/manifests": {"get": _list("listManifests", "The history of snapshots", "ManifestPage")},
        f"{dataset}/partitions": {"get": _partitions()},
        f"{dataset}/schemas": {"get": _list("listSchemas", "The versions of the schema", "SchemaPage")},
        f"{dataset}/audit": {"get": _audit("listDatasetAudit", "What happened to the dataset", "key")},
        "/admin/audit": {"get": _audit("listAudit", "Everything that happened")},
        "/admin/storage-targets": {"get": _list_targets(), "post": _create_target()},
        "/admin/storage-targets/{target_id}": {"patch": _update_target()},
    }


def _dataset_links() -> Json:
    """What can be asked of a dataset whatever its state is."""
    return {
        "get": link("getDataset", "The dataset.", {"path.key": _ID}),
        "update": link("updateDataset", "Change it.", {"path.key": _ID, "header.If-Match": "$response.header.etag"}),
        "archive": link("archiveDataset", "Make it inactive.", {"path.key": _ID}),
        "retention": link("putRetention", "How long its rows stay.", {"path.key": _ID}),
    }


def _one_dataset(description: str, **links: Json) -> Json:
    return answer(description, "OneDataset", ("ETag",), {**_dataset_links(), **links})


_INGEST = link("ingest", "Send rows.", {"path.slug": "$response.body#/dataset/slug"})
_MANIFEST = link("getManifest", "Its published snapshot.", {"path.key": _ID})


def _list_datasets() -> Json:
    links = {
        "next": link("listDatasets", "The next page.", {"query.cursor": "$response.body#/nextCursor"}),
        "first": link("getDataset", "The first of them.", {"path.key": "$response.body#/datasets/0/id"}),
    }
    return admin_operation(
        "listDatasets",
        "Datasets, newest change first",
        {"200": answer("A page. None is lost while others change.", "DatasetPage", links=links)},
        parameters=refs("limit", "cursor", "status", "search", "user"),
    )


def _create_dataset() -> Json:
    return admin_operation(
        "createDataset",
        "Make a dataset; repeating it is no error",
        {
            "200": _one_dataset("It exists; this is it, unchanged.", ingest=_INGEST),
            "201": _one_dataset("It was made.", ingest=_INGEST),
        },
        413,
        415,
        parameters=refs(*_WITH_BODY),
        requestBody=body("NewDataset", {"a dataset": examples.NEW_DATASET}),
    )


def _get_dataset() -> Json:
    return admin_operation(
        "getDataset",
        "One dataset",
        {"200": _one_dataset("The dataset.", ingest=_INGEST, manifest=_MANIFEST)},
        parameters=refs("key", "user"),
    )


def _update_dataset() -> Json:
    return admin_operation(
        "updateDataset",
        "Change a dataset: what is absent stays",
        {"200": _one_dataset("The dataset as it is now.", manifest=_MANIFEST)},
        412,
        413,
        415,
        parameters=refs("key", "ifMatch", *_WITH_BODY),
        requestBody=body("DatasetPatch", {"a description and who may read": examples.DATASET_PATCH}),
    )


def _delete_dataset() -> Json:
    restore = link("restoreDataset", "Take it back.", {"path.key": "$response.body#/datasetId"})
    return admin_operation(
        "deleteDataset",
        "Delete an inactive dataset",
        {
            "200": answer(
                "Deleted; its files go after the grace period. Or, as a dry run, what would go.",
                "DatasetDeletion",
                links={"restore": restore},
            )
        },
        409,
        parameters=refs("key", "confirm", "dryRun", "user"),
    )


def _archive() -> Json:
    delete = link("deleteDataset", "Delete it.", {"path.key": _ID, "query.confirm": "$response.body#/dataset/slug"})
    return admin_operation(
        "archiveDataset",
        "Make a dataset inactive; repeating it is no error",
        {"200": _one_dataset("It answers queries and takes no batches.", manifest=_MANIFEST, delete=delete)},
        parameters=refs("key", "user"),
    )


def _get_retention() -> Json:
    return admin_operation(
        "getRetention",
        "How long a dataset's rows stay",
        {"200": answer("Its own policy, the one in force, and the default.", "Retention")},
        parameters=refs("key", "user"),
    )


def _put_retention() -> Json:
    links = {"get": link("getRetention", "The policy.", {"path.key": "$response.body#/datasetId"})}
    return admin_operation(
        "putRetention",
        "Store a policy; unknown keys are kept",
        {"200": answer("The policy as it is now in force.", "Retention", links=links)},
        413,
        415,
        parameters=refs("key", *_WITH_BODY),
        requestBody=body("RetentionPolicy", {"two days": examples.RETENTION}),
    )


def _put_storage_target() -> Json:
    return admin_operation(
        "putStorageTarget",
        "Where the dataset's next batches go",
        {"200": answer("The dataset and its target.", "DatasetTarget")},
        413,
        415,
        parameters=refs("key", *_WITH_BODY),
        requestBody=body("StorageTargetChoice", {"by id": examples.TARGET_CHOICE}),
    )


def _manifest() -> Json:
    return admin_operation(
        "getManifest",
        "A snapshot with its partitions",
        {"200": answer("The published one, or that of `version`.", "OneManifest")},
        410,
        parameters=refs("key", "version", "user"),
    )


def _list(operation_id: str, summary: str, page: str) -> Json:
    following = link(
        operation_id, "The next page.", {"path.key": "$request.path.key", "query.cursor": "$response.body#/nextCursor"}
    )
    return admin_operation(
        operation_id,
        summary,
        {"200": answer("A page, newest first.", page, links={"next": following})},
        parameters=refs("key", "limit", "cursor", "user"),
    )


def _partitions() -> Json:
    following = link(
        "listPartitions",
        "The next page.",
        {"path.key": "$request.path.key", "query.cursor": "$response.body#/nextCursor"},
    )
    return admin_operation(
        "listPartitions",
        "The partitions of a snapshot, with statistics of their columns",
        {"200": answer("A page; the cursor stays in its snapshot.", "PartitionPage", links={"next": following})},
        410,
        parameters=refs("key", "limit", "cursor", "version", "from", "to", "partitionKey", "user"),
    )


def _audit(operation_id: str, summary: str, *path: str) -> Json:
    position = {"query.cursor": "$response.body#/nextCursor"}
    same = {"path.key": "$request.path.key"} if path else {}
    following = link(operation_id, "The next page.", {**same, **position})
    return admin_operation(
        operation_id,
        summary,
        {"200": answer("A page, newest first.", "AuditPage", links={"next": following})},
        parameters=refs(*path, "limit", "cursor", "eventType", "user"),
    )


def _list_targets() -> Json:
    return admin_operation(
        "listStorageTargets",
        "Storage targets, without their secrets",
        {"200": answer("All of them, or those of one kind.", "StorageTargets")},
        parameters=refs("kind", "user"),
    )


def _create_target() -> Json:
    update = link("updateStorageTarget", "Change it.", {"path.target_id": "$response.body#/storageTarget/id"})
    return admin_operation(
        "createStorageTarget",
        "Make a storage target",
        {"201": answer("It was made.", "OneStorageTarget", links={"update": update})},
        409,
        413,
        415,
        parameters=refs(*_WITH_BODY),
        requestBody=body("NewStorageTarget", {"a directory": examples.NEW_TARGET}),
    )


def _update_target() -> Json:
    return admin_operation(
        "updateStorageTarget",
        "Change a storage target: what is absent stays",
        {"200": answer("The target as it is now.", "OneStorageTarget")},
        412,
        413,
        415,
        parameters=refs("targetId", "ifMatch", *_WITH_BODY),
        requestBody=body("StorageTargetPatch", {"a description": examples.TARGET_PATCH}),
    )
