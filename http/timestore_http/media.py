"""Content types: JSON in; out, what the client accepts."""

from __future__ import annotations

from collections.abc import Iterator

import falcon

from timestore_core.errors import NotAcceptable, UnsupportedMedia
from timestore_core.query.formats import FORMS, AnswerForm

JSON = "application/json; charset=utf-8"
# In the order of preference where a client likes them equally.
_CODINGS = ("zstd", "gzip")


def require_json(req: falcon.Request) -> None:
    """Raise UnsupportedMedia unless the body is declared as JSON, or not declared at all."""
    declared = (req.content_type or "").partition(";")[0].strip().lower()
    if declared and declared != "application/json" and not declared.endswith("+json"):
        raise UnsupportedMedia(
            f"Unsupported Media Type: {declared[:80]}; send application/json", code="FST_ERR_CTP_INVALID_MEDIA_TYPE"
        )


def wanted_form(req: falcon.Request) -> AnswerForm:
    """The form that the client likes best, JSON where it does not say. Raises NotAcceptable with the list."""
    asked = {name: weight for name, weight in _weighed(req.get_header("Accept") or "") if all(name.partition("/"))}
    if not asked:
        return FORMS[0]
    weights = [max(_weight(name, asked) for name in (form.media_type, *form.other_names)) for form in FORMS]
    if max(weights) <= 0:
        raise NotAcceptable(
            f"accept: nothing of what is accepted can be sent; there are "
            f"{', '.join(form.media_type for form in FORMS)}",
            details={"mediaTypes": [form.media_type for form in FORMS]},
        )
    return FORMS[weights.index(max(weights))]


def wanted_coding(req: falcon.Request, form: AnswerForm) -> str | None:
    """How the body may be compressed: the coding that the client likes best, or None."""
    asked = dict(_weighed(req.get_header("Accept-Encoding") or ""))
    if not asked or not form.is_compressible:
        return None
    weights = [asked.get(coding, asked.get("*", 0.0)) for coding in _CODINGS]
    # As it is comes last where all are liked equally, and is never refused.
    plain = asked.get("identity", 0.0)
    return _CODINGS[weights.index(max(weights))] if max(weights) > 0 and max(weights) >= plain else None


def _weight(name: str, asked: dict[str, float]) -> float:
    """How much the client likes this type: by the narrowest range that has it."""
    for pattern in (name, f"{name.partition('/')[0]}/*", "*/*"):
        if pattern in asked:
            return asked[pattern]
    return 0.0


def _weighed(header: str) -> Iterator[tuple[str, float]]:
    """Each name of the list with its weight; what is malformed is passed over."""
    for part in header.split(","):
        name, *parameters = (one.strip().lower() for one in part.split(";"))
        weight = 1.0
        for parameter in parameters:
            key, _, value = parameter.partition("=")
            if key.strip() == "q":
                try:
                    weight = float(value)
                except ValueError:
                    weight = -1.0
        if name and 0 <= weight <= 1:
            yield name, weight
