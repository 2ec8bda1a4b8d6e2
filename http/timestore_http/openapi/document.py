"""The whole document."""

from __future__ import annotations

from timestore_core import __version__
from timestore_core.plugins import PluginHost
from timestore_core.settings import Settings
from timestore_http.openapi import (
    administration,
    answers,
    bodies,
    failures,
    lifecycle,
    lifecycle_answers,
    line_protocol,
    operations,
    parameters,
)
from timestore_http.openapi.parts import Json

_ABOUT = (
    "A time-series warehouse over files that you own. JSON in, JSON out; names are camelCase, times are ISO-8601 UTC. "
    "Every answer carries `X-Request-Id`, every error the same shape."
)
_TAGS = {
    "data": "Sending rows and asking for them.",
    "line protocol": "Sending rows as to InfluxDB.",
    "admin": "For operators, behind the admin scope.",
    "lifecycle": "Maintenance, and the versions of a dataset; behind the admin scope.",
    "health": "For load balancers.",
    "documentation": "This document.",
}


def make_document(plugins: PluginHost, settings: Settings) -> Json:
    """The OpenAPI 3.1 document of a service with these plugins and limits. JSON-serializable."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "Timestore", "version": __version__, "description": _ABOUT},
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": text} for name, text in _TAGS.items()],
        "paths": {**operations.paths(), **administration.paths(), **lifecycle.paths(), **line_protocol.paths()},
        "components": {
            "schemas": {
                **bodies.schemas(plugins, settings),
                **answers.schemas(),
                **lifecycle_answers.schemas(),
                **line_protocol.schemas(),
                **failures.schemas(),
            },
            "responses": failures.components(),
            "parameters": {**parameters.components(plugins, settings), **line_protocol.parameters()},
            "headers": parameters.headers(),
            "securitySchemes": parameters.security_schemes(),
        },
    }
