"""The routes of clients and of load balancers, and the documentation itself."""

from __future__ import annotations

from typing import Any

from timestore_core.ingest.formats import READERS
from timestore_core.query.formats import CSV, FORMS, JSON, NDJSON
from timestore_http.openapi import examples
from timestore_http.openapi.failures import responses
from timestore_http.openapi.parameters import SECURITY, refs
from timestore_http.openapi.parts import Json, answer, body, link, ref

_WITH_BODY = ("contentEncoding", "user")
_OF_FORMS = ("Vary", "Content-Encoding")
_AROUND_ROWS = (
    "columnTypes",
    "partitionKeyPairs",
    "start",
    "end",
    "timestampColumn",
    "tableName",
    "storageTargetId",
    "datasetName",
    "queryIdempotencyKey",
)


def operation(tag: str, operation_id: str, summary: str, answers: Json, **rest: Any) -> Json:
    """One operation; `answers` by status. Whoever asks, it says how they may prove who they are."""
    return {
        "operationId": operation_id,
        "summary": summary,
        "tags": [tag],
        "security": SECURITY,
        **rest,
        "responses": dict(sorted(answers.items())),
    }


def admin_operation(
    operation_id: str, summary: str, answers: Json, *statuses: int, tag: str = "admin", **rest: Any
) -> Json:
    """An operation behind the admin scope; beside the errors of all such operations it may answer these statuses."""
    return operation(tag, operation_id, summary, {**responses(401, 403, 503, *statuses), **answers}, **rest)


def paths() -> Json:
    """Each path with its operations."""
    return {
        "/datasets/{slug}/ingest": {"post": _ingest()},
        "/datasets/{slug}/ingest/jobs/{job_id}": {"get": _ingest_job()},
        "/datasets/{slug}/query": {"post": _query()},
        "/datasets/{slug}/sql": {"post": _sql()},
        "/datasets/{slug}/schema": {"get": _schema()},
        "/health": {"get": _health("getHealth")},
        "/livez": {"get": _health("getLivez")},
        "/ready": {"get": _ready("getReady")},
        "/readyz": {"get": _ready("getReadyz")},
        "/openapi.json": {"get": _document()},
        "/docs": {"get": _page()},
        "/docs/{asset}": {"get": _asset()},
    }


def _ingest() -> Json:
    job = link(
        "getIngestJob",
        "Where the batch stands.",
        {"path.slug": "$request.path.slug", "path.job_id": "$response.body#/jobId"},
    )
    published = {
        "query": link("query", "Ask for its rows.", {"path.slug": "$response.body#/dataset/slug"}),
        "dataset": link("getDataset", "Its dataset.", {"path.key": "$response.body#/dataset/id"}),
        "manifest": link("getManifest", "The snapshot.", {"path.key": "$response.body#/dataset/id"}),
        "partitions": link("listPartitions", "The snapshot's files.", {"path.key": "$response.body#/dataset/id"}),
    }
    return operation(
        "data",
        "ingest",
        "Publish a batch, or accept it for later",
        {
            "201": answer(
                "Published; also the first answer again, where the key was used before.",
                "Ingested",
                ("X-Timestore-Version", "Idempotent-Replayed"),
                published,
            ),
            "202": answer("Written down; published soon.", "Accepted", ("Idempotent-Replayed",), {"job": job}),
            **responses(401, 403, 409, 413, 415, 429, 503, 507),
        },
        description="The types are timestamp, string, double, integer (64 bits) and boolean. A batch may add columns, "
        "leave columns out and widen an integer to a double. What does not fit is named, and nothing is written. The "
        "query parameters stand around the rows of every type but JSON, whose body says it itself. Such batches are "
        "published at once, also in queue mode.",
        parameters=refs("newSlug", "idempotencyKey", *_AROUND_ROWS, *_WITH_BODY),
        requestBody=_batches(),
    )


def _batches() -> Json:
    """The batch as JSON, and as rows of the other types."""
    made = body("Batch", {"two rows": examples.BATCH})
    text: Json = {"schema": {"type": "string"}}
    binary: Json = {"schema": {"type": "string", "format": "binary"}}
    made["content"] |= {kind: binary if "vnd." in kind else text for kind in READERS}
    return made


def _ingest_job() -> Json:
    return operation(
        "data",
        "getIngestJob",
        "Where an accepted batch stands",
        {"200": answer("Its state.", "IngestJob"), **responses(401, 403, 503)},
        parameters=refs("slug", "jobId", "user"),
    )


