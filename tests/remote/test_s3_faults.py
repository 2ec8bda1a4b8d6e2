"""A store that fails in every way a network can: answers are right or a clear refusal, never short, never wrong."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.integration.maintenance import changed, hard_batch, head, ingest, numbers, outcome
from tests.remote.conftest import S3, RemoteStand
from tests.remote.fault_proxy import Kind, Operation
from tests.service import ALL_TIME, batch, numbers_of

pytestmark = pytest.mark.extended

MODES = ["fetched", "streamed"]
PASSING: list[tuple[Kind, int | None]] = [
    ("500", 2),
    ("503", 2),
    ("cut", 1),
    ("reset", 2),
    ("altered", 1),
    ("slow", None),
]
LASTING: list[Kind] = ["500", "503", "cut", "reset", "altered"]


@pytest.fixture(scope="module")
def stands(s3: S3, new_stand: Callable[..., RemoteStand]) -> dict[str, RemoteStand]:
    """One service that fetches what it reads, and one that streams it."""
    streaming = {"TIMESTORE_QUERY_FETCH_BELOW_BYTES": "0"}
    return {mode: new_stand(**s3.settings(), **(streaming if mode == "streamed" else {})) for mode in MODES}


def make_dataset(stand: RemoteStand, slug: str) -> None:
    for number in range(3):
        ingest(stand.service, slug, batch(list(range(number * 10, number * 10 + 10))))


def asked(stand: RemoteStand, slug: str) -> httpx.Response:
    return stand.service.query(slug, {"timeRange": ALL_TIME})


def refusal(answer: httpx.Response) -> tuple[int, Any]:
    return answer.status_code, answer.json().get("code")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("kind", "times"), PASSING)
def test_a_fault_that_passes_is_not_noticed(
    kind: Kind, times: int | None, mode: str, s3: S3, stands: dict[str, RemoteStand]
) -> None:
    slug = f"passing-{kind}-{mode}"
    make_dataset(stands[mode], slug)
    with s3.proxy.fault(kind, "GET", within=slug, times=times) as fault:
        found = asked(stands[mode], slug)

    assert found.status_code == 200, found.text
    assert sorted(row["n"] for row in found.json()["rows"]) == list(range(30))
    assert fault.struck > 0
    assert numbers_of(stands[mode].service, slug) == list(range(30))


@pytest.fixture(scope="module")
def lasting(s3: S3, stands: dict[str, RemoteStand]) -> dict[tuple[Kind, str], httpx.Response]:
    """What a query answers during each fault that does not end. All at once: each is tried for many seconds."""
    cases = [(kind, mode) for kind in LASTING for mode in MODES]
    for kind, mode in cases:
        make_dataset(stands[mode], f"lasting-{kind}-{mode}")

    def ask_for(case: tuple[Kind, str]) -> httpx.Response:
        kind, mode = case
        with s3.proxy.fault(kind, "GET", within=f"lasting-{kind}-{mode}"):
            return asked(stands[mode], f"lasting-{kind}-{mode}")

    with ThreadPoolExecutor(len(cases)) as pool:
        return dict(zip(cases, pool.map(ask_for, cases), strict=True))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", LASTING)
def test_a_fault_that_lasts_is_a_503_until_it_ends(
    kind: Kind, mode: str, stands: dict[str, RemoteStand], lasting: dict[tuple[Kind, str], httpx.Response]
) -> None:
    """Every answer while it lasts is a refusal or right; afterwards all of them are right, without a restart."""
    found = lasting[kind, mode]
    if found.status_code == 200:
        # A byte that is wrong in a block that nobody needs is not noticed.
        assert (kind, mode) == ("altered", "streamed")
        assert sorted(row["n"] for row in found.json()["rows"]) == list(range(30))
    else:
        assert refusal(found) == (503, "unavailable"), found.text
        assert "timestore-default-s3" in found.json()["message"]
        assert int(found.headers["retry-after"]) > 0

    assert numbers_of(stands[mode].service, f"lasting-{kind}-{mode}") == list(range(30))


@pytest.mark.parametrize(
    ("kind", "operations"),
    [
        ("500", ("PUT",)),
        ("reset", ("PUT",)),
        ("swallowed", ("PUT",)),
        ("forgotten", ("PUT",)),
        ("503", ("HEAD",)),
    ],
)
def test_a_batch_is_acknowledged_only_where_it_is_there_whole(
    kind: Kind, operations: tuple[Operation, ...], s3: S3, stands: dict[str, RemoteStand]
) -> None:
    stand, slug = stands["fetched"], f"written-{kind}-{operations[0].lower()}"
    make_dataset(stand, slug)
    with s3.proxy.fault(kind, *operations, within=slug) as fault:
        lasting = stand.service.ingest(slug, batch([100]), "lasting")
    assert fault.struck > 0
    with s3.proxy.fault(kind, *operations, within=slug, times=1) as fault:
        passing = stand.service.ingest(slug, batch([200]), "passing")
    assert fault.struck == 1

    expected = list(range(30))
    for number, answer in ((100, lasting), (200, passing)):
        assert answer.status_code in (201, 503), answer.text
        if answer.status_code == 201:
            expected.append(number)
    assert numbers_of(stand.service, slug) == expected
    named = {one["filePath"]: one["fileSizeBytes"] for one in head(stand.service, slug)["partitions"]}
    assert named.keys() <= s3.keys("first", f"{slug}/")
    for key, size_bytes in named.items():
        assert s3.client.head_object(Bucket="first", Key=key)["ContentLength"] == size_bytes
    for number, key in ((100, "lasting"), (200, "passing")):
        assert stand.service.ingest(slug, batch([number]), key).status_code == 201
    assert numbers_of(stand.service, slug) == [*range(30), 100, 200]


def test_a_listing_that_lags_hides_nothing_and_deletes_nothing(s3: S3, stands: dict[str, RemoteStand]) -> None:
    stand = stands["fetched"]
    with s3.proxy.fault("lagging", "LIST"):
        for number in range(8):
            ingest(stand.service, "lagging", hard_batch(number))
        before = stand.answers("lagging")
        assert outcome(stand.service, "lagging", "compaction")["status"] == "completed"
        assert outcome(stand.service, "lagging", "collection")["status"] == "completed"
        assert outcome(stand.service, "lagging", "verification")["findings"] == []
        assert changed(before, stand.answers("lagging")) == []

    named = {one["filePath"] for one in head(stand.service, "lagging")["partitions"]}
    assert s3.keys("first", "lagging/") == named
    assert changed(before, stand.answers("lagging")) == []


@pytest.mark.parametrize("kind", ["500", "cut"])
def test_collection_deletes_nothing_after_a_listing_that_failed(
    kind: Kind, s3: S3, stands: dict[str, RemoteStand]
) -> None:
    stand, slug = stands["fetched"], f"collected-{kind}"
    numbers(stand.service, slug, [1], [2], [3])
    assert outcome(stand.service, slug, "compaction")["status"] == "completed"
    there = s3.keys("first", f"{slug}/")
    body = {"datasetSlug": slug, "operations": ["collection"]}
    with s3.proxy.fault(kind, "LIST"):
        failed = stand.service.client.post("/admin/lifecycle/run", json=body)
    assert failed.status_code == 503, failed.text
    assert s3.keys("first", f"{slug}/") == there
    assert numbers_of(stand.service, slug) == [1, 2, 3]

    assert outcome(stand.service, slug, "collection")["status"] == "completed"
    assert s3.keys("first", f"{slug}/") == {one["filePath"] for one in head(stand.service, slug)["partitions"]}
    assert numbers_of(stand.service, slug) == [1, 2, 3]


@pytest.mark.parametrize("mode", MODES)
def test_a_file_that_is_gone_is_said_to_be_gone(mode: str, s3: S3, stands: dict[str, RemoteStand]) -> None:
    slug = f"gone-{mode}"
    make_dataset(stands[mode], slug)
    (lost, *_) = head(stands[mode].service, slug)["partitions"]
    s3.client.delete_object(Bucket="first", Key=lost["filePath"])
    found = asked(stands[mode], slug)

    assert refusal(found) == (500, "partition_unreadable"), found.text
    assert found.json()["details"]["partitionId"] == lost["id"]
