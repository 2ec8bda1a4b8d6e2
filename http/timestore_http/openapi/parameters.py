"""Parameters, response headers and security schemes, with their limits."""

from __future__ import annotations

from typing import Any

from timestore_core.admin.paging import DEFAULT_LIMIT, MAX_LIMIT
from timestore_core.admin.versions import MAX_WAIT_S
from timestore_core.ingest.envelope import MAX_KEY_LENGTH
from timestore_core.plugins import PluginHost
from timestore_core.query.formats import FORMS
from timestore_core.settings import Settings
from timestore_http.admin.history import MAX_VERSION
from timestore_http.openapi.examples import JOB_ID, PIN_NAME, SLUG, TARGET_ID
from timestore_http.openapi.parts import Json, array_of, ref

_MAX_TEXT = 1000
_TEXT: Json = {"type": "string", "maxLength": _MAX_TEXT}
_REQUEST_ID: Json = {"type": "string", "pattern": "^[A-Za-z0-9._:-]{1,128}$"}
_TIME: Json = {**_TEXT, "format": "date-time"}


def refs(*names: str) -> list[Json]:
    """References to parameters, and to the one that every route takes."""
    return [ref("parameters", name) for name in (*names, "requestId")]


def components(plugins: PluginHost, settings: Settings) -> Json:
    """Every parameter, by the name that operations use."""
    kinds = sorted(plugins.storage_kinds)
    text: Json = {"type": "string", "minLength": 1}
    whole: Json = {"type": "integer", "minimum": 1}
    return {
        "slug": _path("slug", "The dataset's slug.", text, SLUG),
        "newSlug": _path(
            "slug",
            "The dataset's slug. Under a new one the dataset is made.",
            text | {"maxLength": settings.max_slug_length},
            SLUG,
        ),
        "jobId": _path("job_id", "The id that a 202 gave.", text, JOB_ID),
        "key": _path("key", "The dataset's id or slug.", text, SLUG),
        "targetId": _path("target_id", "The storage target's id.", text, TARGET_ID),
        "pin": _path("name", "The pin's name.", text | {"maxLength": settings.max_name_length}, PIN_NAME),
        "asset": _path("asset", "A file of the page.", text, "swagger-ui.css"),
        "limit": _query(
            "limit", "The page's size.", {**whole, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT}, DEFAULT_LIMIT
        ),
        "cursor": _query("cursor", "`nextCursor` of the page before.", _TEXT),
        "status": _query(
            "status",
            "Only datasets of this status.",
            {"type": "string", "enum": ["active", "inactive", "all"], "default": "active"},
            "all",
        ),
        "search": _query("search", "Part of the slug or the name, in any case.", _TEXT, "observ"),
        "kind": _query("kind", f"Only targets of this kind; there are {', '.join(kinds)}.", _TEXT, "local"),
        "version": _query("version", "A snapshot's version; default: the published one.", whole | _UP_TO, 1),
        "since": {
            **_query("since", "A version, or 0 for everything.", {"type": "integer", "minimum": 0} | _UP_TO, 1),
            "required": True,
        },
        "wait": _query(
            "wait",
            "Where there is no newer version, wait for one for up to so many seconds.",
            {"type": "integer", "minimum": 0, "maximum": MAX_WAIT_S, "default": 0},
        ),
        "ofDataset": _query("datasetId", "Only runs of the dataset of this id or slug.", _TEXT, SLUG),
        "from": _query("from", "Only partitions that end at this time or later.", _TIME, "2024-01-01T00:00:00Z"),
        "to": _query("to", "Only partitions that begin at this time or earlier.", _TIME, "2024-01-02T00:00:00Z"),
        "partitionKey": _query(
            "key", "`name=value`, once for each pair.", array_of({**_TEXT, "pattern": "="}), ["window=2024-01-01"]
        ),
        "eventType": _query("eventType", "Only events of this type.", _TEXT, "ingest.published"),
        "dryRun": _query("dryRun", "Change nothing; say what would go.", {"type": "boolean", "default": False}),
        "confirm": {**_query("confirm", "The dataset's slug, as a confirmation.", _TEXT, SLUG), "required": True},
        **_around_rows(),
        "idempotencyKey": _header(
            "Idempotency-Key",
            "Used when the body has no `idempotencyKey`.",
            {"type": "string", "maxLength": MAX_KEY_LENGTH},
        ),
        "contentEncoding": _header(
            "Content-Encoding", "How the body is compressed: `gzip`, `deflate`, `zstd`, or not.", {"type": "string"}
        ),
        "accept": _header(
            "Accept",
            f"Default: {FORMS[0].media_type}. Weights (`q`) are heeded.",
            {"type": "string", "examples": [form.media_type for form in FORMS]},
        ),
        "acceptEncoding": _header(
            "Accept-Encoding",
            "`zstd` and `gzip` are there; Parquet and small answers come as they are.",
            {"type": "string"},
        ),
        "ifNoneMatch": _header("If-None-Match", "The `ETag` of the answer that you have.", {"type": "string"}),
        "ifMatch": _header("If-Match", "The `ETag` (or `updatedAt`) that was read, or `*`.", {"type": "string"}),
        "user": _header(
            "X-IAM-User", "Who acts, for the audit log; else `X-User-Id` or `X-Actor-Id`.", {"type": "string"}
        ),
        "requestId": _header(
            "X-Request-Id", "Kept where it is 1 to 128 of A-Z, a-z, 0-9, `.`, `_`, `:` and `-`.", {"type": "string"}
        ),
    }


