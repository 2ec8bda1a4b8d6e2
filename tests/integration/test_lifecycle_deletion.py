"""Rows of a time range are taken out of the next version, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.integration.maintenance import (
    Json,
    Stand,
    answers,
    ask,
    changes,
    delete_rows,
    events,
    hard_batch,
    head,
    ingest,
    make_stand,
    numbers,
    policy,
    restore,
    run,
)
from tests.service import ALL_TIME, Service, batch, numbers_of


@pytest.fixture(scope="module")
def stand(make_service: Callable[..., Service], postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Stand:
    return make_stand(make_service, postgres_url, tmp_path_factory.mktemp("versions"))


def test_rows_of_a_range_go_from_whole_and_from_cut_partitions(stand: Stand) -> None:
    made = numbers(stand.service, "cut", [0, 10], [20, 30], [40, 50], [60])
    before = head(stand.service, "cut")
    preview = delete_rows(stand.service, "cut", "2024-01-01T00:00:10Z", "2024-01-01T00:00:40Z", dryRun=True)

    assert {(one["id"], one["rows"], one["of"], one["reason"]) for one in preview["partitions"]} == {
        (made[0]["id"], 1, 2, "is rewritten without them"),
        (made[1]["id"], 2, 2, "lies wholly in the range"),
        (made[2]["id"], 1, 2, "is rewritten without them"),
    }
    assert (preview["dryRun"], preview["rows"], preview["version"]) == (True, 4, 4)
    assert preview["bytes"] == sum(one["fileSizeBytes"] for one in made[:3])
    assert head(stand.service, "cut") == before
    done = delete_rows(stand.service, "cut", "2024-01-01T00:00:10Z", "2024-01-01T00:00:40Z")

    assert {**done, "dryRun": True, "version": 4} == preview
    assert numbers_of(stand.service, "cut") == [0, 50, 60]
    after = head(stand.service, "cut")
    assert (after["version"], after["partitionCount"], after["totalRows"]) == (done["version"], 3, 3)
    assert after["totalBytes"] == sum(one["fileSizeBytes"] for one in after["partitions"])
    (payload,) = events(stand.service, "cut", "admin.rows.deleted")
    assert (payload["rowCount"], len(payload["partitionIds"])) == (4, 3)
    assert changes(stand.service, "cut", 4)["removed"]["partitions"] == 3
    restore(stand.service, "cut", 4)
    assert numbers_of(stand.service, "cut") == [0, 10, 20, 30, 40, 50, 60]
    assert {one["filePath"] for one in head(stand.service, "cut")["partitions"]} == {one["filePath"] for one in made}


def test_only_partitions_of_the_key_are_meant(stand: Stand) -> None:
    for number in range(16):
        ingest(stand.service, "by-key", hard_batch(number))
    before = answers(stand.service, "by-key")
    accepted: dict[str, list[str]] = {"site": ["North", "south"], "window": ["w1", "nowhere"]}
    done = delete_rows(stand.service, "by-key", ALL_TIME["start"], ALL_TIME["end"], filters={"partitionKey": accepted})

    assert {str(one["partitionKey"]) for one in done["partitions"]} == {str({"site": "south", "window": "w1"})}
    sent = [row for number in range(2, 16, 4) for row in hard_batch(number)["rows"]]
    assert done["rows"] == sum(row["timestamp"] is not None for row in sent)
    after = answers(stand.service, "by-key")
    for accepted_before in ("of {'site': ['north']}", "of {'site': ['North']}", "of {'window': ['w2', 'nowhere']}"):
        assert after[accepted_before] == before[accepted_before]
    # Rows without a time are in no range: they stay.
    assert head(stand.service, "by-key")["totalRows"] == 16 * 20 - done["rows"]


def test_by_another_time_column_and_to_the_microsecond(stand: Stand) -> None:
    fields = [{"name": "timestamp", "type": "timestamp"}, {"name": "n", "type": "integer"}]
    made = batch([], schema={"fields": [*fields, {"name": "seen", "type": "timestamp"}]})
    seen = ["2024-05-05T05:05:05.000001Z", "2024-05-05T05:05:05.000002Z", "2024-05-05T05:05:05.000003Z", None]
    made["rows"] = [{"timestamp": "2024-01-01T00:00:00Z", "n": at, "seen": one} for at, one in enumerate(seen)]
    ingest(stand.service, "seen", made)
    numbers(stand.service, "seen", [9])
    done = delete_rows(
        stand.service, "seen", "2024-05-05T05:05:05.000002Z", "2024-05-05T07:05:05.000002+02:00", timestampColumn="seen"
    )

    assert done["rows"] == 1
    assert numbers_of(stand.service, "seen") == [0, 2, 3, 9]


def test_what_is_in_no_partition_makes_no_version(stand: Stand) -> None:
    numbers(stand.service, "nothing", [1])
    for more in ({}, {"filters": {"partitionKey": {"window": ["other"]}}}, {"filters": {"partitionKey": {"x": ["w"]}}}):
        start = "2025-01-01T00:00:00Z" if not more else ALL_TIME["start"]
        done = delete_rows(stand.service, "nothing", start, ALL_TIME["end"], **more)
        assert (done["rows"], done["partitions"], done["version"]) == (0, [], 1)
    assert head(stand.service, "nothing")["version"] == 1
    assert events(stand.service, "nothing", "admin.rows.deleted") == []


def test_all_rows_may_go(stand: Stand) -> None:
    made = numbers(stand.service, "all", [1], [2])
    policy(stand.service, "all")
    done = delete_rows(stand.service, "all", ALL_TIME["start"], ALL_TIME["end"])
    run(stand.service, "all", "collection")

    assert [one["id"] for one in done["partitions"]] == [one["id"] for one in made]
    assert (numbers_of(stand.service, "all"), stand.files_of("all")) == ([], set())
    numbers(stand.service, "all", [3])
    assert numbers_of(stand.service, "all") == [3]


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({}, "body"),
        ({"timeRange": {"start": "2024-01-01T00:00:00Z"}}, "timeRange"),
        ({"timeRange": {"start": "2024-01-02T00:00:00Z", "end": "2024-01-01T00:00:00Z"}}, "timeRange.end"),
        ({"timeRange": {"start": "yesterday", "end": "2024-01-01T00:00:00Z"}}, "timeRange.start"),
        ({"timeRange": ALL_TIME, "timestampColumn": "n"}, "timestampColumn"),
        ({"timeRange": ALL_TIME, "timestampColumn": "nowhere"}, "timestampColumn"),
        ({"timeRange": ALL_TIME, "filters": {"partitionKey": {"window": "w"}}}, "filters.partitionKey.window"),
        ({"timeRange": ALL_TIME, "dryRun": 1}, "dryRun"),
    ],
)
def test_a_wrong_deletion_names_its_field_and_deletes_nothing(stand: Stand, body: Json, path: str) -> None:
    stand.service.ingest("refused", batch([1]), "key")
    answer = ask(stand.service, "POST", "/admin/datasets/refused/delete-rows", body, status=400)

    assert [one["path"] for one in answer["details"]] == [path]
    assert numbers_of(stand.service, "refused") == [1]


@pytest.mark.parametrize(
    "body",
    [
        # A filter that is mistyped must not delete more than was meant.
        {"timeRange": ALL_TIME, "filter": {"partitionKey": {"window": ["x"]}}},
        {"timeRange": ALL_TIME, "filters": {"partitionkey": {"window": ["x"]}}},
        {"timeRange": ALL_TIME, "dryrun": True},
    ],
)
def test_a_field_that_a_deletion_does_not_know_is_refused(stand: Stand, body: Json) -> None:
    stand.service.ingest("refused", batch([1]), "key")
    ask(stand.service, "POST", "/admin/datasets/refused/delete-rows", body, status=400)

    assert numbers_of(stand.service, "refused") == [1]


def test_a_key_of_deleted_rows_brings_nothing_back(stand: Stand) -> None:
    ingest(stand.service, "keyed", batch([1, 2]), "key")
    delete_rows(stand.service, "keyed", "2024-01-01T00:00:01Z", "2024-01-01T00:00:01Z")
    again = stand.service.ingest("keyed", batch([1, 2]), "key")

    assert (again.status_code, again.headers["idempotent-replayed"]) == (201, "true")
    assert numbers_of(stand.service, "keyed") == [2]


def test_a_partition_that_cannot_be_read_stops_the_deletion(stand: Stand) -> None:
    made = numbers(stand.service, "unreadable", [1, 2], [3, 4])
    path = stand.root / made[1]["filePath"]
    content = path.read_bytes()
    path.write_bytes(content[:1000])
    answer = delete_rows(stand.service, "unreadable", "2024-01-01T00:00:02Z", "2024-01-01T00:00:03Z", status=500)

    assert answer["code"] == "partition_unreadable"
    assert made[1]["id"] in answer["error"]
    path.write_bytes(content)
    assert numbers_of(stand.service, "unreadable") == [1, 2, 3, 4]
    assert stand.files_of("unreadable") == {one["filePath"] for one in made}


def test_deletions_batches_and_compactions_at_once_lose_and_keep_nothing_wrong(stand: Stand) -> None:
    slug = "at-once"
    numbers(stand.service, slug, [1000])
    policy(stand.service, slug)

    def write_and_maybe_delete(number: int) -> None:
        (made,) = numbers(stand.service, slug, [number])
        moment = {"start": made["startTime"], "end": made["endTime"]}
        while number % 2 == 0:
            answer = stand.service.client.post(f"/admin/datasets/{slug}/delete-rows", json={"timeRange": moment})
            if answer.status_code == 200:
                assert answer.json()["rows"] == 1
                return
            assert (answer.status_code, answer.json()["code"]) == (409, "overtaken")

    def maintain(_: int) -> set[str]:
        return {one["status"] for one in run(stand.service, slug, "compaction", "collection")["operations"]}

    with ThreadPoolExecutor(5) as pool:
        writing = [pool.submit(write_and_maybe_delete, number) for number in range(50)]
        maintaining = [pool.submit(maintain, number) for number in range(10)]
        for one in writing:
            one.result()
        statuses = set[str]().union(*(one.result() for one in maintaining))

    assert statuses <= {"completed", "skipped"}
    assert numbers_of(stand.service, slug) == [*range(1, 50, 2), 1000]
    assert sum(one["rowCount"] for one in events(stand.service, slug, "admin.rows.deleted")) == 25
    assert stand.command("verify", slug, "--deep").returncode == 0
