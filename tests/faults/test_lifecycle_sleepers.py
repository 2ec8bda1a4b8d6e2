"""A writer that is stopped between its file and its commit, for so long that the file is taken for a leftover."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import httpx
import pytest

from tests.faults.hinder import Hinder, make_hinder
from tests.faults.lifecycle_stand import LifecycleStand, make_lifecycle_stand, measured
from tests.service import Service

FIRST_MINUTE = {"start": "2024-01-01T00:00:00Z", "end": "2024-01-01T00:00:59Z"}
HOURS_7_S = 7 * 3600
# Half of TIMESTORE_LIFECYCLE_ORPHAN_AGE_MINUTES, and a minute.
A_LITTLE_TOO_LONG_S = (360 / 2 + 1) * 60


@dataclass(frozen=True)
class Sleeper:
    stand: LifecycleStand
    hinder: Hinder


@pytest.fixture(scope="module")
def sleeper(
    make_service: Callable[..., Service], postgres_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Sleeper]:
    home = tmp_path_factory.mktemp("sleeper")
    hinder = make_hinder(home / "hinder")
    stand = make_lifecycle_stand(make_service, postgres_url, home, **hinder.settings)
    stand.service.start()
    stand.admin("POST", "storage-targets", {"name": "cold", "kind": "local", "config": {"root": str(stand.cold)}})
    yield Sleeper(stand, hinder)
    stand.service.kill()


def act(stand: LifecycleStand, operation: str, slug: str) -> httpx.Response:
    if operation == "ingest":
        return stand.service.ingest(slug, measured(160), "key")
    if operation == "deletion":
        body = {"timeRange": FIRST_MINUTE}
        return stand.service.client.post(f"/admin/datasets/{slug}/delete-rows", json=body)
    body = {"datasetSlug": slug, "operations": [operation]}
    return stand.service.client.post("/admin/lifecycle/run", json=body)


@pytest.mark.parametrize(
    ("operation", "for_s"),
    [
        ("ingest", A_LITTLE_TOO_LONG_S),
        ("ingest", HOURS_7_S),
        ("compaction", A_LITTLE_TOO_LONG_S),
        ("tiering", A_LITTLE_TOO_LONG_S),
        ("deletion", A_LITTLE_TOO_LONG_S),
    ],
)
def test_a_writer_that_slept_until_its_file_was_collected_writes_it_anew_and_publishes_once(
    sleeper: Sleeper, operation: str, for_s: float
) -> None:
    stand, hinder, slug = sleeper.stand, sleeper.hinder, f"slept-{operation}-{for_s:.0f}"
    twin = f"awake-{operation}-{for_s:.0f}"
    for one in (slug, twin):
        stand.ingest(one, 0, batches=4)
        (cold,) = (one for one in stand.admin("GET", "storage-targets")["storageTargets"] if one["name"] == "cold")
        policy = {"coldStorageAfterHours": 1, "metadata": {"coldStorageTargetId": cold["id"]}}
        stand.admin("PUT", f"datasets/{one}/retention", {**policy, "mode": "size", "deleteGraceMinutes": 0})
    assert act(stand, operation, twin).status_code in (200, 201)
    before, version = stand.answers(slug), stand.version(slug)
    known = stand.stored(slug)
    hinder.arm(f"{operation}.file_stored", for_s)
    with ThreadPoolExecutor(1) as pool, hinder.letting_go_at_last():
        asleep = pool.submit(act, stand, operation, slug)
        hinder.wait_until_held()
        (written,) = stand.stored(slug) - known
        # Nobody can know by then that somebody is about to name the file.
        stand.age()
        swept = stand.command("lifecycle", "sweep")
        assert (swept.returncode, written.exists()) == (0, False), swept
        assert stand.answers(slug) == before
        hinder.let_go()
        answer = asleep.result()

    assert answer.status_code in (200, 201), answer.text
    if operation == "tiering":
        # It moves what it can, and the next run moves what is left.
        (moved,) = answer.json()["report"]["operations"]
        assert (moved["partitions"], stand.version(slug) - version) == (3, 3)
        assert act(stand, operation, slug).json()["report"]["operations"][0]["partitions"] == 1
    assert stand.version(slug) - version == stand.version(twin) - 4
    assert stand.answers(slug) == stand.answers(twin)
    stand.assert_whole(slug)
    stand.assert_nothing_leaks(slug)
    stand.assert_whole(slug)


def test_a_writer_whose_temporary_file_was_swept_while_it_slept_says_so_and_its_retry_publishes_once(
    sleeper: Sleeper,
) -> None:
    stand, hinder, slug = sleeper.stand, sleeper.hinder, "swept"
    stand.ingest(slug, 0, batches=4)
    hinder.arm("ingest.file_written", HOURS_7_S)
    with ThreadPoolExecutor(1) as pool, hinder.letting_go_at_last():
        asleep = pool.submit(act, stand, "ingest", slug)
        hinder.wait_until_held()
        stand.age()
        assert stand.command("lifecycle", "sweep").returncode == 0
        assert stand.all_staged() == []
        hinder.let_go()
        lost = asleep.result()

    assert lost.status_code == 503
    assert stand.version(slug) == 4
    assert act(stand, "ingest", slug).status_code == 201
    assert stand.version(slug) == 5
    stand.assert_whole(slug)
    stand.assert_nothing_leaks(slug)


def test_a_file_counts_as_new_when_it_is_stored_however_long_its_writer_slept_before(sleeper: Sleeper) -> None:
    stand, hinder, slug = sleeper.stand, sleeper.hinder, "late"
    stand.ingest(slug, 0, batches=4)
    known = stand.stored(slug)
    hinder.arm("ingest.file_written", HOURS_7_S)
    with ThreadPoolExecutor(1) as pool, hinder.letting_go_at_last():
        asleep = pool.submit(act, stand, "ingest", slug)
        hinder.wait_until_held()
        stand.age()
        hinder.let_go()
        hinder.arm("ingest.file_stored")
        hinder.wait_until_held()
        (written,) = stand.stored(slug) - known
        swept = stand.command("lifecycle", "sweep")
        assert (swept.returncode, written.exists()) == (0, True), swept
        hinder.let_go()
        answer = asleep.result()

    assert answer.status_code == 201
    assert stand.version(slug) == 5
    stand.assert_whole(slug)
    stand.assert_nothing_leaks(slug)
