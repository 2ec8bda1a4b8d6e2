"""InfluxDB's routes: the same write in the forms of its versions 1, 2 and 3."""

from __future__ import annotations

from typing import Any

from timestore_http.influx import PREFIXES
from timestore_http.openapi.failures import responses
from timestore_http.openapi.parameters import SECURITY, refs
from timestore_http.openapi.parts import MEDIA_TYPE, Json, answer, schema

_TAG = "line protocol"
_FREE: Json = {"type": "string"}
_LINES = "weather,place=north temperature=21.5,wet=f,visits=3i 1704110400000000000\n"
_EXAMPLES: Json = {"a line": {"value": _LINES}}
# Which failures every route of these may give, in the shape of the version.
_STATUSES = (400, 401, 403, 409, 413, 415, 503)
# What is refused before one of these routes sees it has the shape of all other routes.
_ON_THE_WIRE = (404, 414, 417, 431, 500)


def paths() -> Json:
    """Each path with its operations, also below `/influx`."""
    found: Json = {}
    for prefix in PREFIXES:
        name = "Influx" if prefix else ""
        found |= {
            f"{prefix}/write": {"post": _write(f"write1{name}", 1, ("database", "retentionPolicy", "precision1"))},
            f"{prefix}/api/v2/write": {"post": _write(f"write2{name}", 2, ("bucket", "org", "precision2"))},
            f"{prefix}/api/v3/write_lp": {
                "post": _write(f"write3{name}", 3, ("database", "precision3", "acceptPartial"))
            },
            f"{prefix}/ping": {method: _ping(f"{method}Ping{name}") for method in ("get", "head")},
            f"{prefix}/query": {
                "get": _statement(f"getStatement{name}", required=True),
                "post": {
                    **_statement(f"postStatement{name}", required=False),
                    "requestBody": {
                        "required": False,
                        "content": {"application/x-www-form-urlencoded": {"schema": _FORM}},
                    },
                },
            },
        }
    return {**found, "/influx/health": {"get": _health()}}


def schemas() -> Json:
    """The error of each version, and what the other routes answer."""
    text: Json = {"type": "string"}
    line: Json = {
        "type": "object",
        "properties": {"error_message": text, "line_number": {"type": "integer"}, "original_line": text},
        "required": ["error_message", "line_number", "original_line"],
    }
    return {
        "InfluxError1": {"type": "object", "properties": {"error": text}, "required": ["error"]},
        "InfluxError2": {
            "type": "object",
            "properties": {"code": text, "message": text, "line": {"type": "integer"}},
            "required": ["code", "message"],
        },
        "InfluxError3": {
            "type": "object",
            "properties": {"error": text, "data": {"type": "array", "items": line}},
            "required": ["error"],
        },
        "InfluxResults": {
            "type": "object",
            "properties": {"results": {"type": "array", "items": {"type": "object"}}},
            "required": ["results"],
        },
        "InfluxHealth": {
            "type": "object",
            "properties": {
                "name": text,
                "message": text,
                "status": {"const": "pass"},
                "checks": {"type": "array", "items": {"type": "object"}},
                "version": text,
            },
            "required": ["name", "status"],
        },
    }


def parameters() -> Json:
    """The parameters of these routes, by the name that operations use. Unknown ones mean nothing."""
    return {
        "database": _query("db", "The database: the first part of the datasets' slugs; default `default`."),
        "retentionPolicy": _query("rp", "Another than `autogen` makes it another database, `db/rp`."),
        "bucket": _query("bucket", "The database: the first part of the datasets' slugs; default `default`."),
        "org": _query("org", "Means nothing here."),
        "precision1": _query("precision", "Of the times: `n`, `ns` (default), `u`, `us`, `ms`, `s`, `m` or `h`."),
        "precision2": _query("precision", "Of the times: `ns` (default), `us`, `ms` or `s`."),
        "precision3": _query(
            "precision",
            "Of the times: `auto` (default: by their size), `nanosecond`, `microsecond`, `millisecond`, `second`, or "
            "`ns`, `us`, `ms`, `s`.",
        ),
        "acceptPartial": _query("accept_partial", "`false`: write nothing where a line is bad."),
        "statement": {**_query("q", "`CREATE DATABASE …` or `SHOW DATABASES`."), **_SHOW, "required": True},
        "statementUnlessInBody": {
            **_query("q", "`CREATE DATABASE …` or `SHOW DATABASES`; or in the body."),
            **_SHOW,
        },
    }


_SHOW: Json = {"example": "SHOW DATABASES"}
_FORM: Json = {"type": "object", "properties": {"q": _FREE}}


def _query(name: str, description: str) -> Json:
    return {"name": name, "in": "query", "description": description, "schema": _FREE}


def _write(operation_id: str, version: int, names: tuple[str, ...]) -> Json:
    return _operation(
        operation_id,
        f"Write lines, as to InfluxDB {version}",
        {"204": answer("Every line is published."), **_failures(version)},
        description="One dataset a measurement, called `<database>.<measurement>`. Of a body with bad lines the good "
        "ones are published, and the answer is 400 with the others' numbers and reasons.",
        parameters=refs(*names, "contentEncoding", "user"),
        requestBody={"required": False, "content": {"text/plain": {"schema": _FREE, "examples": _EXAMPLES}}},
    )


def _ping(operation_id: str) -> Json:
    return _operation(
        operation_id, "Is somebody there", {"204": answer("Yes."), **responses()}, parameters=refs(), security=[]
    )


def _statement(operation_id: str, *, required: bool) -> Json:
    made = answer("What InfluxDB 1 answers.")
    made["content"] = {MEDIA_TYPE: {"schema": schema("InfluxResults")}}
    return _operation(
        operation_id,
        "`CREATE DATABASE` and `SHOW DATABASES`, as to InfluxDB 1",
        {"200": made, **_failures(1)},
        parameters=refs("statement" if required else "statementUnlessInBody", "user"),
    )


def _health() -> Json:
    return _operation(
        "getInfluxHealth",
        "InfluxDB 2's health",
        {"200": answer("It is well.", "InfluxHealth"), **responses()},
        parameters=refs(),
        security=[],
    )


def _failures(version: int) -> Json:
    """The version's own shape, or that of all routes for what is refused before the route is found."""
    found = {status: one for status, one in responses().items() if int(status) in _ON_THE_WIRE}
    shapes = {"anyOf": [schema(f"InfluxError{version}"), schema("Error")]}
    for status in _STATUSES:
        made = answer("Refused; the body says why.")
        made["headers"] = {}
        made["content"] = {MEDIA_TYPE: {"schema": shapes}}
        found[str(status)] = made
    return found


def _operation(operation_id: str, summary: str, answers: Json, **rest: Any) -> Json:
    return {
        "operationId": operation_id,
        "summary": summary,
        "tags": [_TAG],
        "security": SECURITY,
        **rest,
        "responses": dict(sorted(answers.items())),
    }
