"""GET /docs: the OpenAPI document as a page. Everything that it needs comes from this process."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from importlib.resources import files

import falcon

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Timestore API</title>
<link rel="icon" type="image/png" href="{base}/favicon-32x32.png">
<link rel="stylesheet" href="{base}/swagger-ui.css">
</head>
<body>
<noscript>This page needs JavaScript; the document itself is at <a href="{base}/../openapi.json">openapi.json</a>.
</noscript>
<div id="swagger-ui"></div>
<script src="{base}/swagger-ui-bundle.js"></script>
<script type="module" src="{base}/start.js"></script>
</body>
</html>
"""

_START = b"""SwaggerUIBundle({
  url: new URL("../openapi.json", import.meta.url).href,
  dom_id: "#swagger-ui",
  deepLinking: true,
  validatorUrl: null,
});
"""

# No inline script, nothing from elsewhere, in no frame of others. React sets `style` attributes: those are allowed.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; style-src-attr 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_TYPES = {
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "swagger-ui.css": "text/css; charset=utf-8",
    "favicon-32x32.png": "image/png",
    "start.js": "text/javascript; charset=utf-8",
}


class DocsResource:
    """The page."""

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        # Links are relative, so that the page also works below a prefix that a gateway takes away.
        ends_in_slash = str(req.env.get("PATH_INFO", "")).endswith("/")
        body = _PAGE.format(base="../docs" if ends_in_slash else "docs").encode()
        resp.content_type = "text/html; charset=utf-8"
        _protect(resp)
        resp.set_header("ETag", _tag(body))
        resp.data = body


class DocsAssetResource:
    """The files of the page, from the wheel of Swagger UI."""

    def on_get(self, req: falcon.Request, resp: falcon.Response, asset: str) -> None:
        if asset not in _TYPES:
            raise falcon.HTTPNotFound
        body, tag = _asset(asset)
        resp.content_type = _TYPES[asset]
        _protect(resp)
        resp.set_header("ETag", tag)
        resp.set_header("Cache-Control", "no-cache")
        if tag in (req.get_header("If-None-Match") or ""):
            resp.status = falcon.HTTP_304
            return
        resp.data = body


def _protect(resp: falcon.Response) -> None:
    resp.set_header("Content-Security-Policy", _POLICY)
    resp.set_header("X-Content-Type-Options", "nosniff")
    resp.set_header("Referrer-Policy", "no-referrer")


@lru_cache(maxsize=len(_TYPES))
def _asset(name: str) -> tuple[bytes, str]:
    body = _START if name == "start.js" else files("swagger_ui").joinpath("static", name).read_bytes()
    return body, _tag(body)


def _tag(body: bytes) -> str:
    return f'"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'
