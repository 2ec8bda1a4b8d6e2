"""Who may do what: every route against every kind of credential."""

from __future__ import annotations

import base64
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from timestore_http.app import _admin_routes

from tests.service import ALL_TIME, Service, batch

SECRET = "a-secret-of-at-least-thirty-two-bytes!"
GATEWAY = "what only the gateway knows"
ROUTES: list[tuple[str, str, str, Any]] = [
    ("read", "POST", "/datasets/guarded/query", {"timeRange": ALL_TIME}),
    ("read", "POST", "/datasets/guarded/sql", {"sql": "SELECT 1"}),
    ("read", "GET", "/datasets/guarded/schema", None),
    ("read", "GET", "/datasets/guarded/ingest/jobs/some-job", None),
    ("write", "POST", "/datasets/guarded/ingest", batch([1])),
    *(
        ("write", "POST", path, "m f=1 1")
        for path in (
            "/write?db=guarded",
            "/api/v2/write?bucket=guarded",
            "/api/v3/write_lp?db=guarded",
            "/influx/write?db=guarded",
            "/influx/api/v2/write?bucket=guarded",
            "/influx/api/v3/write_lp?db=guarded",
        )
    ),
    *(
        ("admin", method, path, body)
        for method, path, body in [
            ("GET", "/admin/datasets", None),
            ("POST", "/admin/datasets", {"slug": "guarded"}),
            ("GET", "/admin/datasets/guarded", None),
            ("PATCH", "/admin/datasets/guarded", {"name": "guarded"}),
            ("POST", "/admin/datasets/other/archive", None),
            ("POST", "/admin/datasets/other/restore", None),
            ("DELETE", "/admin/datasets/other?confirm=other", None),
            ("GET", "/admin/datasets/guarded/manifest", None),
            ("GET", "/admin/datasets/guarded/manifests", None),
            ("GET", "/admin/datasets/guarded/partitions", None),
            ("GET", "/admin/datasets/guarded/schemas", None),
            ("GET", "/admin/datasets/guarded/audit", None),
            ("GET", "/admin/datasets/guarded/retention", None),
            ("PUT", "/admin/datasets/guarded/retention", {"mode": "time"}),
            ("PUT", "/admin/datasets/guarded/storage-target", {"storageTargetId": "st-nope"}),
            ("GET", "/admin/storage-targets", None),
            ("POST", "/admin/storage-targets", {"name": "x", "kind": "nope"}),
            ("PATCH", "/admin/storage-targets/st-nope", {}),
            ("GET", "/admin/audit", None),
            ("GET", "/admin/datasets/guarded/pins", None),
            ("PUT", "/admin/datasets/guarded/pins/kept", {"version": 1}),
            ("DELETE", "/admin/datasets/guarded/pins/kept", None),
            ("GET", "/admin/datasets/guarded/changes?since=0", None),
            ("POST", "/admin/datasets/guarded/delete-rows", {"timeRange": ALL_TIME, "dryRun": True}),
            ("POST", "/admin/lifecycle/run", {"datasetSlug": "guarded", "dryRun": True}),
            ("GET", "/admin/lifecycle/status", None),
            ("POST", "/admin/lifecycle/reschedule", {"jobId": "ljr-nope"}),
        ]
    ),
]
OPEN = ["/health", "/livez", "/ready", "/readyz"]


def send(service: Service, method: str, path: str, body: Any, headers: dict[str, str]) -> httpx.Response:
    # A text is lines.
    given = {"content": body} if isinstance(body, str) else {"json": body}
    return service.client.request(method, path, headers=headers, **given)


def statuses(service: Service, headers: dict[str, str]) -> dict[str, set[int]]:
    """For each action, the refusals (401, 403) and `0` for anything else, over all its routes."""
    found: dict[str, set[int]] = {}
    for action, method, path, body in ROUTES:
        status = send(service, method, path, body, headers).status_code
        found.setdefault(action, set()).add(status if status in (401, 403) else 0)
    return found


@pytest.fixture(scope="module")
def guarded(make_service: Callable[..., Service]) -> Service:
    """Scopes everywhere; the dataset has lists of its own."""
    service = make_service(
        TIMESTORE_REQUIRE_SCOPE="global", TIMESTORE_REQUIRE_WRITE_SCOPE="writer", TIMESTORE_ADMIN_SCOPE="boss"
    ).start()
    iam = {"iam": {"readScopes": ["guarded:read"], "writeScopes": ["guarded:write"]}}
    for slug in ("guarded", "guarded.m"):
        service.client.post("/admin/datasets", json={"slug": slug, "metadata": iam}, headers={"x-iam-scopes": "boss"})
    return service


