"""GET and POST /query: the two statements of InfluxQL that writing clients send."""

from __future__ import annotations

import re
from typing import Any

import falcon

from timestore_core.errors import InvalidRequest, TimestoreError
from timestore_core.ingest.line_protocol.databases import databases
from timestore_core.runtime import Runtime
from timestore_http.access import identify, require
from timestore_http.body import read_body
from timestore_http.influx.answers import VERSION_1, answer, answer_error
from timestore_http.influx.credentials import credentials
from timestore_http.influx.parameters import parameters_of

_MAX_BODY_BYTES = 64 * 1024
_CREATE = re.compile(r'\s*create\s+database\s+("(?:[^"\\]|\\.)*"|[^\s;"]+)(\s+with\s[^;]*)?\s*;?\s*', re.IGNORECASE)
_SHOW = re.compile(r"\s*show\s+databases\s*;?\s*", re.IGNORECASE)


class StatementsResource:
    """Answers `CREATE DATABASE`, which makes nothing here (a first line does), and `SHOW DATABASES`."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        try:
            parameters = parameters_of(req.query_string)
            if req.method == "POST" and "q" not in parameters:
                parameters |= parameters_of(self._form(req))
            actor = identify(self._runtime, req, credentials(req, parameters))
            statement = parameters.get("q", "")
            if _CREATE.fullmatch(statement):
                answer(resp, 200, _results({}))
                return
            if not _SHOW.fullmatch(statement):
                raise InvalidRequest(
                    "error parsing query: only CREATE DATABASE and SHOW DATABASES are answered here; "
                    "ask for rows by POST /datasets/<slug>/query"
                )
            require(self._runtime, actor, "read", None)
            values = [[name] for name in databases(self._runtime.database)]
            answer(resp, 200, _results({"series": [{"name": "databases", "columns": ["name"], "values": values}]}))
        except TimestoreError as error:
            answer_error(req, resp, error, VERSION_1)

    on_post = on_get

    def _form(self, req: falcon.Request) -> str:
        try:
            return read_body(req, _MAX_BODY_BYTES, "a statement's limit").decode()
        except UnicodeDecodeError:
            raise InvalidRequest.at("body", "is not UTF-8") from None


def _results(result: dict[str, Any]) -> dict[str, Any]:
    return {"results": [{"statement_id": 0, **result}]}
