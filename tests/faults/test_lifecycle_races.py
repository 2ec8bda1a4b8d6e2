"""Two that change the same partitions at once: one wins, the other one's work leaves no trace, and no row is moved."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.faults.hinder import Hinder, make_hinder
from tests.faults.lifecycle_stand import LifecycleStand, make_lifecycle_stand
from tests.service import Service
from timestore_core.admin.datasets import find
from timestore_core.lifecycle.compaction import compact
from timestore_core.lifecycle.operation import Maintenance, Outcome
from timestore_core.lifecycle.retention import retain
from timestore_core.plugins import PluginHost

BUSY = "another maintenance of this dataset is running"
FIRST_MINUTE = {"start": "2024-01-01T00:00:00Z", "end": "2024-01-01T00:00:59Z"}


@dataclass(frozen=True)
class Racing:
    stand: LifecycleStand
    hinder: Hinder

    def runs_unhindered(self, slug: str, operations: str) -> dict[str, dict[str, Any]]:
        """What a command reports of each operation, in a process that nobody holds."""
        never = str(self.stand.home / "never")
        done = self.stand.command("lifecycle", "run", slug, "--operations", operations, "--json", HINDER_ARMED=never)
        assert done.returncode == 0, done
        return {one["operation"]: one for one in json.loads(done.stdout)["operations"]}


@pytest.fixture(scope="module")
def racing(
    make_service: Callable[..., Service], postgres_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Racing]:
    home = tmp_path_factory.mktemp("racing")
    hinder = make_hinder(home / "hinder")
    stand = make_lifecycle_stand(make_service, postgres_url, home, **hinder.settings)
    stand.service.start()
    yield Racing(stand, hinder)
    stand.service.kill()


def test_of_several_compactors_one_runs_and_the_others_are_skipped_saying_why(racing: Racing) -> None:
    stand, hinder, slug = racing.stand, racing.hinder, "several"
    stand.ingest(slug, 0, batches=4)
    before = stand.answers(slug)
    hinder.arm("compaction.file_stored")
    with ThreadPoolExecutor(4) as pool, hinder.letting_go_at_last():
        first = pool.submit(stand.maintain, slug, "compaction")
        hinder.wait_until_held()
        others = [pool.submit(racing.runs_unhindered, slug, "compaction,collection") for _ in range(2)]
        over_http = stand.service.client.post(
            "/admin/lifecycle/run", json={"datasetSlug": slug, "operations": ["compaction"]}
        )
        reports = [one.result() for one in others]
        hinder.let_go()
        done = first.result()

    assert (done["compaction"]["status"], done["compaction"]["partitions"]) == ("completed", 4)
    assert over_http.json()["status"] == "skipped"
    for report in [*reports, {one["operation"]: one for one in over_http.json()["report"]["operations"]}]:
        assert {(one["status"], one["message"]) for one in report.values()} == {("skipped", BUSY)}
    assert sorted(run["status"] for run in stand.runs(slug)) == ["completed", "skipped", "skipped", "skipped"]
    assert (stand.answers(slug), len(stand.live(slug)), stand.version(slug)) == (before, 1, 5)
    stand.assert_nothing_leaks(slug)


def test_two_compactors_that_no_lock_keeps_apart_lose_and_double_nothing(
    racing: Racing, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand, slug = racing.stand, "no-lock"
    stand.ingest(slug, 0, batches=6)
    before, meeting = stand.answers(slug), threading.Barrier(2)
    stored: list[set[Path]] = []

    def meet(host: PluginHost, step: str) -> None:
        # Both have their file before either of them publishes; the loser goes on alone afterwards.
        if step == "compaction.file_stored" and len(stored) < 2:
            meeting.wait(60)
            stored.append(stand.stored(slug))
            meeting.wait(60)

    monkeypatch.setattr(PluginHost, "step", meet)
    with stand.runtime() as one, stand.runtime() as other, ThreadPoolExecutor(2) as pool:
        working = [pool.submit(compact, Maintenance(each, find(each, slug), "api")) for each in (one, other)]
        outcomes: list[Outcome] = [each.result() for each in working]

    assert sorted(outcome.groups_done for outcome in map(Compacted, outcomes)) == [0, 1]
    assert [len(files) for files in stored] == [8, 8]
    assert (stand.answers(slug), len(stand.live(slug)), stand.version(slug)) == (before, 1, 7)
    # The loser has thrown its file away itself: six that were gathered, and what they became.
    assert len(stand.stored(slug)) == 7
    assert stand.stored(slug) == stand.named(slug)
    stand.assert_nothing_leaks(slug)
    stand.assert_verified(slug)


@dataclass(frozen=True)
class Compacted:
    outcome: Outcome

    @property
    def groups_done(self) -> int:
        assert self.outcome.status == ("completed" if self.outcome.count else "skipped")
        return self.outcome.count


def retention_by_hand(stand: LifecycleStand, slug: str) -> None:
    # Past the lock that keeps maintenance from meeting itself.
    with stand.runtime() as runtime:
        assert retain(Maintenance(runtime, find(runtime, slug), "api")).status == "completed"


def delete_the_first_minute(stand: LifecycleStand, slug: str) -> None:
    deleted = stand.admin("POST", f"datasets/{slug}/delete-rows", {"timeRange": FIRST_MINUTE})
    assert deleted["rows"] == 60


def restore_the_third_version(stand: LifecycleStand, slug: str) -> None:
    stand.admin("POST", f"datasets/{slug}/restore", {"version": 3})


OVERTAKING = [retention_by_hand, delete_the_first_minute, restore_the_third_version]


@pytest.mark.parametrize("overtake", OVERTAKING)
def test_a_compaction_whose_partitions_are_changed_meanwhile_throws_its_file_away_and_takes_what_is_there(
    racing: Racing, overtake: Callable[[LifecycleStand, str], None]
) -> None:
    stand, hinder, slug = racing.stand, racing.hinder, overtake.__name__.replace("_", "-")
    twin = f"alone-{slug}"
    for one in (slug, twin):
        stand.ingest(one, 0, batches=5)
    overtake(stand, twin)
    after = stand.answers(twin)
    stand.maintain(twin, "compaction")
    hinder.arm("compaction.file_stored")
    with ThreadPoolExecutor(1) as pool, hinder.letting_go_at_last():
        compacting = pool.submit(stand.maintain, slug, "compaction")
        hinder.wait_until_held()
        overtake(stand, slug)
        hinder.let_go()
        done = compacting.result()

    assert done["compaction"]["status"] == ("skipped" if overtake is retention_by_hand else "completed")
    assert stand.answers(slug) == stand.answers(twin) == after
    assert sorted(one["row_count"] for one in stand.live(slug)) == sorted(one["row_count"] for one in stand.live(twin))
    assert stand.stored(slug) == stand.named(slug)
    stand.assert_nothing_leaks(slug)
    stand.assert_verified(slug)


def test_a_deletion_whose_partitions_are_gathered_meanwhile_deletes_the_rows_where_they_are_now(
    racing: Racing,
) -> None:
    stand, hinder, slug = racing.stand, racing.hinder, "gathered-meanwhile"
    for one in (slug, f"alone-{slug}"):
        stand.ingest(one, 0, batches=5)
    delete_the_first_minute(stand, f"alone-{slug}")
    hinder.arm("deletion.file_stored")
    with ThreadPoolExecutor(1) as pool, hinder.letting_go_at_last():
        deleting = pool.submit(delete_the_first_minute, stand, slug)
        hinder.wait_until_held()
        # Even the files that it has read are gone when it goes on.
        assert racing.runs_unhindered(slug, "compaction,collection")["collection"]["count"] == 5
        hinder.let_go()
        deleting.result()

    assert stand.answers(slug) == stand.answers(f"alone-{slug}")
    assert [one["row_count"] for one in stand.live(slug)] == [140]
    assert stand.stored(slug) == stand.named(slug)
    stand.assert_nothing_leaks(slug)


def test_a_restored_version_and_its_gathered_partitions_are_collected_only_when_neither_needs_the_files(
    racing: Racing,
) -> None:
    stand, slug = racing.stand, "there-and-back"
    stand.ingest(slug, 0, batches=4)
    before = stand.answers(slug)
    for _ in range(3):
        stand.maintain(slug, "compaction")
        stand.admin("POST", f"datasets/{slug}/restore", {"version": 4})
    # The four files are named by rows that are due and by rows that are live.
    assert stand.maintain(slug, "collection")["collection"]["count"] == 3

    assert (stand.answers(slug), len(stand.live(slug))) == (before, 4)
    stand.assert_whole(slug)
    stand.assert_nothing_leaks(slug)
    stand.assert_verified(slug)
