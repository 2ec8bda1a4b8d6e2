"""Content types: JSON in, JSON out."""

from __future__ import annotations

import falcon

from timestore_core.errors import UnsupportedMedia

JSON = "application/json; charset=utf-8"


def require_json(req: falcon.Request) -> None:
    """Raise UnsupportedMedia unless the body is declared as JSON, or not declared at all."""
    declared = (req.content_type or "").partition(";")[0].strip().lower()
    if declared and declared != "application/json" and not declared.endswith("+json"):
        raise UnsupportedMedia(
            f"Unsupported Media Type: {declared[:80]}; send application/json", code="FST_ERR_CTP_INVALID_MEDIA_TYPE"
        )