def _around_rows() -> Json:
    """What stands around the rows of a batch that is no JSON. Free texts: beside a JSON body they mean nothing."""
    free: Json = {"type": "string"}
    return {
        "columnTypes": _query(
            "schema",
            "The types of some or all columns: `name:type,…`, once or more; or the JSON of a batch's `schema`. Other "
            "columns have the dataset's type, else the one that they come with or look like.",
            array_of(free),
        ),
        "partitionKeyPairs": _query("partitionKey", "`key:value`, once for each pair.", array_of(free)),
        "start": _query("start", "Where the rows begin; default: their first time.", free),
        "end": _query("end", "Where the rows end; default: their last time.", free),
        "timestampColumn": _query(
            "timestampColumn", "Whose first and last time count; default `timestamp`, or the only one of times.", free
        ),
        "tableName": _query("tableName", "The table in the partition's file; default `records`.", free),
        "storageTargetId": _query("storageTargetId", "Where the file goes.", free),
        "datasetName": _query("datasetName", "The name of a dataset that is made.", free),
        "queryIdempotencyKey": _query("idempotencyKey", "Instead of the header.", free),
    }


def headers() -> Json:
    """Every response header, by its name."""
    request_id: Json = {"description": "The request's id, also in the log.", "schema": _REQUEST_ID}
    return {
        "X-Request-Id": {**request_id, "required": True},
        "X-Request-Id-Unless-Malformed": request_id,
        "X-Timestore-Next-Cursor": {
            "description": "The `cursor` of the next page, where `cursor` was asked with and this is not the last.",
            "schema": _TEXT,
        },
        "X-Timestore-Version": {
            "description": "The snapshot's version.",
            "required": True,
            "schema": {"type": "integer", "minimum": 0},
        },
        "ETag": {"description": "Changes with the answer.", "required": True, "schema": {"type": "string"}},
        "ETag-Of-Dataset": {
            "description": "Changes with the dataset; only where a deletion was taken back.",
            "schema": {"type": "string"},
        },
        "Idempotent-Replayed": {
            "description": "The key's batch had been published before; this is its first answer.",
            "schema": {"type": "string", "const": "true"},
        },
        "Vary": {"description": "What else the answer depends on.", "required": True, "schema": {"type": "string"}},
        "Content-Encoding": {
            "description": "How the body is compressed, where it is.",
            "schema": {"type": "string", "enum": ["gzip", "zstd"]},
        },
        "Retry-After": {"description": "Seconds.", "schema": {"type": "integer", "minimum": 0}},
        "WWW-Authenticate": {"description": "What is asked for.", "schema": {"type": "string"}},
    }


def security_schemes() -> Json:
    """Who asks: scopes by a gateway, or a token."""
    return {
        "scopes": {
            "type": "apiKey",
            "in": "header",
            "name": "X-IAM-Scopes",
            "description": "Comma-separated scopes, set by the gateway that authenticated the caller.",
        },
        "gatewaySecret": {
            "type": "apiKey",
            "in": "header",
            "name": "X-Gateway-Secret",
            "description": "Where `TIMESTORE_GATEWAY_SECRET` is set, scope and user headers count only beside it.",
        },
        "token": {
            "type": "http",
            "scheme": "bearer",
            "bearerFormat": "JWT",
            "description": "Scopes come from the claim `scope` or `scp`.",
        },
    }


# Open where no scope is demanded; else the gateway's headers, with its secret where one is set, or a token.
SECURITY: list[Json] = [{}, {"scopes": []}, {"scopes": [], "gatewaySecret": []}, {"token": []}]

_UP_TO: Json = {"maximum": MAX_VERSION}


def _path(name: str, description: str, schema: Json, example: Any) -> Json:
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": description,
        "schema": schema,
        "example": example,
    }


def _query(name: str, description: str, schema: Json, example: Any = None) -> Json:
    shown = {} if example is None else {"example": example}
    return {"name": name, "in": "query", "description": description, "schema": schema, **shown}


def _header(name: str, description: str, schema: Json) -> Json:
    return {"name": name, "in": "header", "description": description, "schema": schema}
