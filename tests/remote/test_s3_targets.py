"""Who may read a bucket, where a target may point, and that no secret is ever told."""

from __future__ import annotations

import json
from collections.abc import Callable

import httpx
import pytest

from tests.integration.maintenance import ask, ingest, numbers
from tests.remote.conftest import FIRST, S3, SECOND, RemoteStand
from tests.remote.fault_proxy import FaultProxy
from tests.remote.recorder import MARK
from tests.service import ALL_TIME, batch, numbers_of, wait_until

pytestmark = pytest.mark.extended


@pytest.fixture(scope="module")
def stand(s3: S3, new_stand: Callable[..., RemoteStand]) -> RemoteStand:
    """A service with a local default target that has the first bucket's key in its settings."""
    return new_stand(**s3.access())


@pytest.mark.parametrize(
    ("slug", "bucket", "own"),
    [
        ("of-the-settings", "first", {}),
        ("of-its-own", "second", {"accessKeyId": SECOND.id, "secretAccessKey": SECOND.secret}),
        # One of the two alone is filled up from the settings.
        ("id-alone", "first", {"accessKeyId": FIRST.id}),
        ("secret-alone", "first", {"secretAccessKey": FIRST.secret}),
    ],
)
@pytest.mark.parametrize("mode", ["fetched", "streamed"])
def test_a_target_s_own_credentials_count_before_those_of_the_settings(
    slug: str, bucket: str, own: dict[str, str], mode: str, stand: RemoteStand, streaming: RemoteStand
) -> None:
    one = stand if mode == "fetched" else streaming
    target = one.target(slug, bucket=bucket, prefix=f"{slug}-{mode}", **own)
    ingest(one.service, slug, batch([1, 2]) | {"storageTargetId": target})

    assert numbers_of(one.service, slug) == [1, 2]


@pytest.fixture(scope="module")
def streaming(s3: S3, new_stand: Callable[..., RemoteStand]) -> RemoteStand:
    return new_stand(**s3.access(), TIMESTORE_QUERY_FETCH_BELOW_BYTES="0")


@pytest.mark.parametrize(
    "own",
    [
        {"accessKeyId": SECOND.id},
        {"secretAccessKey": SECOND.secret},
        {"accessKeyId": SECOND.id, "secretAccessKey": SECOND.secret},
    ],
)
def test_a_target_with_the_wrong_credentials_takes_nothing(own: dict[str, str], s3: S3, stand: RemoteStand) -> None:
    """Were those of the settings taken instead, it would."""
    target = stand.target(f"wrong-{'-'.join(own)}", bucket="first", prefix="wrong", **own)
    answer = stand.service.ingest("wrong", batch([1]) | {"storageTargetId": target})

    assert (answer.status_code, answer.json().get("code")) == (503, "unavailable"), answer.text
    assert s3.keys("first", "wrong/") == set()


@pytest.mark.parametrize("mode", ["fetched", "streamed"])
def test_a_target_whose_key_was_changed_for_a_wrong_one_is_named_and_comes_back_with_the_right_one(
    mode: str, stand: RemoteStand, streaming: RemoteStand
) -> None:
    one = stand if mode == "fetched" else streaming
    own = {"accessKeyId": SECOND.id, "secretAccessKey": SECOND.secret}
    target = one.target("rotated", bucket="second", prefix=f"rotated-{mode}", **own)
    ingest(one.service, "rotated", batch([1]) | {"storageTargetId": target})
    ask(one.service, "PATCH", f"/admin/storage-targets/{target}", {"config": {"secretAccessKey": "stale-hunter9"}})
    refused = one.service.query(
        "rotated", {"timeRange": {"start": "2024-01-01T00:00:00Z", "end": "2025-01-01T00:00:00Z"}}
    )
    ask(one.service, "PATCH", f"/admin/storage-targets/{target}", {"config": {"secretAccessKey": SECOND.secret}})

    assert (refused.status_code, refused.json()["code"]) == (503, "unavailable"), refused.text
    assert "rotated" in refused.json()["message"]
    assert numbers_of(one.service, "rotated") == [1]


FORBIDDEN = [
    "http://169.254.169.254",
    "http://169.254.169.254:80/latest/meta-data/",
    "http://169.254.0.7:9000",
    "http://[fe80::1]:9000",
    "http://[::ffff:169.254.169.254]",
    "http://[fd00:ec2::254]",
    "http://100.100.100.200",
    "http://168.63.129.16",
    "http://2852039166",
    "http://0xa9fea9fe/",
    "http://metadata.google.internal",
    "http://METADATA.google.internal.",
    "http://metadata",
    "http://instance-data",
    "http://0.0.0.0:9000",
]
MALFORMED = [
    "http://user:pass-hunter8@127.0.0.1:9000",
    "http://user@127.0.0.1:9000",
    "http://:pass-hunter8@127.0.0.1:9000",
    "ftp://127.0.0.1",
    "file:///etc/passwd",
    "127.0.0.1:9000",
    "http://",
    "http://127.0.0.1:notaport",
    "http://127.0.0.1:9000?a=b",
    "http://127.0.0.1:9000#a",
]


@pytest.mark.parametrize("endpoint", FORBIDDEN + MALFORMED)
def test_an_endpoint_that_must_not_be_called_is_refused_at_save(endpoint: str, stand: RemoteStand) -> None:
    body = {"name": "inward", "kind": "s3", "config": {"bucket": "first", "endpoint": endpoint}}
    answer = stand.service.client.post("/admin/storage-targets", json=body)

    assert answer.status_code == 400, answer.text
    assert "config.endpoint" in answer.text
    assert MARK not in answer.text


