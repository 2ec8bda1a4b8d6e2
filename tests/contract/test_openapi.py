"""The OpenAPI document: valid, complete, and true."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import falcon.inspect
import httpx
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from timestore_http.app import make_app
from timestore_http.openapi import examples
from timestore_http.openapi.document import make_document

from tests.contract.document import Document, Json
from tests.contract.test_recorded_exchanges import EXCHANGES
from tests.service import Service
from timestore_core.plugins import load_plugins
from timestore_core.runtime import Runtime
from timestore_core.settings import Settings

PLUGINS = load_plugins()
DOCUMENT = Document(make_document(PLUGINS, Settings()))
OPERATIONS = [(path, method, one) for path, method, one in DOCUMENT.operations()]
# These end what others need.
LAST = ("archiveDataset", "deleteDataset", "restoreDataset")
# Only in queue mode: tests/integration/test_lifecycle_queue.py has it.
ELSEWHERE = {"rescheduleLifecycle"}


def test_the_document_is_valid_openapi_3_1() -> None:
    assert DOCUMENT.content["openapi"].startswith("3.1")
    assert [error.message for error in OpenAPIV31SpecValidator(DOCUMENT.content).iter_errors()] == []


def test_every_route_and_method_is_in_the_document_and_nothing_else() -> None:
    app = make_app(cast(Runtime, SimpleNamespace(plugins=PLUGINS, settings=Settings())))
    routes = {
        (route.path, method.method)
        for route in falcon.inspect.inspect_routes(app)
        for method in route.methods
        if not method.internal
    }

    assert {(path, method) for path, method, _ in OPERATIONS} == routes


def test_every_operation_says_what_it_is_and_how_it_fails() -> None:
    ids = [operation["operationId"] for _, _, operation in OPERATIONS]
    tags = {tag["name"] for tag in DOCUMENT.content["tags"]}

    assert len(set(ids)) == len(ids)
    for path, method, operation in OPERATIONS:
        assert operation["summary"], operation
        assert set(operation["tags"]) <= tags
        assert {"400", "404", "500"} <= operation["responses"].keys()
        if method in ("POST", "PUT", "PATCH") and "requestBody" in operation:
            assert {"413", "415"} <= operation["responses"].keys()
        if path.startswith(("/admin", "/datasets")):
            assert {"401", "403", "503"} <= operation["responses"].keys()


def test_every_link_leads_to_an_operation_that_takes_its_parameters() -> None:
    by_id = {operation["operationId"]: operation for _, _, operation in OPERATIONS}
    for _, _, operation in OPERATIONS:
        for response in operation["responses"].values():
            for link in DOCUMENT.resolved(response).get("links", {}).values():
                taken = [DOCUMENT.resolved(one) for one in by_id[link["operationId"]]["parameters"]]
                assert link["parameters"].keys() <= {f"{one['in']}.{one['name']}" for one in taken}


def test_what_plugins_give_is_in_the_document() -> None:
    schemas = DOCUMENT.content["components"]["schemas"]

    assert schemas["Aggregation"]["properties"]["fn"]["enum"] == sorted(PLUGINS.aggregations)
    assert schemas["NewStorageTarget"]["properties"]["kind"]["enum"] == sorted(PLUGINS.storage_kinds)
    assert schemas["DatasetPatch"]["properties"]["writeFormat"]["enum"] == sorted({*PLUGINS.partition_formats, "auto"})


@pytest.mark.parametrize("exchange", EXCHANGES, ids=[one["name"] for one in EXCHANGES])
def test_a_recorded_exchange_is_as_the_document_says(exchange: Json) -> None:
    request, response = exchange["request"], exchange["response"]
    status, body = response["status"], response["body"]
    if status >= 400 and request["path"].startswith("/admin/"):
        # The contract: where the recorded service sends only `error`, ours sends what all other routes send, too.
        body = {"statusCode": status, "message": body["error"], **body}
    operation = DOCUMENT.operation(request["method"], request["path"])

    if operation is None:
        assert status == 404
        assert DOCUMENT.schema_problems("Error", body) == []
        return
    assert DOCUMENT.answer_problems(operation, status, body) == []
    if status < 400 and "body" in request:
        assert DOCUMENT.request_problems(operation, request["body"]) == []


@pytest.mark.parametrize("exchange", [one for one in EXCHANGES if one["response"]["status"] < 400])
def test_an_answer_that_lacks_a_field_or_has_one_of_another_type_is_seen(exchange: Json) -> None:
    operation = DOCUMENT.operation(exchange["request"]["method"], exchange["request"]["path"])
    assert operation is not None
    status, body = exchange["response"]["status"], exchange["response"]["body"]
    optional = {"defaultPolicy"}

    for changed, name in damaged(body):
        assert name in optional or DOCUMENT.answer_problems(operation, status, changed) != [], name


def damaged(body: Json) -> Iterator[tuple[Json, str]]:
    """The body without each of its fields, with each of another type, and with one too many; also one level down."""
    for name, value in body.items():
        yield {key: one for key, one in body.items() if key != name}, name
        yield {**body, name: [value]}, name
        if isinstance(value, dict) and name in ("manifest", "dataset", "storageTarget", "report", "metrics"):
            yield from (({**body, name: inner}, f"{name}.{path}") for inner, path in damaged(value))
    yield {**body, "unknown": 1}, "an unknown field"


@pytest.fixture(scope="module")
def running(make_service: Callable[..., Service]) -> Iterator[Service]:
    service = make_service().start()
    yield service
    assert service.stop() == 0


def test_the_service_serves_this_document_and_knows_when_a_client_has_it(running: Service) -> None:
    answer = running.client.get("/openapi.json")
    again = running.client.get("/openapi.json", headers={"if-none-match": answer.headers["etag"]})

    assert answer.json() == DOCUMENT.content
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert again.status_code == 304


def test_the_command_prints_this_document() -> None:
    main = "from timestore_workers.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", main, "openapi"], capture_output=True, text=True, check=True)

    assert json.loads(done.stdout) == DOCUMENT.content


def test_every_example_works_and_its_answer_is_as_the_document_says(running: Service) -> None:
    target_id = running.client.get("/admin/storage-targets").json()["storageTargets"][0]["id"]
    sent = 0
    for path, method, operation in sorted(OPERATIONS, key=lambda one: place_of(one[2]["operationId"])):
        for body in [] if operation["operationId"] in ELSEWHERE else bodies_of(operation):
            is_json = "application/json" in operation.get("requestBody", {}).get("content", {})
            written = json.dumps(body) if is_json else body
            text = None if body is None else written.replace(examples.TARGET_ID, target_id)
            url, query = filled(path, operation)
            answer = running.client.request(
                method,
                url.replace(examples.TARGET_ID, target_id),
                params=query,
                content=text,
                headers={"content-type": "application/json" if is_json else "text/plain"} if text else {},
            )
            assert answer.status_code < 300, (operation["operationId"], answer.text)
            assert problems_of(operation, answer) == []
            if body is not None and is_json:
                assert DOCUMENT.request_problems(operation, body) == []
            sent += 1

    assert sent > len(OPERATIONS)


def place_of(operation_id: str) -> int:
    """Where in a dataset's life the operation has its place."""
    early = ("createDataset", "ingest")
    if operation_id in early:
        return early.index(operation_id) - len(early)
    return LAST.index(operation_id) + 1 if operation_id in LAST else 0


