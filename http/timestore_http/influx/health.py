"""GET and HEAD /ping, and /influx/health: what clients of InfluxDB ask before they write."""

from __future__ import annotations

import falcon

from timestore_core import __version__
from timestore_http.influx.answers import INFLUX_VERSION, answer


class PingResource:
    """Says that somebody is there, and for which InfluxDB it may be taken."""

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        del req
        resp.status = falcon.HTTP_204
        resp.set_header("X-Influxdb-Version", INFLUX_VERSION)
        resp.set_header("X-Influxdb-Build", "timestore")

    on_head = on_get


class InfluxHealthResource:
    """InfluxDB 2's health."""

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        del req
        body = {"name": "timestore", "message": "ready for queries and writes", "status": "pass", "checks": []}
        answer(resp, 200, {**body, "version": __version__})
