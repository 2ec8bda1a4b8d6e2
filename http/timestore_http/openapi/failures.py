"""Every error that a route may answer with: one response a status, all in the contract's shape."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from timestore_http.errors import body_of
from timestore_http.openapi.answers import FIELD_TYPE
from timestore_http.openapi.parts import MEDIA_TYPE, Json, array_of, closed, ref, schema

# name, what it means, code and message of the example, headers
_FAILURES: dict[int, tuple[str, str, str, str, tuple[str, ...]]] = {
    400: (
        "BadRequest",
        "The request is malformed; `details` names each fault by its path.",
        "invalid_request",
        'rows[17].temperature_c: "warm" is not a double',
        (),
    ),
    401: (
        "Unauthenticated",
        "Credentials are missing, expired or not to be trusted.",
        "unauthenticated",
        "credentials are required to admin here",
        ("WWW-Authenticate",),
    ),
    403: (
        "Forbidden",
        "Who asks is known, and lacks a scope.",
        "forbidden",
        "the scopes of this request do not allow to write here",
        (),
    ),
    404: (
        "NotFound",
        "There is no such thing, or no such route.",
        "not_found",
        "Dataset observatory not found",
        (),
    ),
    406: (
        "NotAcceptable",
        "Nothing that `Accept` names can be sent; `details.mediaTypes` lists what can.",
        "not_acceptable",
        "accept: nothing of what is accepted can be sent; there are application/json, …",
        (),
    ),
    409: (
        "Conflict",
        "The request contradicts what is stored.",
        "schema_conflict",
        "schema.fields: the column 'n' is double in this dataset and string in this batch; …",
        (),
    ),
    410: (
        "Gone",
        "It was there, and its time is over: its files may be deleted already.",
        "version_expired",
        "version 3 of observatory is not whole any more; the oldest that is: 7. …",
        (),
    ),
    412: (
        "PreconditionFailed",
        "It was changed since the client read it.",
        "precondition_failed",
        "the dataset was changed since it was read; read it again and repeat the change",
        (),
    ),
    413: (
        "TooLarge",
        "A limit was exceeded; the message names it and says how to stay below it.",
        "body_too_large",
        "body: is larger than 67108864 bytes (TIMESTORE_INGEST_MAX_BODY_BYTES); send it in smaller parts",
        (),
    ),
    414: ("UriTooLong", "The request line is too long.", "", "the request line is too long", ()),
    415: (
        "UnsupportedMedia",
        "The body is in a type or an encoding that is not read here.",
        "unsupported_media",
        "Content-Encoding: 'br' is not read; send gzip, deflate, zstd or none",
        (),
    ),
    417: ("ExpectationFailed", "The only expectation is 100-continue.", "", "the only expectation is …", ()),
    429: (
        "TooManyRequests",
        "More work waits than may wait; send the same again later, with its key.",
        "too_many_requests",
        "100000 batches wait to be published; try again later",
        ("Retry-After",),
    ),
    431: ("HeadersTooLarge", "There are too many headers.", "", "there are too many headers, or they are too long", ()),
    500: (
        "InternalError",
        "`partition_unreadable`: a file that the query needs is missing or damaged. Without `code`: the log has it "
        "under this request's id.",
        "partition_unreadable",
        "the partition part-835871c3-d4aa-4a6f-afbd-ae5abd53c653 cannot be read",
        (),
    ),
    503: (
        "Unavailable",
        "A dependency is away for now; the same request may succeed later.",
        "unavailable",
        "the catalog (PostgreSQL) cannot be reached",
        ("Retry-After",),
    ),
    504: (
        "QueryTimeout",
        "The query ran longer than its limit and was interrupted.",
        "query_timeout",
        "the query took longer than 30000 ms (TIMESTORE_QUERY_TIMEOUT_MS)",
        (),
    ),
    507: (
        "InsufficientStorage",
        "A disk is full; nothing was published.",
        "insufficient_storage",
        "the disk of the storage target is full",
        (),
    ),
}
# What is refused before there is a request to give an id to.
_ON_THE_WIRE = (400, 414, 417, 431)
_ANYWHERE = (400, 404, 414, 417, 431, 500)


def responses(*statuses: int) -> Json:
    """References to the answers of these statuses, and to those that any route may give."""
    return {str(status): ref("responses", _FAILURES[status][0]) for status in sorted({*_ANYWHERE, *statuses})}


def components() -> Json:
    """Every error's response, by name."""
    return {known[0]: _response(status, *known[1:]) for status, known in _FAILURES.items()}


def schemas() -> Json:
    """The error's shape."""
    problem = closed({"path": {"type": "string"}, "message": {"type": "string"}})
    problem["description"] = "One fault: where it is (`rows[17].temperature_c`) and what is wrong there."
    change = closed({"path": {"type": "string"}, "column": {"type": "string"}, "was": FIELD_TYPE, "is": FIELD_TYPE})
    change["description"] = "A column whose type in the batch contradicts the dataset's."
    return {
        "Problem": problem,
        "SchemaChange": change,
        "Error": {
            "type": "object",
            "description": "On the admin routes `error` is the message, elsewhere the status's name.",
            "properties": {
                "statusCode": {"type": "integer", "minimum": 400, "maximum": 599},
                "error": {"type": "string"},
                "message": {"type": "string"},
                "code": {"type": "string", "description": "A stable name for programs."},
                "details": {
                    "anyOf": [
                        array_of(schema("Problem")),
                        array_of(schema("SchemaChange")),
                        {"type": "object", "additionalProperties": True},
                    ]
                },
            },
            "required": ["statusCode", "error", "message"],
            "additionalProperties": False,
        },
    }


def _response(status: int, description: str, code: str, message: str, headers: Iterable[str]) -> Json:
    example: Any = body_of(status, message, code or None, [_problem(message)] if status == 400 else None)
    request_id = "X-Request-Id-Unless-Malformed" if status in _ON_THE_WIRE else "X-Request-Id"
    return {
        "description": description,
        "headers": {
            "X-Request-Id": ref("headers", request_id),
            **{name: ref("headers", name) for name in headers},
        },
        "content": {
            MEDIA_TYPE: {
                "schema": {"allOf": [schema("Error"), {"properties": {"statusCode": {"const": status}}}]},
                "example": example,
            }
        },
    }


def _problem(message: str) -> Json:
    path, _, text = message.partition(": ")
    return {"path": path, "message": text}
