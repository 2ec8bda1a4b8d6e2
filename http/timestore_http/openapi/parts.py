"""The pieces that an OpenAPI document is put together from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

Json = dict[str, Any]
Section = Literal["schemas", "responses", "parameters", "headers"]
MEDIA_TYPE = "application/json"


def ref(section: Section, name: str) -> Json:
    """A reference to a component."""
    return {"$ref": f"#/components/{section}/{name}"}


def schema(name: str) -> Json:
    """A reference to a schema."""
    return ref("schemas", name)


def array_of(items: Json, **rules: Any) -> Json:
    """A list of `items`."""
    return {"type": "array", "items": items, **rules}


def or_null(one: Json) -> Json:
    """The schema's values, and null."""
    return {"anyOf": [one, {"type": "null"}]}


def closed(required: Mapping[str, Json], optional: Mapping[str, Json] | None = None, **rules: Any) -> Json:
    """An object with these properties and no others."""
    properties = {**required, **(optional or {})}
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
        **rules,
    }


def answer(
    description: str, name: str | None = None, headers: Sequence[str] = (), links: Mapping[str, Json] | None = None
) -> Json:
    """A response with the JSON of a named schema, or without a body; every one carries its request's id."""
    made: Json = {
        "description": description,
        "headers": {header: ref("headers", header) for header in ("X-Request-Id", *headers)},
    }
    if name is not None:
        made["content"] = {MEDIA_TYPE: {"schema": schema(name)}}
    if links:
        made["links"] = dict(links)
    return made


def body(name: str, examples: Mapping[str, Any], *, required: bool = True) -> Json:
    """A request body of a named schema, with examples that work as they stand."""
    shown = {key: {"value": value} for key, value in examples.items()}
    return {"required": required, "content": {MEDIA_TYPE: {"schema": schema(name), "examples": shown}}}


def link(operation_id: str, description: str, parameters: Mapping[str, str], request_body: str = "") -> Json:
    """What can be asked next with what this answer holds; parameters are named `path.key`, `query.cursor`, …"""
    sent = {"requestBody": request_body} if request_body else {}
    return {"operationId": operation_id, "description": description, "parameters": dict(parameters), **sent}