def _query() -> Json:
    unchanged = answer("What you have is still right.", headers=("ETag", "X-Timestore-Version"))
    again = link(
        "query",
        "The same again, where it has changed.",
        {"path.slug": "$request.path.slug", "header.If-None-Match": "$response.header.etag"},
        "$request.body",
    )
    return operation(
        "data",
        "query",
        "Rows of a time range, as they are or downsampled",
        {
            "200": _in_every_form(
                answer(
                    "The rows of one snapshot.",
                    "QueryAnswer",
                    ("ETag", "X-Timestore-Version", "X-Timestore-Next-Cursor", *_OF_FORMS),
                    {"again": again},
                )
            ),
            "304": unchanged,
            **responses(401, 403, 406, 410, 413, 415, 429, 503, 504, 507),
        },
        description="Buckets are aligned to 1970-01-01 UTC; weeks begin on Monday. With nothing in range: no rows. "
        "NDJSON, CSV and Arrow are streamed and have no limit on rows; a stream that fails half-way is broken off.",
        parameters=refs("slug", "ifNoneMatch", "accept", "acceptEncoding", *_WITH_BODY),
        requestBody=body("Query", examples.QUERIES),
    )


def _sql() -> Json:
    return operation(
        "data",
        "select",
        "The answer to one read-only SELECT",
        {
            "200": _in_every_form(answer("Its rows.", "SqlAnswer", ("X-Timestore-Version", *_OF_FORMS))),
            **responses(401, 403, 406, 410, 413, 415, 429, 503, 504, 507),
        },
        description="DuckDB's SQL over `dataset`, this one, and over all others that you may read, by their slugs "
        "(in double quotes where they are no plain names). Nothing else can be reached: no files, no settings, no "
        "other statements. Lists and structs leave as JSON, dates and intervals as text.",
        parameters=refs("slug", "accept", "acceptEncoding", *_WITH_BODY),
        requestBody=body("Select", examples.SELECTS),
    )


def _schema() -> Json:
    return operation(
        "data",
        "getSchema",
        "The columns, the number of rows and the time they span",
        {
            "200": answer("Those of one snapshot.", "DatasetSchema", ("X-Timestore-Version",)),
            **responses(401, 403, 503),
        },
        parameters=refs("slug", "user"),
    )


def _in_every_form(made: Json) -> Json:
    """The answer in the forms that `Accept` may name beside JSON."""
    text: Json = {"schema": {"type": "string"}}
    others = {form.media_type: text if form in (NDJSON, CSV) else {} for form in FORMS if form is not JSON}
    return {**made, "content": {**made["content"], **others}}


def _health(operation_id: str) -> Json:
    return operation(
        "health",
        operation_id,
        "Is the process alive",
        {"200": answer("It is.", "Health"), **responses()},
        parameters=refs(),
        security=[],
    )


def _ready(operation_id: str) -> Json:
    return operation(
        "health",
        operation_id,
        "Can it do its work",
        {
            **responses(),
            "200": answer("It can.", "Readiness"),
            "503": answer("A dependency is down, or a shutdown has begun.", "Readiness"),
        },
        parameters=refs(),
        security=[],
    )


def _document() -> Json:
    again = link("getOpenApi", "Again, where it has changed.", {"header.If-None-Match": "$response.header.etag"})
    found = answer("An OpenAPI 3.1 document.", headers=("ETag",), links={"again": again})
    found["content"] = {
        "application/json": {
            "schema": {"type": "object", "required": ["openapi", "paths"], "additionalProperties": True}
        }
    }
    return operation(
        "documentation",
        "getOpenApi",
        "This document",
        {"200": found, "304": answer("What you have is still right.", headers=("ETag",)), **responses()},
        parameters=refs("ifNoneMatch"),
        security=[],
    )


def _page() -> Json:
    return operation(
        "documentation",
        "getDocs",
        "This document as a page; it needs no internet",
        {"200": _file("text/html"), **responses()},
        parameters=refs(),
        security=[],
    )


def _asset() -> Json:
    return operation(
        "documentation",
        "getDocsAsset",
        "A file of that page",
        {
            "200": _file("text/javascript", "text/css", "image/png"),
            "304": answer("What you have is still right.", headers=("ETag",)),
            **responses(),
        },
        parameters=refs("asset", "ifNoneMatch"),
        security=[],
    )


def _file(*media_types: str) -> Json:
    text: Json = {"schema": {"type": "string"}}
    return {
        "description": "The file.",
        "headers": {name: ref("headers", name) for name in ("X-Request-Id", "ETag")},
        "content": {kind: {} if kind == "image/png" else text for kind in media_types},
    }