def test_every_admin_route_and_method_is_in_the_matrix() -> None:
    unused: Any = None
    templates = {
        (method.removeprefix("on_").upper(), path)
        for path, resource in _admin_routes(unused).items()
        for method in dir(resource)
        if method.startswith("on_")
    }
    tried = {(method, template_of(path.partition("?")[0])) for action, method, path, _ in ROUTES if action == "admin"}

    assert tried == templates


def template_of(path: str) -> str:
    path = re.sub(r"/(guarded|other)\b", "/{key}", path)
    return path.replace("/st-nope", "/{target_id}").replace("/pins/kept", "/pins/{name}")


@pytest.mark.parametrize(
    ("scopes", "expected"),
    [
        (None, {"read": {403}, "write": {403}, "admin": {403}}),
        ("", {"read": {403}, "write": {403}, "admin": {403}}),
        ("wrong, other", {"read": {403}, "write": {403}, "admin": {403}}),
        ("global", {"read": {403}, "write": {403}, "admin": {403}}),
        ("guarded:read", {"read": {0}, "write": {403}, "admin": {403}}),
        ("guarded:write", {"read": {403}, "write": {0}, "admin": {403}}),
        ("boss", {"read": {403}, "write": {403}, "admin": {0}}),
        ("wrong,guarded:read , guarded:write,boss", {"read": {0}, "write": {0}, "admin": {0}}),
        ("GUARDED:READ", {"read": {403}, "write": {403}, "admin": {403}}),
    ],
)
def test_scope_headers(guarded: Service, scopes: str | None, expected: dict[str, set[int]]) -> None:
    assert statuses(guarded, {} if scopes is None else {"x-iam-scopes": scopes}) == expected


def test_health_needs_no_scope(guarded: Service) -> None:
    assert {guarded.client.get(path).status_code for path in OPEN} == {200}


def test_an_empty_list_is_open_to_all(guarded: Service) -> None:
    iam = {"iam": {"readScopes": [], "writeScopes": []}}
    guarded.client.post("/admin/datasets", json={"slug": "open", "metadata": iam}, headers={"x-iam-scopes": "boss"})

    assert guarded.ingest("open", batch([1])).status_code == 201
    assert guarded.query("open", {"timeRange": ALL_TIME}).status_code == 200


def test_forged_headers_count_for_nothing_with_the_gateway_secret_on(make_service: Callable[..., Service]) -> None:
    service = make_service(TIMESTORE_REQUIRE_SCOPE="global", TIMESTORE_GATEWAY_SECRET=GATEWAY).start()
    forged = {"x-iam-scopes": "global", "x-iam-user": "root"}

    assert statuses(service, forged) == {"read": {0, 401}, "write": {401}, "admin": {401}}
    assert statuses(service, {**forged, "x-gateway-secret": "guess"}) == {
        "read": {0, 401},
        "write": {401},
        "admin": {401},
    }
    assert statuses(service, {**forged, "x-gateway-secret": GATEWAY})["admin"] == {0}
    assert statuses(service, {"x-gateway-secret": GATEWAY})["admin"] == {403}
    service.stop()
    assert GATEWAY not in service.log.read_text()


def token(key: Any = SECRET, algorithm: str = "HS256", headers: dict[str, str] | None = None, **claims: Any) -> str:
    good = {"sub": "alice", "scope": "global", "aud": "timestore", "iss": "issuer", "exp": time.time() + 300}
    kept = {name: value for name, value in {**good, **claims}.items() if value is not None}
    return jwt.encode(kept, key, algorithm=algorithm, headers=headers)


@pytest.fixture(scope="module")
def bearer(make_service: Callable[..., Service]) -> Service:
    return make_service(
        TIMESTORE_REQUIRE_SCOPE="global",
        TIMESTORE_JWT_SECRET=SECRET,
        TIMESTORE_JWT_AUDIENCE="timestore",
        TIMESTORE_JWT_ISSUER="issuer",
    ).start()


def unsigned() -> str:
    claims = {"sub": "x", "scope": "global", "aud": "timestore", "exp": time.time() + 300}
    parts = [{"alg": "none", "typ": "JWT"}, claims]
    return ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts) + "."


@pytest.mark.parametrize(
    ("authorization", "admin"),
    [
        (None, 401),
        ("", 401),
        ("Basic YTpi", 401),
        ("Bearer", 401),
        ("Bearer x.y.z", 401),
        (lambda: token(exp=time.time() - 100), 401),
        (lambda: token(exp=None), 401),
        (lambda: token(aud="other"), 401),
        (lambda: token(aud=None), 401),
        (lambda: token(iss="other"), 401),
        (lambda: token(key="another-secret-of-thirty-two-bytes!!!!"), 401),
        (lambda: token(algorithm="HS512", key=SECRET * 2), 401),
        (unsigned, 401),
        (lambda: token(scope="other"), 403),
        (lambda: token(scope=None), 403),
        (lambda: token(exp=time.time() - 5), 0),
        (lambda: token(), 0),
        (lambda: token(scope="a global b"), 0),
        (lambda: token(scope=None, scp=["global"]), 0),
    ],
)
def test_bearer_tokens(bearer: Service, authorization: Any, admin: int) -> None:
    value = f"Bearer {authorization()}" if callable(authorization) else authorization
    headers = {"x-iam-scopes": "global"} | ({} if value is None else {"authorization": value})

    assert statuses(bearer, headers)["admin"] == {admin}


