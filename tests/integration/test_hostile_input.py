"""Wrong input by the thousand: always an answer, never the service's fault, never outside the storage root."""

from __future__ import annotations

import copy
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.service import ALL_TIME, Service, batch

MANY = settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))

texts = st.text(max_size=20) | st.sampled_from(
    ["", "\0", "../../etc/passwd", "'; DROP TABLE datasets; --", '"', "infinity", "NaN", "$start", "\ud7ff", "9" * 400]
)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts | st.just(10**400)
junk = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=8
)
QUERY = {
    "timeRange": ALL_TIME,
    "timestampColumn": "timestamp",
    "columns": ["timestamp", "n"],
    "limit": 5,
    "filters": {"partitionKey": {"window": ["w"]}},
    "downsample": {
        "intervalUnit": "hour",
        "intervalSize": 1,
        "aggregations": [{"fn": "percentile", "column": "n", "alias": "p", "percentile": 0.5}],
    },
}
BATCH = batch([1, 2], datasetName="d", tableName="t", actor={"id": "a", "scopes": []}, idempotencyKey=None)
THREE_FIELDS = [{"name": f"c{n}", "type": "double"} for n in range(3)]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every part of a JSON value."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, child in children for place in places(child, (*path, key)))]


@st.composite
def mutated(draw: st.DrawFn, whole: Any) -> str:
    """The JSON of the value with one to three of its parts replaced, removed or joined by something else."""
    value = copy.deepcopy(whole)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(places(value)))
        if not path:
            return json.dumps(draw(junk))
        parent = value
        for key in path[:-1]:
            parent = parent[key]
        match draw(st.sampled_from(["replace", "remove", "join"])):
            case "replace":
                parent[path[-1]] = draw(junk)
            case "remove":
                del parent[path[-1]]
            case "join" if isinstance(parent, dict):
                parent[draw(texts)] = draw(junk)
    return json.dumps(value)


def answered(service: Service, path: str, body: bytes, headers: dict[str, Any] | None = None) -> int:
    sent: dict[str, Any] = {"content-type": "application/json", **(headers or {})}
    answer = service.client.post(path, content=body, headers=sent)
    assert answer.status_code < 500, (answer.status_code, answer.text, body[:500])
    if answer.status_code >= 400:
        assert answer.json()["statusCode"] == answer.status_code
        assert answer.json()["message"]
    return answer.status_code


@given(
    body=mutated(batch([1, 2], datasetName="d", tableName="t", actor={"id": "a", "scopes": []}, idempotencyKey=None))
)
@MANY
def test_a_mutated_batch_is_never_the_service_s_fault(service: Service, body: str) -> None:
    answered(service, "/datasets/mutated/ingest", body.encode("utf-8", "surrogatepass"))


@given(body=mutated(QUERY))
@MANY
def test_a_mutated_query_is_never_the_service_s_fault(service: Service, body: str) -> None:
    service.ingest("questioned", batch([1, 2]), "once")

    answered(service, "/datasets/questioned/query", body.encode("utf-8", "surrogatepass"))


@given(body=st.binary(max_size=300), encoding=st.sampled_from(["", "gzip", "deflate", "zstd", "br", "gzip," * 9]))
@MANY
def test_bytes_of_any_kind_are_answered_with_a_4xx(service: Service, body: bytes, encoding: str) -> None:
    headers = {"content-encoding": encoding} if encoding else {}

    assert 400 <= answered(service, "/datasets/bytes/ingest", body, headers) < 500


# What the server refuses in a header before any route sees it: control characters.
header_texts = st.text(st.characters(max_codepoint=255, exclude_categories=["Cc"]), max_size=300)


@given(slug=st.text(min_size=1, max_size=300), key=header_texts)
@MANY
def test_a_slug_or_key_of_any_text_is_answered(service: Service, slug: str, key: str) -> None:
    headers = {"idempotency-key": key.strip().encode("latin-1")} if key.strip() else {}
    body = batch([1])
    body["partition"]["key"] = {slug: slug}
    path = f"/datasets/{quote(slug, safe='')}/ingest"

    answered(service, path, json.dumps(body).encode("utf-8", "surrogatepass"), headers)


