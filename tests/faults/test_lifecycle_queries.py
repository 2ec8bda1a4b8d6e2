"""Queries while the files under them are gathered and collected without any grace: never short, never an error."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import httpx
import pytest

from tests.faults.hinder import Hinder, make_hinder
from tests.faults.lifecycle_stand import WAIT_S, LifecycleStand, make_lifecycle_stand
from tests.service import ALL_TIME, Service, batch

ROUNDS = 20
COUNT = {"timeRange": ALL_TIME, "downsample": {"intervalUnit": "day", "aggregations": [{"fn": "count"}]}}


@pytest.fixture(scope="module")
def stand(
    make_service: Callable[..., Service], postgres_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LifecycleStand]:
    # Two processes: what one of them collects the other one reads.
    home = tmp_path_factory.mktemp("hammered")
    made = make_lifecycle_stand(make_service, postgres_url, home, TIMESTORE_HTTP_WORKERS="2")
    made.service.start()
    yield made
    made.service.kill()


class Readers:
    """Threads that ask for everything again and again, and check that what was acknowledged before is there once."""

    def __init__(self, base: str, slug: str) -> None:
        self._base = base
        self._slug = slug
        self.acknowledged = 0
        self.over = threading.Event()
        self.answered = 0

    def read(self) -> None:
        with httpx.Client(base_url=self._base, timeout=60) as client:
            while not self.over.is_set():
                at_least = self.acknowledged
                answer = client.post(f"/datasets/{self._slug}/query", json={"timeRange": ALL_TIME})
                assert answer.status_code == 200, answer.text
                seen = [row["n"] for row in answer.json()["rows"]]
                assert seen == list(range(len(seen)))
                assert len(seen) >= at_least
                self.answered += 1


def test_queries_in_a_storm_of_compactions_and_collections_are_all_answered_right(stand: LifecycleStand) -> None:
    slug, number = "storm", 0
    stand.service.ingest(slug, batch([0]))
    readers = Readers(stand.service.base, slug)
    readers.acknowledged = 1

    def alive(reading: list[Future[None]]) -> None:
        for one in reading:
            if one.done():
                one.result()

    with ThreadPoolExecutor(4) as pool:
        reading = [pool.submit(readers.read) for _ in range(4)]
        try:
            for number in range(ROUNDS):
                for row in range(1 + number * 3, 4 + number * 3):
                    assert stand.service.ingest(slug, batch([row])).status_code == 201
                    readers.acknowledged = row + 1
                done = stand.maintain(slug, "compaction", "collection")
                assert done["collection"]["count"] >= 2
                alive(reading)
        finally:
            readers.over.set()
        for one in reading:
            one.result()

    assert readers.answered > ROUNDS
    stand.assert_whole(slug)
    stand.assert_nothing_leaks(slug)


@dataclass(frozen=True)
class Held:
    """A stand whose service waits where it locates a partition's file, with its plan made."""

    stand: LifecycleStand
    hinder: Hinder


@pytest.fixture(scope="module")
def held(
    make_service: Callable[..., Service], postgres_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Held]:
    home = tmp_path_factory.mktemp("held")
    hinder = make_hinder(home / "hinder")
    stand = make_lifecycle_stand(
        make_service, postgres_url, home, TIMESTORE_STORAGE_DRIVER="hindered", **hinder.settings
    )
    stand.service.start()
    yield Held(stand, hinder)
    stand.service.kill()


@pytest.mark.parametrize(
    ("question", "times"), [({"timeRange": ALL_TIME}, 1), ({"timeRange": ALL_TIME}, 4), (COUNT, 2)]
)
def test_a_query_whose_files_are_collected_after_it_was_planned_is_answered_from_those_that_took_their_place(
    held: Held, question: dict[str, object], times: int
) -> None:
    stand, hinder, slug = held.stand, held.hinder, f"planned-{times}-{len(question)}"
    # A process of its own, which nobody holds.
    unhindered = {"HINDER_ARMED": str(stand.home / "never")}
    stand.ingest(slug, 0, batches=2)
    hinder.arm(stand.live(slug)[0]["file_path"])
    with ThreadPoolExecutor(1) as pool, hinder.letting_go_at_last():
        asked = pool.submit(stand.service.query, slug, question)
        for again in range(1, times + 1):
            hinder.wait_until_held(lambda: asked.done() and asked.result().text)
            done = stand.maintained(slug, "compaction,collection", **unhindered)
            assert "collection: completed" in done.stdout
            if again < times:
                # Its next plan is held at the file that came last, and finds as little.
                stand.ingest(slug, again * 80, batches=2)
                hinder.arm(stand.live(slug)[-1]["file_path"])
            hinder.let_go()
        answer = asked.result()

    assert answer.status_code == 200, answer.text
    assert answer.content == stand.service.query(slug, question).content
    assert answer.headers["x-timestore-version"] == str(stand.version(slug))


def test_a_verification_blames_no_file_that_was_collected_after_it_was_listed(held: Held) -> None:
    stand, hinder, slug = held.stand, held.hinder, "verified"
    stand.ingest(slug, 0, batches=3)
    with hinder.letting_go_at_last():
        hinder.arm(stand.live(slug)[0]["file_path"])
        verifying = stand.started("verify", slug, "--deep", "--json")
        hinder.wait_until_held(verifying.poll)
        stand.maintain(slug, "compaction", "collection")
        hinder.let_go()
        output, _ = verifying.communicate(timeout=WAIT_S)

    (report,) = json.loads(output)
    assert (verifying.returncode, report["isWhole"], report["findings"]) == (0, True, [])


def test_a_deletion_whose_files_are_collected_before_it_reads_them_deletes_the_rows_where_they_are_now(
    held: Held,
) -> None:
    stand, hinder, slug = held.stand, held.hinder, "deleted"
    stand.ingest(slug, 0, batches=3)
    first_minute = {"start": "2024-01-01T00:00:00Z", "end": "2024-01-01T00:00:59Z"}
    hinder.arm(stand.live(slug)[1]["file_path"])
    with ThreadPoolExecutor(1) as pool, hinder.letting_go_at_last():
        deleting = pool.submit(stand.admin, "POST", f"datasets/{slug}/delete-rows", {"timeRange": first_minute})
        hinder.wait_until_held(lambda: deleting.done() and deleting.result())
        never = {"HINDER_ARMED": str(stand.home / "never")}
        assert "collection: completed" in stand.maintained(slug, "compaction,collection", **never).stdout
        hinder.let_go()
        deleted = deleting.result()

    assert deleted["rows"] == 60
    assert [one["row_count"] for one in stand.live(slug)] == [60]
    stand.assert_nothing_leaks(slug)
