"""Versions of a dataset: kept by name, told apart, watched as they come, and brought back."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import httpx
import psycopg
import pytest

from tests.integration.maintenance import (
    Json,
    Stand,
    answers,
    ask,
    changed,
    changes,
    delete_rows,
    events,
    hard_batch,
    head,
    ingest,
    make_stand,
    numbers,
    outcome,
    policy,
    restore,
    run,
)
from tests.service import Service, batch, numbers_of, wait_until


@pytest.fixture(scope="module")
def stand(make_service: Callable[..., Service], postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Stand:
    return make_stand(make_service, postgres_url, tmp_path_factory.mktemp("versions"))


def test_a_pin_keeps_its_version_until_it_goes(stand: Stand) -> None:
    for number in range(12):
        ingest(stand.service, "pinned", hard_batch(number))
    policy(stand.service, "pinned")
    before, version = answers(stand.service, "pinned"), head(stand.service, "pinned")["version"]
    kept = {one["filePath"] for one in head(stand.service, "pinned")["partitions"]}
    made = ask(stand.service, "PUT", "/admin/datasets/pinned/pins/audit%202024", status=201)["pin"]
    delete_rows(stand.service, "pinned", "2024-01-01T00:00:00Z", "2024-01-15T00:00:00Z")
    run(stand.service, "pinned", "compaction", "collection")
    cut = answers(stand.service, "pinned")

    assert (made["name"], made["version"]) == ("audit 2024", version)
    assert stand.files_of("pinned") > kept
    assert changed(before, cut) != []
    assert changes(stand.service, "pinned", version)["version"] > version
    restore(stand.service, "pinned", version)
    assert changed(before, answers(stand.service, "pinned")) == []
    restore(stand.service, "pinned", version + 1, status=410)

    # The restored version names the same files: they stay for it even when the pin goes.
    ask(stand.service, "DELETE", "/admin/datasets/pinned/pins/audit%202024")
    run(stand.service, "pinned", "collection")
    assert stand.files_of("pinned") == kept
    assert changed(before, answers(stand.service, "pinned")) == []
    run(stand.service, "pinned", "compaction", "collection")
    assert stand.files_of("pinned") & kept == set()
    assert changed(before, answers(stand.service, "pinned")) == []
    assert events(stand.service, "pinned", "admin.version.pinned")[0]["name"] == "audit 2024"
    assert events(stand.service, "pinned", "admin.version.unpinned")[0]["version"] == version


def test_without_its_pin_a_version_is_gone_for_every_route(stand: Stand) -> None:
    first, second = numbers(stand.service, "gone", [1], [2])
    policy(stand.service, "gone")
    ask(stand.service, "PUT", "/admin/datasets/gone/pins/first", {"version": 1}, status=201)
    delete_rows(stand.service, "gone", "2024-01-01T00:00:01Z", "2024-01-01T00:00:01Z")
    run(stand.service, "gone", "collection")

    assert stand.files_of("gone") == {first["filePath"], second["filePath"]}
    assert changes(stand.service, "gone", 1)["removed"]["partitions"] == 1
    ask(stand.service, "DELETE", "/admin/datasets/gone/pins/first")
    run(stand.service, "gone", "collection")
    assert stand.files_of("gone") == {second["filePath"]}
    for answer in (
        restore(stand.service, "gone", 1, status=410),
        changes(stand.service, "gone", 1, status=410),
        ask(stand.service, "PUT", "/admin/datasets/gone/pins/again", {"version": 2}, status=410),
    ):
        assert (answer["code"], answer["details"]) == ("version_expired", {"readableFrom": 3})
    assert changes(stand.service, "gone", 0)["added"]["rows"] == 1


def test_pins_are_listed_moved_and_removed(stand: Stand) -> None:
    numbers(stand.service, "labelled", [1], [2])
    path = "/admin/datasets/labelled/pins"
    assert ask(stand.service, "GET", path)["pins"] == []
    headers = {"x-iam-user": "alice"}
    made = stand.service.client.put(f"{path}/b", json={"version": 1}, headers=headers)
    moved = ask(stand.service, "PUT", f"{path}/b", {"version": 2})
    ask(stand.service, "PUT", f"{path}/a", {}, status=201)

    assert made.status_code == 201
    assert made.json()["pin"]["createdBy"] == "alice"
    assert (moved["pin"]["version"], moved["pin"]["createdBy"]) == (2, None)
    assert [(one["name"], one["version"]) for one in ask(stand.service, "GET", path)["pins"]] == [("a", 2), ("b", 2)]
    assert ask(stand.service, "DELETE", f"{path}/b")["pin"]["name"] == "b"
    ask(stand.service, "DELETE", f"{path}/b", status=404)
    assert [one["name"] for one in ask(stand.service, "GET", path)["pins"]] == ["a"]


@pytest.mark.parametrize(
    ("name", "body", "status", "said"),
    [
        ("a", {"version": 0}, 400, "version"),
        ("a", {"version": 2**31}, 400, "version"),
        ("a", {"version": "1"}, 400, "version"),
        ("a", {"version": 1.5}, 400, "version"),
        ("a", {"version": 9}, 404, "has no version 9"),
        ("%20", {"version": 1}, 400, "name"),
        ("x" * 256, {"version": 1}, 400, "name"),
        ("a%0ab", {"version": 1}, 400, "name"),
    ],
)
def test_a_wrong_pin_is_refused(stand: Stand, name: str, body: Json, status: int, said: str) -> None:
    stand.service.ingest("refused", batch([1]), "key")
    answer = ask(stand.service, "PUT", f"/admin/datasets/refused/pins/{name}", body, status=status)

    assert said in answer["error"]
    assert ask(stand.service, "GET", "/admin/datasets/refused/pins")["pins"] == []


def test_a_dataset_without_a_version_has_none_to_keep(stand: Stand) -> None:
    ask(stand.service, "POST", "/admin/datasets", {"slug": "blank"}, status=201)

    ask(stand.service, "PUT", "/admin/datasets/blank/pins/now", status=404)
    restore(stand.service, "blank", 1, status=404)
    assert changes(stand.service, "blank", 0) | {"datasetId": None} == {
        "datasetId": None,
        "since": 0,
        "version": 0,
        "added": {"partitions": 0, "rows": 0, "items": []},
        "removed": {"partitions": 0, "rows": 0, "items": []},
    }


def test_changes_are_what_makes_one_version_the_other(stand: Stand) -> None:
    made = numbers(stand.service, "changing", [1], [2, 3], [4])
    run(stand.service, "changing", "compaction")
    (gathered,) = head(stand.service, "changing")["partitions"]

    def ids(found: Json, side: str) -> list[str]:
        assert found[side]["partitions"] == len(found[side]["items"])
        return sorted(one["id"] for one in found[side]["items"])

    everything, compaction, batches = (changes(stand.service, "changing", since) for since in (0, 3, 1))
    assert (ids(everything, "added"), ids(everything, "removed")) == ([gathered["id"]], [])
    assert (ids(compaction, "added"), ids(compaction, "removed")) == (
        [gathered["id"]],
        sorted(one["id"] for one in made),
    )
    assert (compaction["added"]["rows"], compaction["removed"]["rows"]) == (4, 4)
    # What came and went in between is in neither.
    assert (ids(batches, "added"), ids(batches, "removed")) == ([gathered["id"]], [made[0]["id"]])
    assert everything["added"]["items"] == [gathered]
    now = changes(stand.service, "changing", 4)
    assert (now["since"], now["version"], now["added"]["items"], now["removed"]["items"]) == (4, 4, [], [])
    assert changes(stand.service, "changing", 5, status=404)["error"].startswith("dataset changing has no version 5")


@pytest.mark.parametrize(
    ("asked", "path"),
    [
        ({}, "since"),
        ({"since": ""}, "since"),
        ({"since": "-1"}, "since"),
        ({"since": "x"}, "since"),
        ({"since": str(2**31)}, "since"),
        ({"since": "1", "wait": "31"}, "wait"),
        ({"since": "1", "wait": "-1"}, "wait"),
        ({"since": "1", "wait": "0.5"}, "wait"),
    ],
)
def test_wrong_parameters_of_changes_are_named(stand: Stand, asked: dict[str, str], path: str) -> None:
    stand.service.ingest("refused", batch([1]), "key")
    answer = ask(stand.service, "GET", "/admin/datasets/refused/changes", status=400, **asked)

    assert [one["path"] for one in answer["details"]] == [path]


def test_who_waits_gets_the_next_version_as_soon_as_it_comes(stand: Stand, postgres_url: str) -> None:
    numbers(stand.service, "watched", [1])
    begun = datetime.now(UTC)
    looked = "SELECT 1 FROM pg_stat_activity WHERE query LIKE %s AND query_start > %s"
    with ThreadPoolExecutor(1) as pool, psycopg.connect(postgres_url, autocommit=True) as watcher:
        waiting = pool.submit(changes, stand.service, "watched", 1, wait=30)
        wait_until(lambda: watcher.execute(looked, ["%AS came%", begun]).fetchone(), "the request to look")
        assert not waiting.done()
        (made,) = numbers(stand.service, "watched", [2])
        found = waiting.result(timeout=20)
    took_s = (datetime.now(UTC) - begun).total_seconds()

    assert (found["since"], found["version"]) == (1, 2)
    assert [one["id"] for one in found["added"]["items"]] == [made["id"]]
    assert took_s < 20
    # What is there already is not waited for, and what does not come is waited for until the time is over.
    assert changes(stand.service, "watched", 1, wait=30)["version"] == 2
    begun_s = time.monotonic()
    assert changes(stand.service, "watched", 2, wait=1)["version"] == 2
    assert time.monotonic() - begun_s >= 1


def test_a_few_may_wait_and_the_others_are_answered_at_once(stand: Stand) -> None:
    numbers(stand.service, "crowded", [1])

    def wait(_: int) -> float:
        begun_s = time.monotonic()
        with httpx.Client(base_url=stand.service.base, timeout=60) as client:
            answer = client.get("/admin/datasets/crowded/changes", params={"since": 1, "wait": 3})
        assert (answer.status_code, answer.json()["version"]) == (200, 1)
        return time.monotonic() - begun_s

    with ThreadPoolExecutor(8) as pool:
        took_s = sorted(pool.map(wait, range(8)))

    assert took_s[3] < 3 <= took_s[4]


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"version": 0}, 400, "version"),
        ({"version": -1}, 400, "version"),
        ({"version": "1"}, 400, "version"),
        ({"dryRun": True}, 400, "version"),
        ({"version": 1, "dryRun": "no"}, 400, "dryRun"),
        ({"version": 7}, 404, "has no version 7"),
        ({"version": 1}, 409, "same partitions"),
    ],
)
def test_a_wrong_restore_is_refused(stand: Stand, body: Json, status: int, said: str) -> None:
    stand.service.ingest("refused", batch([1]), "key")
    answer = ask(stand.service, "POST", "/admin/datasets/refused/restore", body, status=status)

    assert said in answer["error"]


def test_versions_go_back_and_forth_over_the_same_files(stand: Stand) -> None:
    numbers(stand.service, "forth", [1], [2])
    run(stand.service, "forth", "compaction")
    delete_rows(stand.service, "forth", "2024-01-01T00:00:02Z", "2024-01-01T00:00:02Z")
    before = stand.files_of("forth")
    seen = {
        version: (restore(stand.service, "forth", version), numbers_of(stand.service, "forth"))[1]
        for version in (2, 4, 1)
    }

    assert seen == {2: [1, 2], 4: [1], 1: [1]}
    assert stand.files_of("forth") == before
    policy(stand.service, "forth")
    numbers(stand.service, "forth", [5])
    outcome(stand.service, "forth", "collection")
    assert numbers_of(stand.service, "forth") == [1, 5]
    named = {one["filePath"] for one in head(stand.service, "forth")["partitions"]}
    assert stand.files_of("forth") == named
    assert all((stand.root / Path(one)).is_file() for one in named)
    assert outcome(stand.service, "forth", "verification")["findings"] == []
