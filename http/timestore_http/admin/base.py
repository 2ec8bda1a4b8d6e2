"""What the admin resources share: the scope, the query's parameters, and the body."""

from __future__ import annotations

from typing import Any, TypeVar

import falcon

from timestore_core.admin.paging import DEFAULT_LIMIT, MAX_LIMIT
from timestore_core.errors import InvalidRequest
from timestore_core.model import Actor
from timestore_core.runtime import Runtime
from timestore_core.wire import decode
from timestore_http.access import identify, require
from timestore_http.body import read_body
from timestore_http.media import require_json

T = TypeVar("T")
MAX_BODY_BYTES = 1024 * 1024


class AdminResource:
    """A resource that only those with the admin scope may use."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime

    def admit(self, req: falcon.Request) -> Actor:
        """The actor, who may administer. Raises Unauthenticated or Forbidden."""
        actor = identify(self.runtime, req)
        require(self.runtime, actor, "admin", None)
        return actor

    def raw_body(self, req: falcon.Request) -> bytes:
        """The body's bytes, within the limit of the admin routes."""
        require_json(req)
        return read_body(req, MAX_BODY_BYTES, "1 MiB on the admin routes")

    def optional_body(self, req: falcon.Request, kind: type[T]) -> T:
        """The body as `kind`, or what `kind` is without any field where there is none."""
        chunked = "chunked" in (req.get_header("Transfer-Encoding") or "").lower()
        return self.body(req, kind) if req.content_length or chunked else kind()

    def body(self, req: falcon.Request, kind: type[T]) -> T:
        """The body as `kind`. Raises InvalidRequest naming every field at fault."""
        return decode(self.raw_body(req), kind)


def text_param(req: falcon.Request, name: str, max_length: int = 1000) -> str | None:
    """A parameter of the query string, or None. Raises InvalidRequest for a NUL or an endless one."""
    values = req.get_param_as_list(name)
    if not values:
        return None
    value: str = values[-1]
    if "\0" in value or len(value) > max_length:
        raise InvalidRequest.at(name, f"must be text of at most {max_length} characters")
    return value


def only_params(req: falcon.Request, *names: str) -> None:
    """Raise InvalidRequest for a parameter of the query string that is none of these."""
    unknown = [name for name in req.params if name not in names]
    if unknown:
        raise InvalidRequest.at(unknown[0][:80], f"is no parameter here; there are {', '.join(names)}")


def limit_param(req: falcon.Request) -> int:
    """The page's size. Raises InvalidRequest."""
    value = int_param(req, "limit", 1, MAX_LIMIT)
    return DEFAULT_LIMIT if value is None else value


def int_param(req: falcon.Request, name: str, low: int, high: int) -> int | None:
    """A whole number of the query string, or None. Raises InvalidRequest."""
    text = text_param(req, name)
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 18 or not low <= int(text) <= high:
        raise InvalidRequest.at(name, f"must be a whole number from {low} to {high}")
    return int(text)


def choice_param(req: falcon.Request, name: str, choices: tuple[str, ...], default: str) -> str:
    """One of some words. Raises InvalidRequest."""
    value = text_param(req, name)
    if value is None:
        return default
    if value not in choices:
        raise InvalidRequest.at(name, f"must be one of {', '.join(choices)}")
    return value


def pairs_param(req: falcon.Request, name: str) -> dict[str, str]:
    """`?key=site=north&key=day=1` as pairs. Raises InvalidRequest."""
    pairs: dict[str, Any] = {}
    for text in req.get_param_as_list(name) or []:
        key, separator, value = text.partition("=")
        if not separator or "\0" in text:
            raise InvalidRequest.at(name, "must have the form name=value")
        pairs[key] = value
    return pairs
