"""POST /write, /api/v2/write and /api/v3/write_lp: line protocol in, 204 and nothing else out."""

from __future__ import annotations

import time
from collections.abc import Mapping

import falcon

from timestore_core.errors import InvalidRequest, TimestoreError
from timestore_core.ingest.line_protocol.names import database_named
from timestore_core.ingest.line_protocol.precision import Precision, precision_named
from timestore_core.ingest.line_protocol.write import Lot, write_lines
from timestore_core.names import name_problem
from timestore_core.runtime import Runtime
from timestore_http.access import identify, require
from timestore_http.body import read_body
from timestore_http.influx.answers import INFLUX_VERSION, Version, answer, answer_error
from timestore_http.influx.credentials import credentials
from timestore_http.influx.parameters import parameters_of


class WriteResource:
    """Takes lines. Every good one is published when this answers 204, or 400 that names the bad ones."""

    def __init__(self, runtime: Runtime, version: Version) -> None:
        self._runtime = runtime
        self._version = version

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        try:
            self._write(req, resp)
        except TimestoreError as error:
            answer_error(req, resp, error, self._version)

    def _write(self, req: falcon.Request, resp: falcon.Response) -> None:
        runtime, version = self._runtime, self._version
        parameters = parameters_of(req.query_string)
        database = self._database(parameters)
        precision = self._precision(parameters)
        accept_partial = parameters.get("accept_partial", "true").lower() != "false"
        actor = identify(runtime, req, credentials(req, parameters))
        body = read_body(req, runtime.settings.ingest_max_body_bytes, "TIMESTORE_INGEST_MAX_BODY_BYTES")
        lot = Lot(database, body, precision, time.time_ns() // 1000, actor)
        written = write_lines(
            runtime, lot, lambda dataset: require(runtime, actor, "write", dataset), accept_partial=accept_partial
        )
        bad = written.bad
        req.context.log |= {"database": database, "rows": written.rows, "bytes_in": len(body), "bad_lines": bad.count}
        if bad.count:
            req.context.error = "partial_write"
            answer(resp, 400, version.partial(bad, not accept_partial))
            return
        resp.status = falcon.HTTP_204
        resp.set_header("X-Influxdb-Version", INFLUX_VERSION)

    def _database(self, parameters: Mapping[str, str]) -> str:
        name = self._version.database
        given, policy = parameters.get(name), parameters.get("rp")
        if name == "bucket" and given is not None and policy is None and "/" in given:
            # Version 1.8 names a bucket after the database and the policy.
            given, _, policy = given.partition("/")
        database = database_named(given, policy)
        wrong = name_problem(database, self._runtime.settings.max_name_length)
        if wrong:
            raise InvalidRequest.at(name, wrong)
        return database

    def _precision(self, parameters: Mapping[str, str]) -> Precision:
        given = parameters.get("precision") or None
        if given is None:
            return self._version.default_precision
        if given not in self._version.precisions:
            known = ", ".join(sorted(self._version.precisions))
            raise InvalidRequest.at("precision", f"{given[:40]!r} is not one of {known}")
        return precision_named(given)
