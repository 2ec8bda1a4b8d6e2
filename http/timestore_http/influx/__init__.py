"""The write routes of InfluxDB 1, 2 and 3, so that clients of these write here unchanged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from timestore_core.runtime import Runtime
from timestore_http.influx.answers import VERSION_1, VERSION_2, VERSION_3
from timestore_http.influx.health import InfluxHealthResource, PingResource
from timestore_http.influx.statements import StatementsResource
from timestore_http.influx.write import WriteResource

PREFIXES = ("", "/influx")


def routes(runtime: Runtime) -> Mapping[str, Any]:
    """Each path with its resource: everything stands under `/influx` too, and health there alone."""
    version_1 = WriteResource(runtime, VERSION_1)
    resources: dict[str, Any] = {
        "/write": version_1,
        "/api/v2/write": WriteResource(runtime, VERSION_2),
        "/api/v3/write_lp": WriteResource(runtime, VERSION_3),
        "/ping": PingResource(),
        "/query": StatementsResource(runtime),
    }
    found = {f"{prefix}{path}": resource for prefix in PREFIXES for path, resource in resources.items()}
    return {**found, "/influx/health": InfluxHealthResource()}