def test_paths_made_of_hostile_names_stay_inside_the_storage_root(
    make_service: Callable[..., Service], tmp_path: Path
) -> None:
    root = tmp_path / "deep" / "root"
    service = make_service(TIMESTORE_STORAGE_ROOT=str(root)).start()
    for name in ("..", ".", "../..", "%2e%2e", "a/../../b", "C:\\x", "~", "con", "." * 200, "é" * 200):
        body = batch([1])
        body["partition"]["key"] = {name: name, "x": f"../{name}"}
        assert service.ingest("plain", body).status_code == 201
    service.client.post("/datasets/%2e%2e/ingest", json=batch([1]))

    assert {path.name for path in tmp_path.iterdir()} == {"deep"}
    assert {path.name for path in root.parent.iterdir()} == {"root"}
    assert len(list(root.rglob("*.duckdb"))) == 11


@pytest.mark.parametrize(
    ("setting", "value", "change", "status"),
    [
        ("TIMESTORE_INGEST_MAX_BODY_BYTES", "600", {"rows": [{"n": n} for n in range(100)]}, 413),
        ("TIMESTORE_INGEST_MAX_ROWS", "3", {"rows": [{"n": n} for n in range(4)]}, 400),
        (
            "TIMESTORE_INGEST_MAX_COLUMNS",
            "2",
            {"schema": {"fields": THREE_FIELDS}},
            400,
        ),
        ("TIMESTORE_MAX_NAME_LENGTH", "20", {"schema": {"fields": [{"name": "c" * 21, "type": "double"}]}}, 400),
        ("TIMESTORE_INGEST_MAX_KEY_PAIRS", "1", {"key": {"a": "1", "b": "2"}}, 400),
        ("TIMESTORE_MAX_SLUG_LENGTH", "6", {"slug": "too-long"}, 400),
        ("TIMESTORE_SLUG_PATTERN", "[a-z]+", {"slug": "A1"}, 400),
    ],
)
def test_each_limit_is_a_setting_that_its_error_names(
    limited: Service, setting: str, value: str, change: dict[str, Any], status: int
) -> None:
    slug = change.pop("slug", "limits")
    body = batch([])
    body["partition"]["key"] = change.pop("key", {})
    answer = limited.ingest(slug, {**body, **change})

    assert answer.status_code == status, answer.text
    assert value in answer.text
    assert setting in answer.text or setting.removeprefix("TIMESTORE_MAX_") in ("NAME_LENGTH", "SLUG_LENGTH")


@pytest.fixture(scope="module")
def limited(make_service: Callable[..., Service]) -> Service:
    return make_service(
        TIMESTORE_INGEST_MAX_BODY_BYTES="600",
        TIMESTORE_INGEST_MAX_ROWS="3",
        TIMESTORE_INGEST_MAX_COLUMNS="2",
        TIMESTORE_MAX_NAME_LENGTH="20",
        TIMESTORE_INGEST_MAX_KEY_PAIRS="1",
        TIMESTORE_MAX_SLUG_LENGTH="6",
        TIMESTORE_SLUG_PATTERN="[a-z]+",
    ).start()


def test_a_query_without_limit_is_bounded_and_says_how_to_ask_for_less(make_service: Callable[..., Service]) -> None:
    service = make_service(TIMESTORE_QUERY_MAX_ROWS="10").start()
    service.ingest("bounded", batch(list(range(11))))

    refused = service.query("bounded", {"timeRange": ALL_TIME})

    assert refused.status_code == 413
    assert "TIMESTORE_QUERY_MAX_ROWS" in refused.json()["message"]
    assert service.query("bounded", {"timeRange": ALL_TIME, "limit": 10}).status_code == 200


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET /health HTTP/9.9\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nbad header\r\n\r\n", 400),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET /health HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * 200 + b"\r\n", 431),
        (b"POST /datasets/x/ingest HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 400),
        (b"POST /datasets/x/ingest HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
    ],
)
def test_what_is_no_http_is_answered_in_the_same_shape(service: Service, request_bytes: bytes, status: int) -> None:
    with socket.create_connection(("127.0.0.1", service.port), timeout=30) as connection:
        connection.sendall(request_bytes)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))

    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ".encode())
    assert json.loads(body)["statusCode"] == status
