"""The routes of maintenance, and of a dataset's earlier versions."""

from __future__ import annotations

from typing import Any

from timestore_http.openapi import examples
from timestore_http.openapi.operations import admin_operation
from timestore_http.openapi.parameters import refs
from timestore_http.openapi.parts import Json, answer, body, link, ref

_WITH_BODY = ("contentEncoding", "user")
_SAME = {"path.key": "$request.path.key"}
_ID = {"path.key": "$response.body#/datasetId"}


def paths() -> Json:
    """Each path with its operations. Their examples work in this order."""
    dataset = "/admin/datasets/{key}"
    return {
        f"{dataset}/pins": {"get": _list_pins()},
        f"{dataset}/pins/{{name}}": {"put": _pin(), "delete": _unpin()},
        f"{dataset}/changes": {"get": _changes()},
        f"{dataset}/delete-rows": {"post": _delete_rows()},
        f"{dataset}/restore": {"post": _restore()},
        "/admin/lifecycle/run": {"post": _run()},
        "/admin/lifecycle/status": {"get": _status()},
        "/admin/lifecycle/reschedule": {"post": _reschedule()},
    }


def _operation(operation_id: str, summary: str, answers: Json, *statuses: int, **rest: Any) -> Json:
    return admin_operation(operation_id, summary, answers, *statuses, tag="lifecycle", **rest)


def _list_pins() -> Json:
    links = {
        "unpin": link("unpinVersion", "Remove the first.", {**_ID, "path.name": "$response.body#/pins/0/name"}),
        "manifest": link("getManifest", "Its snapshot.", {**_ID, "query.version": "$response.body#/pins/0/version"}),
    }
    return _operation(
        "listPins",
        "The versions that are kept, by name",
        {"200": answer("All of them.", "Pins", links=links)},
        parameters=refs("key", "user"),
    )


def _pin() -> Json:
    links = {
        "unpin": link("unpinVersion", "Remove it.", {**_ID, "path.name": "$response.body#/pin/name"}),
        "manifest": link("getManifest", "The snapshot.", {**_ID, "query.version": "$response.body#/pin/version"}),
        "list": link("listPins", "All pins.", _ID),
    }
    return _operation(
        "pinVersion",
        "Keep a version: its files stay until the pin goes",
        {
            "200": answer("The name is another version's from now on.", "OnePin", links=links),
            "201": answer("The version is kept.", "OnePin", links=links),
        },
        409,
        410,
        413,
        415,
        parameters=refs("key", "pin", *_WITH_BODY),
        requestBody=body("PinnedVersion", {"the first": examples.PIN}, required=False),
    )


def _unpin() -> Json:
    links = {"list": link("listPins", "Those that are left.", _ID)}
    return _operation(
        "unpinVersion",
        "Keep a version no longer",
        {"200": answer("The pin, which is gone.", "OnePin", links=links)},
        parameters=refs("key", "pin", "user"),
    )


def _changes() -> Json:
    following = link("listChanges", "What comes next.", {**_SAME, "query.since": "$response.body#/version"})
    manifest = link("getManifest", "The snapshot.", {**_ID, "query.version": "$response.body#/version"})
    return _operation(
        "listChanges",
        "Partitions that came and went since a version",
        {"200": answer("What makes the one version the other.", "Changes", links={"next": following, "at": manifest})},
        410,
        description="What came and went again in between is in neither list. With `wait` the answer comes as soon as "
        "there is a newer version.",
        parameters=refs("key", "since", "wait", "user"),
    )


def _delete_rows() -> Json:
    links = {
        "manifest": link("getManifest", "The snapshot.", {**_ID, "query.version": "$response.body#/version"}),
        "pins": link("listPins", "The versions that keep them.", _ID),
    }
    return _operation(
        "deleteRows",
        "Delete the rows of a time range",
        {"200": answer("They are gone from the version; earlier ones still have them.", "RowsDeleted", links=links)},
        409,
        410,
        413,
        415,
        507,
        description="Partitions that lie wholly in the range leave, others are rewritten, all in one version. The "
        "version before can be restored until the grace period is over.",
        parameters=refs("key", *_WITH_BODY),
        requestBody=body("RowDeletion", {"a preview": examples.DELETION_PREVIEW, "half an hour": examples.DELETION}),
    )


def _restore() -> Json:
    links = {
        "get": link("getDataset", "The dataset.", _SAME),
        "manifest": link("getManifest", "Its published snapshot.", _SAME),
        "archive": link("archiveDataset", "Make it inactive.", _SAME),
    }
    restored = answer("The dataset is back, inactive; or the version is, as a new one.", "Restored", links=links)
    restored["headers"]["ETag"] = ref("headers", "ETag-Of-Dataset")
    return _operation(
        "restoreDataset",
        "Take back a deletion, or bring an earlier version back",
        {"200": restored},
        409,
        410,
        413,
        415,
        description="Without a `version` the deletion of the whole dataset is taken back. With one, its partitions "
        "become a new version; nothing is copied.",
        parameters=refs("key", *_WITH_BODY),
        requestBody=body(
            "VersionChoice",
            {"a preview": examples.RESTORE_PREVIEW, "the first version": examples.RESTORE},
            required=False,
        ),
    )


def _run() -> Json:
    links = {
        "status": link(
            "getLifecycleStatus", "The runs of the dataset.", {"query.datasetId": "$response.body#/report/datasetId"}
        ),
        "manifest": link("getManifest", "The snapshot.", {"path.key": "$response.body#/report/datasetId"}),
        "audit": link("listDatasetAudit", "What happened.", {"path.key": "$response.body#/report/datasetId"}),
    }
    return _operation(
        "runLifecycle",
        "Maintain a dataset now, or queue that",
        {
            "200": answer(
                "What each operation did. One that failed says why; the others went on.", "LifecycleRan", links=links
            ),
            "202": answer("A lifecycle worker will do it.", "LifecycleQueued"),
        },
        413,
        415,
        parameters=refs(*_WITH_BODY),
        requestBody=body(
            "LifecycleRun", {"some operations": examples.LIFECYCLE_RUN, "a preview": examples.LIFECYCLE_PREVIEW}
        ),
    )


def _status() -> Json:
    return _operation(
        "getLifecycleStatus",
        "The latest runs, newest first, and what those of the last day add up to",
        {"200": answer("Of all datasets, or of one.", "LifecycleStatus")},
        parameters=refs("limit", "ofDataset", "user"),
    )


def _reschedule() -> Json:
    return _operation(
        "rescheduleLifecycle",
        "Queue once more what an earlier run was asked for",
        {"200": answer("A lifecycle worker will do it.", "LifecycleQueued")},
        413,
        415,
        description="Needs a Redis; 400 without one.",
        parameters=refs(*_WITH_BODY),
        requestBody=body("LifecycleReschedule", {"a run": examples.RESCHEDULE}),
    )
