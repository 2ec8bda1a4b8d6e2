"""GET /openapi.json"""

from __future__ import annotations

import hashlib
from functools import cached_property

import falcon
import msgspec

from timestore_core.runtime import Runtime
from timestore_http.openapi.document import make_document


class OpenApiResource:
    """Serves the document, made when it is first asked for."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        body, tag = self._made
        resp.set_header("ETag", tag)
        if tag in (req.get_header("If-None-Match") or ""):
            resp.status = falcon.HTTP_304
            return
        resp.data = body

    @cached_property
    def _made(self) -> tuple[bytes, str]:
        body = msgspec.json.encode(make_document(self._runtime.plugins, self._runtime.settings))
        return body, f'"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'