def bodies_of(operation: Json) -> list[Any]:
    """The examples, and first no body at all where there may be none."""
    if "requestBody" not in operation:
        return [None]
    asked = operation["requestBody"]
    media = next(iter(asked["content"].values()))
    shown = [one["value"] for one in media.get("examples", {}).values()]
    return shown if asked["required"] else [None, *shown]


def filled(path: str, operation: Json) -> tuple[str, dict[str, Any]]:
    """The path and the query with the parameters' examples."""
    query: dict[str, Any] = {}
    for one in map(DOCUMENT.resolved, operation["parameters"]):
        if one["in"] == "path":
            path = path.replace(f"{{{one['name']}}}", one["example"])
        elif one["in"] == "query" and "example" in one:
            query[one["name"]] = one["example"]
    return path, query


def problems_of(operation: Json, answer: httpx.Response) -> list[str]:
    if answer.status_code == 204:
        return [] if not answer.content else ["a body beside 204"]
    if not answer.headers["content-type"].startswith("application/json"):
        return [] if answer.content and answer.headers["etag"] else ["an empty file"]
    return DOCUMENT.answer_problems(operation, answer.status_code, answer.json(), answer.headers)


def test_the_page_needs_nothing_from_elsewhere(running: Service) -> None:
    page = running.client.get("/docs")
    assets = [part.partition('"')[0] for attribute in ("src", "href") for part in page.text.split(f'{attribute}="')[1:]]

    assert "script-src 'self'" in page.headers["content-security-policy"]
    assert "<script>" not in page.text
    assert len(assets) == 5
    for asset in assets:
        answer = running.client.get(f"/{asset}")
        assert answer.status_code == 200, asset
        again = running.client.get(f"/{asset}", headers={"if-none-match": answer.headers["etag"]})
        assert again.status_code == 304
    assert running.client.get("/docs/..%2fapp.py").status_code == 404
