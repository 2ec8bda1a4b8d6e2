"""How each version of the API says what went wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import falcon
import structlog

from timestore_core import __version__, errors
from timestore_core.ingest.line_protocol.points import BadLines
from timestore_core.ingest.line_protocol.precision import AUTO, NANOSECOND, Precision
from timestore_http.errors import status_of

log = structlog.get_logger(__name__)

JSON = "application/json; charset=utf-8"
# What clients take for the version of an InfluxDB: they want to know whether it is 1, 2 or 3.
INFLUX_VERSION = f"1.8.10-timestore-{__version__}"
_MANY = 5

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Version:
    """One version's write route: the parameter that names the database, its precisions, and its errors.

    `failure` makes the body of an error from its status and message, `partial` that of a write of which some lines
    were bad; `nothing_kept` where the good ones were left out too.
    """

    database: str
    precisions: frozenset[str]
    default_precision: Precision
    failure: Callable[[int, str], Json]
    partial: Callable[[BadLines, bool], Json]


def _failure_1(status: int, message: str) -> Json:
    del status
    return {"error": message}


def _partial_1(bad: BadLines, nothing_kept: bool) -> Json:
    del nothing_kept
    return {"error": _partial_text(bad)}


def _failure_2(status: int, message: str) -> Json:
    return {"code": _CODES.get(status, "internal error" if status >= 500 else "invalid"), "message": message}


def _partial_2(bad: BadLines, nothing_kept: bool) -> Json:
    del nothing_kept
    return {**_failure_2(400, _partial_text(bad)), "line": bad.in_order()[0].number}


def _failure_3(status: int, message: str) -> Json:
    del status
    return {"error": message}


def _partial_3(bad: BadLines, nothing_kept: bool) -> Json:
    what = "parsing failed for write_lp endpoint" if nothing_kept else "partial write of line protocol occurred"
    data = [
        {"error_message": one.reason, "line_number": one.number, "original_line": one.text} for one in bad.in_order()
    ]
    return {"error": what, "data": data}


def _partial_text(bad: BadLines) -> str:
    named = bad.in_order()[:_MANY]
    lines = "; ".join(f"line {one.number}: {one.reason}" for one in named)
    more = f"; and {bad.count - len(named)} more" if bad.count > len(named) else ""
    return f"partial write: {lines}{more} dropped={bad.count}"


_CODES = {
    400: "invalid",
    401: "unauthorized",
    403: "forbidden",
    404: "not found",
    409: "conflict",
    413: "request too large",
    415: "unsupported media type",
    503: "unavailable",
}
VERSION_1 = Version(
    "db", frozenset({"n", "ns", "u", "us", "µ", "ms", "s", "m", "h"}), NANOSECOND, _failure_1, _partial_1
)
VERSION_2 = Version("bucket", frozenset({"ns", "us", "ms", "s"}), NANOSECOND, _failure_2, _partial_2)
VERSION_3 = Version(
    "db",
    frozenset(
        {"auto", "nanosecond", "microsecond", "millisecond", "second", "ns", "n", "us", "u", "ms", "s"},
    ),
    AUTO,
    _failure_3,
    _partial_3,
)


def answer(resp: falcon.Response, status: int, body: Mapping[str, Any]) -> None:
    """Answer with a JSON body; version 1 clients also read the error from a header."""
    resp.status = falcon.code_to_http_status(status)
    resp.content_type = JSON
    resp.data = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    resp.set_header("X-Influxdb-Version", INFLUX_VERSION)


def answer_error(req: falcon.Request, resp: falcon.Response, error: errors.TimestoreError, version: Version) -> None:
    """The error in the version's shape.

    Whatever may pass is 503 with Retry-After: clients of version 1 drop what is answered with 429, and those of
    version 2 what is answered with 507.
    """
    status = status_of(error)
    if isinstance(error, errors.Unavailable | errors.InsufficientStorage):
        status = HTTPStatus.SERVICE_UNAVAILABLE
        resp.set_header("Retry-After", str(getattr(error, "retry_after_s", 5)))
    if isinstance(error, errors.Unauthenticated):
        resp.set_header("WWW-Authenticate", "Token")
    req.context.error = error.code
    if status >= 500:
        log.warning("request.failed", code=error.code, message=error.message)
    answer(resp, status, version.failure(status, error.message))
