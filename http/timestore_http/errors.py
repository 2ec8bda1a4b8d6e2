"""The one place where the core's errors become HTTP answers."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any

import falcon
import structlog

from timestore_core import errors

log = structlog.get_logger(__name__)

_STATUS: dict[type[errors.TimestoreError], int] = {
    errors.InvalidRequest: 400,
    errors.Unauthenticated: 401,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.NotAcceptable: 406,
    errors.Conflict: 409,
    errors.Gone: 410,
    errors.PreconditionFailed: 412,
    errors.TooLarge: 413,
    errors.UnsupportedMedia: 415,
    errors.QueryCancelled: 499,
    errors.PartitionUnreadable: 500,
    errors.TooManyRequests: 429,
    errors.Unavailable: 503,
    errors.ConfigurationError: 503,
    errors.QueryTimeout: 504,
    errors.InsufficientStorage: 507,
}
_JSON = "application/json; charset=utf-8"


def status_of(error: errors.TimestoreError) -> int:
    """The HTTP status of an error: its own class's, else its nearest ancestor's."""
    return next((_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS), 500)


def body_of(status: int, message: str, code: str | None = None, details: Any = None) -> dict[str, Any]:
    """The contract's error body."""
    phrase = "Client Closed Request" if status == 499 else HTTPStatus(status).phrase
    body: dict[str, Any] = {"statusCode": status, "error": phrase, "message": message}
    if code is not None:
        body["code"] = code
    if details is not None:
        body["details"] = details
    return body


def install(app: falcon.App[Any, Any]) -> None:
    """Make the application answer every error in the contract's shape."""
    app.add_error_handler(Exception, _unexpected)
    app.add_error_handler(falcon.HTTPError, _http)
    app.add_error_handler(errors.TimestoreError, _ours)


def _ours(req: falcon.Request, resp: falcon.Response, error: Exception, _: dict[str, Any]) -> None:
    assert isinstance(error, errors.TimestoreError)
    status = status_of(error)
    if isinstance(error, errors.Unavailable):
        resp.set_header("Retry-After", str(error.retry_after_s))
    if isinstance(error, errors.Unauthenticated):
        resp.set_header("WWW-Authenticate", "Bearer")
    req.context.error = error.code
    if status >= 500:
        log.warning("request.failed", code=error.code, message=error.message, cause=_cause(error))
    body = body_of(status, error.message, error.code, error.details)
    if req.path.startswith("/admin/"):
        # Clients of the admin routes read the text there; clients of the others, the status's name.
        body["error"] = error.message
    _write(resp, status, body)


def _http(req: falcon.Request, resp: falcon.Response, error: Exception, _: dict[str, Any]) -> None:
    assert isinstance(error, falcon.HTTPError)
    status = error.status_code
    if status in (404, 405):
        # The service that clients know has no 405: an unknown method is an unknown route.
        status, message = 404, f"Route {req.method}:{req.relative_uri} not found"
    else:
        message = error.description or error.title
    _write(resp, status, body_of(status, message))


def _unexpected(req: falcon.Request, resp: falcon.Response, error: Exception, _: dict[str, Any]) -> None:
    log.error("request.crashed", method=req.method, exc_info=error)
    req.context.error = "internal_error"
    _write(resp, 500, body_of(500, "an unexpected error; the log has it under this request's id"))


def _write(resp: falcon.Response, status: int, body: dict[str, Any]) -> None:
    resp.status = falcon.code_to_http_status(status)
    resp.content_type = _JSON
    resp.data = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def _cause(error: BaseException) -> str | None:
    """The name of what lay beneath; its text may hold a connection string and stays out of the log."""
    return type(error.__cause__).__name__ if error.__cause__ is not None else None
