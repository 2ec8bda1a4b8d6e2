"""Every link of the OpenAPI document is followed, from a real answer to the next one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from timestore_http.openapi import examples
from timestore_http.openapi.document import make_document

from tests.contract.document import Document, Json
from tests.service import Service
from timestore_core.plugins import load_plugins
from timestore_core.settings import Settings

DOCUMENT = Document(make_document(load_plugins(), Settings()))
BY_ID = {operation["operationId"]: (path, method, operation) for path, method, operation in DOCUMENT.operations()}
# What has to happen to a dataset before an operation has something to answer with.
BEFORE = {
    "createDataset 201": (),
    "createDataset 200": ("createDataset",),
    "ingest 201": (),
    "deleteDataset 200": ("ingest", "archiveDataset"),
    "restoreDataset 200": ("ingest", "archiveDataset", "deleteDataset"),
    "pinVersion 200": ("ingest", "pinVersion"),
    "listPins 200": ("ingest", "pinVersion"),
    "unpinVersion 200": ("ingest", "pinVersion"),
}
# Two of everything, so that there is a next page: batches, versions, schemas and their audit events.
USUAL = ("ingest", "ingest")
# Only in queue mode: interop and fuzzing have it.
ELSEWHERE = {"ingest 202 job"}


@dataclass(frozen=True)
class Edge:
    """A link, and the answer that has it."""

    source: str
    status: str
    name: str
    link: Json

    @property
    def label(self) -> str:
        return f"{self.source} {self.status} {self.name}"


def edges() -> Iterator[Edge]:
    for _, _, operation in DOCUMENT.operations():
        for status, response in operation["responses"].items():
            for name, link in DOCUMENT.resolved(response).get("links", {}).items():
                yield Edge(operation["operationId"], status, name, link)


EDGES = [edge for edge in edges() if edge.label not in ELSEWHERE]


class Session:
    """A service, and the slug that stands for the examples' one."""

    def __init__(self, service: Service, slug: str) -> None:
        self._service = service
        self._slug = slug
        self._batches = 0
        self._target = service.client.get("/admin/storage-targets").json()["storageTargets"][0]["id"]

    def send(self, operation_id: str, given: Json, body: Any = None) -> tuple[httpx.Response, Json]:
        """The answer, and what was sent by the names that links use; `given` goes before the examples."""
        path, method, operation = BY_ID[operation_id]
        sent: Json = {}
        query: Json = {"limit": 1} if operation_id.startswith("list") else {}
        headers: Json = {}
        for one in map(DOCUMENT.resolved, operation["parameters"]):
            place = f"{one['in']}.{one['name']}"
            required = self._own(one["example"]) if one.get("required") else None
            value = given.get(place, required)
            if value is None:
                continue
            sent[place] = value
            if one["in"] == "path":
                path = path.replace(f"{{{one['name']}}}", value)
            else:
                (query if one["in"] == "query" else headers)[one["name"]] = value
        content = body if body is not None else self._body(operation_id, operation)
        answer = self._service.client.request(method, path, params=query, headers=headers, json=content)
        return answer, {**sent, "body": content}

    def _body(self, operation_id: str, operation: Json) -> Any:
        if "requestBody" not in operation or not operation["requestBody"]["required"]:
            return None
        shown = operation["requestBody"]["content"]["application/json"]["examples"]
        body = self._own(next(iter(shown.values()))["value"])
        if operation_id == "ingest":
            self._batches += 1
            body["idempotencyKey"] = f"batch-{self._batches}"
            body["schema"]["fields"].append({"name": f"more_{self._batches}", "type": "double"})
        if operation_id == "createStorageTarget":
            body["name"] = self._slug
        return body

    def _own(self, example: Any) -> Any:
        text = json.dumps(example).replace(examples.SLUG, self._slug).replace(examples.TARGET_ID, self._target)
        return json.loads(text)


@pytest.mark.parametrize("edge", EDGES, ids=[edge.label for edge in EDGES])
def test_a_link_leads_on(edge: Edge, service: Service) -> None:
    session = Session(service, f"linked-{EDGES.index(edge)}")
    for operation_id in BEFORE.get(f"{edge.source} {edge.status}", USUAL):
        before, _ = session.send(operation_id, {})
        assert before.status_code < 300, before.text
    answer, sent = session.send(edge.source, {})
    assert str(answer.status_code) == edge.status, answer.text

    given = {place: evaluated(text, answer, sent) for place, text in edge.link["parameters"].items()}
    body = evaluated(edge.link["requestBody"], answer, sent) if "requestBody" in edge.link else None
    followed, _ = session.send(edge.link["operationId"], given, body)

    assert followed.status_code in (200, 201, 304), followed.text
    assert None not in given.values()
    _, _, target = BY_ID[edge.link["operationId"]]
    shown = followed.json() if followed.content else None
    assert DOCUMENT.answer_problems(target, followed.status_code, shown, followed.headers) == []


def evaluated(expression: str, answer: httpx.Response, sent: Json) -> Any:
    """The value of a runtime expression of OpenAPI."""
    if expression == "$request.body":
        return sent["body"]
    if expression.startswith("$request."):
        return sent[expression.removeprefix("$request.")]
    if expression.startswith("$response.header."):
        return answer.headers[expression.removeprefix("$response.header.")]
    value = answer.json()
    for part in expression.removeprefix("$response.body#/").split("/"):
        value = value[int(part)] if isinstance(value, list) else value[part]
    return value
