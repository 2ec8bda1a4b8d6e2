"""SIGKILL at every step of a backup and of a restore: run again, they end as if nothing had happened."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.backups import NO_GRACE, Json, Store, is_replayed, make_store, parts, send
from tests.faults.killer import Killer, make_killer
from tests.faults.postgres_proxy import Cut, postgres_proxy
from tests.service import Service, batch, numbers_of, wait_until

pytestmark = pytest.mark.extended

BACKUP_STEPS = [
    "backup.begun",
    "backup.pinned",
    "backup.keys_stored",
    "backup.version_fixed",
    "backup.file_written",
    "backup.file_stored",
    "backup.partitions_stored",
    "backup.dataset_stored",
    "backup.completed",
    "backup.unpinned",
]
# From here on the version of the first dataset is held.
HELD_STEPS = BACKUP_STEPS[1:-1]
RESTORE_STEPS = [
    "restore.file_written",
    "restore.file_stored",
    "restore.copied",
    "restore.rows_written",
    "restore.dataset_published",
]
HOURS_S = 3600
CUTS: list[Cut] = ["before the server has it", "after the server has done it"]


@dataclass(frozen=True)
class Victim:
    """A store whose commands have the killer."""

    store: Store
    killer: Killer

    def killed(self, step: str, *arguments: str) -> None:
        """Run the command until it is killed at the step."""
        self.killer.arm(step)
        ended = self.store.command(*arguments, **self.killer.settings)
        assert self.killer.has_struck, ended.stderr
        assert ended.returncode == -signal.SIGKILL


@pytest.fixture(scope="module")
def victim(
    make_service: Callable[..., Service], postgres_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Victim]:
    home = tmp_path_factory.mktemp("victim")
    store = make_store(make_service, postgres_url, home / "storage", **NO_GRACE)
    yield Victim(store, make_killer(home / "killer"))
    store.service.kill()


@pytest.fixture(scope="module")
def elsewhere(
    make_service: Callable[..., Service], postgres_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Store]:
    """Another catalog with storage of its own, to restore to."""
    store = make_store(make_service, postgres_url, tmp_path_factory.mktemp("elsewhere") / "storage")
    yield store
    store.service.kill()


def pinned(store: Store, name: str) -> dict[str, int]:
    """The versions that the backup holds, by slug."""
    rows = store.rows(
        "SELECT d.slug, n.version FROM dataset_pins n JOIN datasets d ON d.id = n.dataset_id WHERE n.name = %s",
        f"backup:{name}",
    )
    return {row["slug"]: row["version"] for row in rows}


def versions(report: Json) -> dict[str, int]:
    return {one["slug"]: one["version"] for one in report["datasets"]}


def fill(store: Store, slugs: list[str], numbers: range) -> None:
    for number in numbers:
        for slug in slugs:
            send(store, slug, batch([number]), f"key {number}")


def options(target: Path, name: str, slugs: list[str]) -> list[str]:
    return [str(target), "--name", name, *(part for slug in slugs for part in ("--dataset", slug))]


@pytest.mark.parametrize("step", BACKUP_STEPS)
def test_a_backup_killed_at_a_step_goes_on_where_it_ended(
    victim: Victim, elsewhere: Store, tmp_path: Path, step: str
) -> None:
    store, name = victim.store, step.replace("_", "-")
    slugs = [f"a-{name}", f"b-{name}"]
    fill(store, slugs, range(4))
    victim.killed(step, "backup", *options(tmp_path, name, slugs))
    held = pinned(store, name)
    there = {key: path.read_bytes() for key, path in parts(tmp_path, name).items()}
    # The data goes on: versions 5 and 6 bring a batch each, 7 gathers all. What no pin holds is deleted at once.
    fill(store, slugs, range(4, 6))
    for slug in slugs:
        store.maintain(slug, "compaction", "collection")
    report = store.backup(*options(tmp_path, name, slugs))

    assert bool(held) == (step in HELD_STEPS)
    fixed = {key.split("/")[1] for key in there if key.endswith("fixed.json")}
    assert versions(report) == {one["slug"]: 4 if one["id"] in fixed else 7 for one in report["datasets"]}
    assert report["complete"]
    assert pinned(store, name) == {}
    final = {key: path.read_bytes() for key, path in parts(tmp_path, name).items()}
    # Files that are there stay as they are; documents that nothing speaks for yet are written anew.
    kept = [key for key in there if key.endswith((".duckdb", ".json"))]
    assert {key: final[key] for key in kept} == {key: there[key] for key in kept}
    # Those of a dataset whose document is there are not even looked at.
    looked_at = [
        key for key in there if key.endswith(".duckdb") and f"{key.split('/files/')[0]}/dataset.json" not in there
    ]
    assert report["filesAlreadyThere"] == len(looked_at)
    assert_restores(elsewhere, tmp_path, name, report)


def assert_restores(other: Store, target: Path, name: str, report: Json) -> None:
    """Each dataset comes back with the batches up to its version, and replays these and no others."""
    assert other.restore(str(target), name, "--verify")["isWhole"]
    for slug, version in versions(report).items():
        count = min(version, 6)
        assert numbers_of(other.service, slug) == list(range(count))
        for number in range(6):
            assert is_replayed(other, slug, batch([number]), f"key {number}") == (number < count)
        assert numbers_of(other.service, slug) == list(range(6))


def test_a_pinned_version_stays_while_later_keys_can_be_told_from_its_own(
    victim: Victim, elsewhere: Store, tmp_path: Path
) -> None:
    fill(victim.store, ["staying"], range(4))
    victim.killed("backup.pinned", "backup", *options(tmp_path, "staying", ["staying"]))
    fill(victim.store, ["staying"], range(4, 6))
    report = victim.store.backup(*options(tmp_path, "staying", ["staying"]))

    assert versions(report) == {"staying": 4}
    assert_restores(elsewhere, tmp_path, "staying", report)


@pytest.mark.parametrize("step", RESTORE_STEPS)
def test_a_restore_killed_at_a_step_goes_on_where_it_ended(
    victim: Victim, make_service: Callable[..., Service], postgres_url: str, tmp_path: Path, step: str
) -> None:
    slugs = [f"a-{step}", f"b-{step}"]
    fill(victim.store, slugs, range(4))
    victim.store.backup(*options(tmp_path, "whole", slugs))
    other = Victim(make_store(make_service, postgres_url, tmp_path / "other"), victim.killer)
    other.killed(step, "restore", str(tmp_path), "whole")
    visible = other.store.rows("SELECT slug FROM datasets ORDER BY slug")
    copied = other.store.files()
    restored = other.store.restore(str(tmp_path), "whole", "--verify")
    store = other.store

    assert [row["slug"] for row in visible] == (slugs[:1] if step == "restore.dataset_published" else [])
    assert restored["isWhole"]
    assert set(copied) <= set(store.files())
    named = [row["file_path"] for row in store.rows("SELECT file_path FROM dataset_partitions ORDER BY file_path")]
    assert named == store.files()
    assert len(named) == 8
    assert store.rows(
        "SELECT count(*) AS n FROM lifecycle_audit_log WHERE event_type = 'restore.dataset.restored'"
    ) == [{"n": 2}]
    if step in RESTORE_STEPS[2:]:
        assert restored["filesCopied"] == 0
    for slug in slugs:
        assert numbers_of(store.service, slug) == list(range(4))
        assert is_replayed(store, slug, batch([0]), "key 0")
    once_more = store.restore(str(tmp_path), "whole")
    assert all(one["alreadyThere"] for one in once_more["datasets"])
    assert once_more["filesCopied"] == 0
    store.service.kill()


@pytest.mark.parametrize("cut", CUTS)
def test_a_dataset_whose_commit_is_cut_is_restored_once(
    victim: Victim, elsewhere: Store, postgres_url: str, tmp_path: Path, cut: Cut
) -> None:
    slug = f"cut-{cut.split()[0]}"
    fill(victim.store, [slug], range(2))
    victim.store.backup(*options(tmp_path, "cut", [slug]))
    with postgres_proxy(postgres_url) as (proxy, url), elsewhere.catalog() as catalog:
        # The transaction waits for this lock when all but its commit is done.
        with catalog.transaction():
            catalog.execute("LOCK TABLE lifecycle_audit_log IN EXCLUSIVE MODE")
            restoring = elsewhere.start("restore", str(tmp_path), "cut", "--json", TIMESTORE_DATABASE_URL=url)
            wait_until(lambda: is_awaited(elsewhere, "lifecycle_audit_log"), "the restore to wait for the lock")
            proxy.cut_next(cut)
        output, errors = restoring.communicate(timeout=300)
        assert proxy.cut_count == 1

    assert restoring.returncode == 0, errors
    assert json.loads(output)["isWhole"]
    assert numbers_of(elsewhere.service, slug) == [0, 1]
    assert elsewhere.rows("SELECT count(*) AS n FROM datasets WHERE slug = %s", slug) == [{"n": 1}]
    assert is_replayed(elsewhere, slug, batch([1]), "key 1")


def is_awaited(store: Store, relation: str) -> bool:
    """Whether somebody waits for a lock of the table."""
    waits = "SELECT 1 FROM pg_locks WHERE relation = %s::regclass AND NOT granted"
    return bool(store.rows(waits, relation))


def test_files_of_a_restore_that_was_killed_long_ago_are_not_taken_for_leftovers(
    victim: Victim, tmp_path: Path
) -> None:
    store = victim.store
    fill(store, ["old"], range(3))
    store.backup(*options(tmp_path, "old", ["old"]))
    before = set(store.files())
    restore = ["restore", str(tmp_path), "old", "--dataset", "old", "--as", "OLD"]
    victim.killed("restore.copied", *restore)
    copied = set(store.files()) - before
    for name in copied:
        os.utime(store.root / name, (time.time() - 1000 * HOURS_S,) * 2)
    store.maintain("old", "collection")
    swept = store.report("lifecycle", "sweep")
    report = store.report(*restore)

    assert len(copied) == 3
    assert swept["files"] == 0
    assert copied <= set(store.files())
    assert (report["filesCopied"], report["filesAlreadyThere"]) == (0, 3)
    assert numbers_of(store.service, "OLD") == [0, 1, 2]


def test_what_a_killed_run_had_copied_is_copied_again_where_it_was_altered(victim: Victim, tmp_path: Path) -> None:
    store = victim.store
    fill(store, ["bitten"], range(3))
    victim.killed("backup.partitions_stored", "backup", *options(tmp_path, "bitten", ["bitten"]))
    files = [path for key, path in parts(tmp_path, "bitten").items() if key.endswith(".duckdb")]
    whole = [path.read_bytes() for path in files]
    files[0].write_bytes(whole[0][:-1] + bytes([whole[0][-1] ^ 1]))
    files[1].write_bytes(b"")
    report = store.backup(*options(tmp_path, "bitten", ["bitten"]))

    assert (report["filesCopied"], report["filesAlreadyThere"]) == (2, 1)
    assert [path.read_bytes() for path in files] == whole


def test_a_version_whose_keys_cannot_be_told_any_more_is_left_for_the_current_one(
    victim: Victim, elsewhere: Store, tmp_path: Path
) -> None:
    store = victim.store
    fill(store, ["forgotten"], range(2))
    victim.killed("backup.pinned", "backup", *options(tmp_path, "forgotten", ["forgotten"]))
    assert pinned(store, "forgotten") == {"forgotten": 2}
    fill(store, ["forgotten"], range(2, 5))
    store.maintain("forgotten", "compaction", "collection")
    known = store.rows(
        "SELECT m.version, d.current_version FROM dataset_manifests m JOIN datasets d ON d.id = m.dataset_id "
        "WHERE d.slug = 'forgotten' ORDER BY m.version"
    )
    report = store.backup(*options(tmp_path, "forgotten", ["forgotten"]))

    # The manifests of later batches are gone: their keys look like those of earlier ones.
    assert [row["version"] for row in known] == [1, 2, 6]
    assert versions(report) == {"forgotten": 6}
    elsewhere.restore(str(tmp_path), "forgotten")
    assert numbers_of(elsewhere.service, "forgotten") == [0, 1, 2, 3, 4]
    assert all(is_replayed(elsewhere, "forgotten", batch([number]), f"key {number}") for number in range(5))


def test_a_dataset_that_is_deleted_between_two_runs_stays_in_the_backup_once_it_is_held(
    victim: Victim, tmp_path: Path
) -> None:
    store = victim.store
    fill(store, ["deleted-1", "deleted-2"], range(2))
    asked = options(tmp_path, "deleted", ["deleted-1", "deleted-2"])
    victim.killed("backup.version_fixed", "backup", *asked)
    for slug in ("deleted-1", "deleted-2"):
        store.service.client.post(f"/admin/datasets/{slug}/archive")
        store.service.client.delete(f"/admin/datasets/{slug}", params={"confirm": slug})
    store.report("lifecycle", "sweep")
    report = store.backup(*asked)
    told = store.command("backup", *asked)

    assert versions(report) == {"deleted-1": 2}
    assert report["deletedMeanwhile"] == ["deleted-2"]
    assert told.returncode == 0
    restored = store.restore(str(tmp_path), "deleted")
    assert [one["slug"] for one in restored["datasets"]] == ["deleted-1"]
    assert numbers_of(store.service, "deleted-1") == [0, 1]
    assert store.rows("SELECT 1 FROM dataset_pins") == []


def test_a_pin_that_somebody_removed_is_put_back_or_missed(victim: Victim, tmp_path: Path) -> None:
    store = victim.store
    for slug, is_kept in (("unpinned-kept", True), ("unpinned-gone", False)):
        fill(store, [slug], range(3))
        asked = options(tmp_path, slug, [slug])
        victim.killed("backup.file_stored", "backup", *asked)
        store.service.client.delete(f"/admin/datasets/{slug}/pins/backup:{slug}")
        if is_kept:
            assert versions(store.backup(*asked)) == {slug: 3}
            continue
        store.maintain(slug, "compaction", "collection")
        ended = store.command("backup", *asked)
        assert ended.returncode == 1
        assert "version 3 of unpinned-gone is not whole any more" in ended.stderr
        assert pinned(store, slug) == {}
