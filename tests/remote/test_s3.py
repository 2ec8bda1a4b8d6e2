"""A dataset's whole life in a bucket: written, read, compacted, exported, collected, moved and deleted there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.contract.test_recorded_exchanges import CORRECTED, EXCHANGES, differences, replay
from tests.integration.maintenance import (
    Json,
    ask,
    changed,
    hard_batch,
    head,
    ingest,
    numbers,
    outcome,
    policy,
    run,
)
from tests.remote.conftest import FIRST, S3, SECOND, RemoteStand
from tests.remote.fault_proxy import Key
from tests.service import ALL_TIME, batch, numbers_of

pytestmark = pytest.mark.extended

MODES: dict[str, dict[str, str]] = {
    "fetched": {},
    "streamed": {"TIMESTORE_QUERY_FETCH_BELOW_BYTES": "0"},
    "without a cache": {"TIMESTORE_QUERY_CACHE_ENABLED": "false"},
}


@pytest.fixture(scope="module")
def stand(s3: S3, new_stand: Callable[..., RemoteStand]) -> RemoteStand:
    """A service with the first bucket as its default target."""
    return new_stand(**s3.settings())


@pytest.fixture(scope="module")
def local(new_stand: Callable[..., RemoteStand]) -> RemoteStand:
    """A service with a local default target, which knows of S3 only by its targets."""
    return new_stand()


def test_a_dataset_lives_its_whole_life_in_a_bucket(s3: S3, stand: RemoteStand) -> None:
    for number in range(8):
        ingest(stand.service, "life", hard_batch(number), f"key-{number}")
    again = stand.service.ingest("life", hard_batch(0), "key-0")
    assert (again.status_code, again.headers["idempotent-replayed"]) == (201, "true")
    assert s3.keys("first", "life/") == {one["filePath"] for one in head(stand.service, "life")["partitions"]}
    assert len(s3.keys("first", "life/")) == 8
    before = stand.answers("life")

    assert stand.service.stop() == 0
    shutil.rmtree(stand.cache)
    stand.service.start()
    assert changed(before, stand.answers("life")) == []
    assert stand.service.ingest("life", hard_batch(0), "key-0").headers["idempotent-replayed"] == "true"

    assert outcome(stand.service, "life", "compaction")["status"] == "completed"
    compacted = {one["filePath"] for one in head(stand.service, "life")["partitions"]}
    assert len(s3.keys("first", "life/")) == 8 + len(compacted) > len(compacted)
    assert changed(before, stand.answers("life")) == []
    assert outcome(stand.service, "life", "collection")["status"] == "completed"
    assert s3.keys("first", "life/") == compacted
    assert outcome(stand.service, "life", "parquetExport")["status"] == "completed"
    assert any(key.endswith(".parquet") for key in s3.keys("first") - compacted)
    assert outcome(stand.service, "life", "verification")["findings"] == []
    verified = stand.command("verify", "life", "--deep")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert changed(before, stand.answers("life")) == []

    policy(stand.service, "life")
    ask(stand.service, "POST", "/admin/datasets/life/archive")
    ask(stand.service, "DELETE", "/admin/datasets/life", confirm="life")
    swept = stand.command("lifecycle", "sweep", "--json")
    assert (swept.returncode, json.loads(swept.stdout)["deletedDatasets"]) == (0, ["life"]), swept.stderr
    assert s3.keys("first", "life/") == set()


def test_what_is_missing_or_altered_in_the_bucket_is_found(s3: S3, stand: RemoteStand) -> None:
    lost, altered = numbers(stand.service, "damaged", [1], [2])
    content = s3.client.get_object(Bucket="first", Key=altered["filePath"])["Body"].read()
    half = len(content) // 2
    spoiled = content[:half] + bytes([content[half] ^ 0xFF]) + content[half + 1 :]
    s3.client.put_object(Bucket="first", Key=altered["filePath"], Body=spoiled)
    s3.client.delete_object(Bucket="first", Key=lost["filePath"])

    verified = stand.command("verify", "damaged", "--deep")
    assert verified.returncode == 1
    assert lost["id"] in verified.stdout + verified.stderr
    assert altered["id"] in verified.stdout + verified.stderr
    only_lost = {"timeRange": {"start": "2024-01-01T00:00:01Z", "end": "2024-01-01T00:00:01Z"}}
    answer = stand.service.query("damaged", only_lost)
    assert (answer.status_code, answer.json()["code"]) == (500, "partition_unreadable")
    only_altered = {"timeRange": {"start": "2024-01-01T00:00:02Z", "end": "2024-01-01T00:00:02Z"}}
    assert stand.service.query("damaged", only_altered).status_code in (500, 503)


@pytest.fixture(scope="module")
def expected(local: RemoteStand) -> dict[str, bytes]:
    """The answers over nine batches on the local disk."""
    for number in range(9):
        ingest(local.service, "spread", hard_batch(number))
    return local.answers("spread")


@pytest.mark.parametrize("mode", MODES)
def test_one_dataset_on_three_targets_answers_as_one(
    mode: str, s3: S3, new_stand: Callable[..., RemoteStand], expected: dict[str, bytes]
) -> None:
    """The default one with the keys of the settings, another with its own, and a local one."""
    remote, prefix = new_stand(**s3.settings(), **MODES[mode]), f"spread/{mode.split()[0]}"
    second = remote.target(
        "second", bucket="second", prefix=prefix, accessKeyId=SECOND.id, secretAccessKey=SECOND.secret
    )
    beside = remote.target("beside", "local", root=str(remote.root / "beside"))
    for number in range(9):
        target = [None, second, beside][number % 3]
        more = {} if target is None else {"storageTargetId": target}
        ingest(remote.service, "spread", hard_batch(number) | more)
    asked, refused = s3.proxy.requests("GET", "first"), s3.proxy.refused

    assert changed(expected, remote.answers("spread")) == []
    assert s3.proxy.requests("GET", "first") > asked
    assert s3.proxy.refused == refused
    assert {one["storageTargetId"] for one in head(remote.service, "spread")["partitions"]} >= {second, beside}
    assert len(s3.keys("second", f"{prefix}/spread/")) == 3
    assert len(remote.files(remote.root / "beside")) == 3
    # What was fetched stays, and answers without the store; what was streamed or fetched in passing leaves nothing.
    assert len(remote.cached()) == (6 if mode == "fetched" else 0)
    asked = s3.proxy.requests("GET", "first")
    assert every_row(remote, "spread") == expected["all rows"]
    if mode == "fetched":
        assert s3.proxy.requests("GET", "first") == asked
    assert list(remote.root.rglob("fetched/*")) == []
    remote.service.kill()


def every_row(stand: RemoteStand, slug: str) -> bytes:
    """Every row, in the order of the answer."""
    answer = stand.service.query(slug, {"timeRange": ALL_TIME})
    assert answer.status_code == 200, answer.text
    return answer.content


def test_parquet_partitions_are_written_to_the_bucket_and_read_from_it(s3: S3, stand: RemoteStand) -> None:
    ask(stand.service, "POST", "/admin/datasets", {"slug": "columns", "writeFormat": "parquet"}, status=201)
    numbers(stand.service, "columns", [1], [2], [3])
    ask(stand.service, "PATCH", "/admin/datasets/columns", {"writeFormat": "duckdb"})
    numbers(stand.service, "columns", [4])

    assert sorted(key.rpartition(".")[2] for key in s3.keys("first", "columns/")) == ["duckdb"] + ["parquet"] * 3
    assert numbers_of(stand.service, "columns") == [1, 2, 3, 4]
    run(stand.service, "columns", "compaction", "collection")
    assert numbers_of(stand.service, "columns") == [1, 2, 3, 4]


def test_what_is_old_moves_from_the_disk_to_the_bucket(s3: S3, local: RemoteStand) -> None:
    config: Json = {"endpoint": s3.proxy.url, "forcePathStyle": True, "accessKeyId": FIRST.id}
    cold = local.target("cold", bucket="first", prefix="cold", secretAccessKey=FIRST.secret, **config)
    for number in range(4):
        ingest(local.service, "tiered", hard_batch(number))
    before = local.answers("tiered")
    policy(local.service, "tiered", coldStorageAfterHours=1, metadata={"coldStorageTargetId": cold})
    done = outcome(local.service, "tiered", "tiering")

    assert (done["status"], done["partitions"]) == ("completed", 4)
    assert {one["storageTargetId"] for one in head(local.service, "tiered")["partitions"]} == {cold}
    outcome(local.service, "tiered", "collection")
    assert local.files_of("tiered") == set()
    assert len(s3.keys("first", "cold/tiered/")) == 4
    assert changed(before, local.answers("tiered")) == []


@pytest.fixture(scope="module")
def replayed(s3: S3, new_stand: Callable[..., RemoteStand]) -> Iterator[dict[str, Any]]:
    """The recorded exchanges, answered by a service whose default target is a bucket that nothing else uses."""
    s3.client.create_bucket(Bucket="recorded")
    key = Key("recorded-key-id", "recorded-secret-hunter4", frozenset({"recorded"}))
    s3.proxy.keys[key.id] = key
    stand = new_stand(**s3.settings(key, "recorded"), TIMESTORE_LIFECYCLE_RETENTION_DELETE_GRACE_MINUTES="5")
    yield replay(stand.service)
    stand.service.kill()


def on_s3(recorded: Any, endpoint: str) -> Any:
    """What was recorded over a local directory, as it is over the bucket: its target has another kind and config."""
    if isinstance(recorded, list):
        return [on_s3(one, endpoint) for one in recorded]
    if not isinstance(recorded, dict):
        return recorded
    there: Json = {name: on_s3(value, endpoint) for name, value in recorded.items()}
    if there.get("kind") == "local":
        config = {"bucket": "recorded", "endpoint": endpoint}
        description = recorded["description"].replace("local", "s3")
        there |= {"kind": "s3", "name": "timestore-default-s3", "description": description, "config": config}
    return there


@pytest.mark.parametrize("exchange", EXCHANGES, ids=[one["name"] for one in EXCHANGES])
def test_recorded_requests_get_their_answers_over_a_bucket_too(
    exchange: Json, replayed: dict[str, Any], s3: S3
) -> None:
    answer = replayed[exchange["name"]]
    recorded = exchange["response"]["body"] | CORRECTED.get(exchange["name"], {})
    expected = on_s3(recorded, s3.proxy.url)
    if exchange["name"] == "admin storage targets kind":
        # It asks for those of kind s3, of which the recorded service had none.
        every = next(one for one in EXCHANGES if one["name"] == "admin storage targets")
        expected = on_s3(every["response"]["body"], s3.proxy.url)

    assert answer.status_code == exchange["response"]["status"], answer.text
    assert differences(expected, answer.json()) == []


def test_batches_for_a_bucket_are_plain_ingests(stand: RemoteStand) -> None:
    """An empty batch and one that is refused leave nothing behind."""
    assert stand.service.ingest("plain", batch([1, 2])).status_code == 201
    assert stand.service.ingest("plain", batch([3]) | {"rows": [{"timestamp": "warm"}]}).status_code == 400
    assert numbers_of(stand.service, "plain") == [1, 2]