def test_an_endpoint_that_must_not_be_called_is_refused_by_a_change_too(stand: RemoteStand) -> None:
    target = stand.target("turned", bucket="first")
    body = {"config": {"endpoint": FORBIDDEN[0]}}

    assert "config.endpoint" in json.dumps(
        ask(stand.service, "PATCH", f"/admin/storage-targets/{target}", body, status=400)
    )


def test_an_operator_may_allow_link_local_endpoints_and_nothing_else(
    s3: S3, new_stand: Callable[..., RemoteStand]
) -> None:
    stand = new_stand(TIMESTORE_STORAGE_ALLOW_LINK_LOCAL="on")
    for number, endpoint in enumerate(FORBIDDEN):
        stand.target(f"allowed-{number}", bucket="first", endpoint=endpoint)
    for endpoint in MALFORMED:
        body = {"name": "x", "kind": "s3", "config": {"bucket": "first", "endpoint": endpoint}}
        assert stand.service.client.post("/admin/storage-targets", json=body).status_code == 400
    stand.service.kill()


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({}, "config.bucket"),
        ({"bucket": "a/b"}, "config.bucket"),
        ({"bucket": 7}, "config.bucket"),
        ({"bucket": "first", "prefix": "a/../b"}, "config.prefix"),
        ({"bucket": "first", "prefix": "a b"}, "config.prefix"),
        ({"bucket": "first", "secretAccessKey": ["hunter7"]}, "config.secretAccessKey"),
    ],
)
def test_a_config_that_names_no_place_is_refused(config: dict[str, object], named: str, stand: RemoteStand) -> None:
    answer = stand.service.client.post("/admin/storage-targets", json={"name": "x", "kind": "s3", "config": config})

    assert (answer.status_code, named in answer.text) == (400, True), answer.text


def test_the_service_is_not_ready_while_its_bucket_cannot_be_read(
    s3: S3, new_stand: Callable[..., RemoteStand]
) -> None:
    stand = new_stand(**s3.settings())
    with s3.proxy.fault("503", "GET", "PUT", "HEAD", "LIST", within="/first/.timestore-probe"):
        red = stand.service.client.get("/ready")
    assert red.status_code == 503
    details = red.json()["details"]
    assert {name for name, one in details.items() if one["status"] == "down"} == {"storage"}
    wait_until(lambda: stand.service.client.get("/ready").status_code == 200, "the service to be ready again")
    stand.service.kill()


@pytest.mark.parametrize("mode", ["fetched", "streamed"])
def test_a_target_in_use_that_refuses_connections_is_named_by_readiness_and_by_queries(
    mode: str, s3: S3, new_stand: Callable[..., RemoteStand]
) -> None:
    proxy = FaultProxy(s3.proxy.store, s3.proxy.keys)
    stand = new_stand(**({"TIMESTORE_QUERY_FETCH_BELOW_BYTES": "0"} if mode == "streamed" else {}))
    own = {"accessKeyId": SECOND.id, "secretAccessKey": SECOND.secret, "endpoint": proxy.url, "forcePathStyle": True}
    far = stand.target("far-away", bucket="second", prefix=f"away-{mode}", **own)
    ingest(stand.service, "away", batch([1, 2]) | {"storageTargetId": far})
    numbers(stand.service, "near", [1])
    # Which targets are in use is looked up when it starts.
    assert stand.service.stop() == 0
    stand.service.start()
    proxy.go()

    red = stand.service.client.get("/ready")
    refused = stand.service.query("away", {"timeRange": ALL_TIME})

    assert (red.status_code, "far-away" in red.json()["details"]["storage"]["message"]) == (503, True), red.text
    assert (refused.status_code, "far-away" in refused.json()["message"]) == (503, True), refused.text
    assert numbers_of(stand.service, "near") == [1]
    stand.recorder.check()
    stand.service.kill()


def test_no_secret_is_told_by_any_answer_log_or_command(s3: S3, new_stand: Callable[..., RemoteStand]) -> None:
    """The store's own errors repeat every secret here, see the proxy."""
    stand = new_stand(**s3.settings(), TIMESTORE_LOG_LEVEL="debug")
    own = {"accessKeyId": SECOND.id, "secretAccessKey": SECOND.secret, "sessionToken": "token-hunter6"}
    wrong = stand.target("wrong", bucket="first", prefix="told", **own)
    numbers(stand.service, "told", [1], [2])
    assert stand.service.ingest("told", batch([3]) | {"storageTargetId": wrong}).status_code == 503
    listed = ask(stand.service, "GET", "/admin/storage-targets")["storageTargets"]
    assert MARK not in json.dumps(listed)
    assert next(one for one in listed if one["name"] == "wrong")["config"]["secretAccessKey"]
    for path in ("/admin/audit", "/ready", "/admin/datasets/told/manifest", "/openapi.json"):
        httpx.Response.raise_for_status(stand.service.client.get(path))
    stand.service.client.post("/admin/storage-targets", json={"name": "x", "kind": "s3", "config": own})
    stand.recorder.check()
    assert stand.recorder.count >= 8

    bad = {"TIMESTORE_S3_SECRET_ACCESS_KEY": "stale-hunter5"}
    for settings in (stand.settings | bad, stand.settings):
        broken = RemoteStand(stand.service, stand.root, settings, stand.recorder)
        for command in (["verify", "--deep"], ["doctor"], ["lifecycle", "run", "told"], ["settings"]):
            done = broken.command(*command)
            assert MARK not in done.stdout + done.stderr, command
            if settings is not stand.settings and command[0] in ("verify", "doctor"):
                assert done.returncode != 0, done.stdout
    stand.service.kill()