@pytest.mark.parametrize("way", ["Token", "Bearer", "Basic", "p"])
def test_a_token_comes_as_influxdb_s_clients_send_it(bearer: Service, way: str) -> None:
    good, bad = token(), token(aud="other")

    def written(given: str) -> httpx.Response:
        basic = base64.b64encode(f"someone:{given}".encode()).decode()
        headers = {} if way == "p" else {"authorization": f"{way} {basic if way == 'Basic' else given}"}
        query = {"db": "tokens", **({"u": "someone", "p": given} if way == "p" else {})}
        return bearer.client.post("/write", params=query, content="m f=1 1", headers=headers)

    assert written(good).status_code == 204
    refused = written(bad)
    assert refused.status_code == 401
    assert bad not in refused.text


def test_a_refusal_says_what_was_wrong_without_repeating_the_token(bearer: Service) -> None:
    given = token(aud="other")
    answer = bearer.client.get("/admin/datasets", headers={"authorization": f"Bearer {given}"})

    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["statusCode"] == 401
    assert "InvalidAudienceError" in answer.json()["message"]
    assert given not in answer.text


def test_the_token_s_subject_is_the_actor_of_the_audit(bearer: Service) -> None:
    headers = {"authorization": f"Bearer {token()}", "x-iam-user": "mallory"}
    bearer.client.post("/admin/datasets", json={"slug": "signed"}, headers=headers)
    found = bearer.client.get("/admin/datasets/signed/audit", headers=headers).json()["events"]

    assert found[0]["payload"]["actor"] == {"id": "alice", "scopes": ["global"]}


@pytest.fixture(scope="module")
def keys() -> dict[str, Any]:
    return {
        "RS256": rsa.generate_private_key(public_exponent=65537, key_size=2048),
        "ES256": ec.generate_private_key(ec.SECP256R1()),
        "stranger": rsa.generate_private_key(public_exponent=65537, key_size=2048),
    }


def key_set(keys: dict[str, Any]) -> str:
    makers = {"RS256": jwt.algorithms.RSAAlgorithm, "ES256": jwt.algorithms.ECAlgorithm}
    found = []
    for name, maker in makers.items():
        public = json.loads(maker.to_jwk(keys[name].public_key()))
        found.append({**public, "kid": name, "use": "sig", "alg": name})
    return json.dumps({"keys": found})


@pytest.fixture(scope="module", params=["text", "url"])
def by_key_set(
    request: pytest.FixtureRequest, make_service: Callable[..., Service], keys: dict[str, Any]
) -> Iterator[Service]:
    text = key_set(keys)

    class Keys(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Keys)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/keys"
    given = {"TIMESTORE_JWT_JWKS": text} if request.param == "text" else {"TIMESTORE_JWT_JWKS_URL": url}
    yield make_service(TIMESTORE_REQUIRE_SCOPE="global", **given).start()
    server.shutdown()


@pytest.mark.parametrize(
    ("key", "algorithm", "kid", "status"),
    [
        ("RS256", "RS256", "RS256", 200),
        ("ES256", "ES256", "ES256", 200),
        ("stranger", "RS256", "RS256", 401),
        ("RS256", "RS256", "unknown", 401),
        ("RS256", "RS256", "ES256", 401),
        ("ES256", "ES256", "RS256", 401),
    ],
)
def test_tokens_of_a_key_set(
    by_key_set: Service, keys: dict[str, Any], key: str, algorithm: str, kid: str, status: int
) -> None:
    given = token(key=keys[key], algorithm=algorithm, headers={"kid": kid})

    answer = by_key_set.client.get("/admin/datasets", headers={"authorization": f"Bearer {given}"})

    assert answer.status_code == status, answer.text


def test_a_public_key_is_never_taken_for_a_shared_secret(by_key_set: Service, keys: dict[str, Any]) -> None:
    modulus = json.loads(key_set(keys))["keys"][0]["n"]
    given = token(key=modulus, algorithm="HS256", headers={"kid": "RS256"})

    assert by_key_set.client.get("/admin/datasets", headers={"authorization": f"Bearer {given}"}).status_code == 401
