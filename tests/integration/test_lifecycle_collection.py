"""What nothing needs any more is deleted from disk, and nothing else is."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest

from tests.integration.maintenance import (
    Json,
    Stand,
    answers,
    ask,
    changed,
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
from tests.service import ALL_TIME, Service, batch, numbers_of

# Older than a leftover has to be (TIMESTORE_LIFECYCLE_ORPHAN_AGE_MINUTES: 360), and younger.
OLD_S, YOUNG_S = 6 * 3600 + 60, 6 * 3600 - 600


@pytest.fixture(scope="module")
def stand(make_service: Callable[..., Service], postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Stand:
    return make_stand(make_service, postgres_url, tmp_path_factory.mktemp("collection"))


def aged(path: Path, age_s: float) -> Path:
    """The file, made where it is missing, with its last change so long ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.write_bytes(b"left behind")
    os.utime(path, (time.time() - age_s,) * 2)
    return path


def swept(stand: Stand, *more: str) -> Json:
    done = stand.command("lifecycle", "sweep", "--json", *more)
    assert done.returncode == 0, done.stderr
    found: Json = json.loads(done.stdout)
    return found


def test_with_no_grace_what_was_replaced_is_deleted_from_disk(stand: Stand) -> None:
    for number in range(12):
        ingest(stand.service, "tidied", hard_batch(number))
    before, sources = answers(stand.service, "tidied"), stand.files_of("tidied")
    sizes = sum((stand.root / path).stat().st_size for path in sources)
    policy(stand.service, "tidied")
    run(stand.service, "tidied", "compaction")
    # The folders of two keys that differ in case alone are one.
    assert len({Path(path).parent for path in sources}) == 3
    would = outcome(stand.service, "tidied", "collection", dryRun=True)

    assert (would["count"], would["bytes"]) == (12, sizes)
    assert {one["filePath"] for one in would["filesToDelete"]} == sources
    assert {one["reason"] for one in would["filesToDelete"]} == {"removed"}
    assert stand.files_of("tidied") > sources
    done = outcome(stand.service, "tidied", "collection")

    assert (done["count"], done["bytes"], done["leftovers"]) == (12, sizes, 0)
    assert stand.files_of("tidied") == {one["filePath"] for one in head(stand.service, "tidied")["partitions"]}
    assert changed(before, answers(stand.service, "tidied")) == []
    again = outcome(stand.service, "tidied", "collection")
    assert (again["status"], again["message"]) == ("skipped", "nothing is old enough to be deleted")


def test_within_the_grace_nothing_is_deleted(stand: Stand) -> None:
    numbers(stand.service, "graced", [1], [2])
    run(stand.service, "graced", "compaction")
    files = stand.files_of("graced")
    # Five minutes by default, then one.
    for _ in range(2):
        assert outcome(stand.service, "graced", "collection")["status"] == "skipped"
        assert stand.files_of("graced") == files
        policy(stand.service, "graced", deleteGraceMinutes=1)
    restore(stand.service, "graced", 2)
    assert numbers_of(stand.service, "graced") == [1, 2]


def test_all_versions_may_be_kept_for_some_hours(
    make_service: Callable[..., Service], postgres_url: str, tmp_path: Path
) -> None:
    keeping = make_stand(make_service, postgres_url, tmp_path, TIMESTORE_SNAPSHOT_RETENTION_HOURS="1")
    numbers(keeping.service, "kept", [1], [2])
    policy(keeping.service, "kept")
    run(keeping.service, "kept", "compaction", "collection")

    assert len(keeping.files_of("kept")) == 3
    restore(keeping.service, "kept", 1)
    assert numbers_of(keeping.service, "kept") == [1]
    keeping.service.stop()


def test_a_query_that_reads_goes_on_while_its_files_are_deleted(stand: Stand) -> None:
    numbers(stand.service, "read", *([number] for number in range(30)))
    policy(stand.service, "read")
    assert numbers_of(stand.service, "read") == list(range(30))
    tag = stand.service.query("read", {"timeRange": ALL_TIME}).headers["etag"]
    run(stand.service, "read", "compaction", "collection")

    assert numbers_of(stand.service, "read") == list(range(30))
    assert stand.service.query("read", {"timeRange": ALL_TIME}).headers["etag"] != tag


def test_leftovers_of_crashes_go_when_they_are_old_and_nothing_else_goes(stand: Stand) -> None:
    (kept,) = numbers(stand.service, "littered", [1])
    folder = (stand.root / kept["filePath"]).parent
    outcome(stand.service, "littered", "parquetExport")
    going = {
        aged(folder / f"part-{uuid4()}.duckdb", OLD_S),
        aged(folder / f"part-{uuid4()}.duckdb.wal", OLD_S),
        aged(folder / "deeper" / f"part-{uuid4()}.parquet", OLD_S),
    }
    staying = {
        aged(folder / f"part-{uuid4()}.duckdb", YOUNG_S),
        aged(folder / "part-1.duckdb", OLD_S),
        aged(folder / f"part-{uuid4()}", OLD_S),
        aged(folder / f"part-{uuid4()}.duckdb.bak", OLD_S),
        aged(folder / f"copy-of-part-{uuid4()}.duckdb", OLD_S),
        aged(folder / "notes.txt", OLD_S),
        aged(folder / ".hidden", OLD_S),
        # The dataset's own file is as old, and so is its export.
        aged(stand.root / kept["filePath"], OLD_S),
        *(aged(path, OLD_S) for path in stand.root.glob("exports/littered/*")),
        # Another dataset's folder is not this collection's.
        aged(stand.root / "litter" / f"part-{uuid4()}.duckdb", OLD_S),
    }
    would = outcome(stand.service, "littered", "collection", dryRun=True)

    assert {stand.root / one["filePath"] for one in would["filesToDelete"]} == going
    assert all(path.exists() for path in going)
    verified = outcome(stand.service, "littered", "verification")
    assert verified["status"] == "completed"
    assert {(one["kind"], one["isLoss"], stand.root / one["filePath"]) for one in verified["findings"]} == {
        ("unknown", False, path) for path in going
    }
    done = outcome(stand.service, "littered", "collection")

    assert (done["status"], done["leftovers"]) == ("completed", len(going))
    assert [path for path in going if path.exists()] == []
    assert [path for path in staying if not path.exists()] == []
    # The catalog's marker is another one with each collection, and always there.
    assert len([path for path in (stand.root / ".timestore").rglob("*") if path.is_file()]) == 1
    assert numbers_of(stand.service, "littered") == [1]


def test_a_sweep_finds_leftovers_in_folders_of_no_dataset_and_what_was_being_written(stand: Stand) -> None:
    numbers(stand.service, "swept", [1])
    going = aged(stand.root / "nobody" / "s=x" / f"part-{uuid4()}.duckdb", OLD_S)
    staged = aged(stand.root / ".tmp" / "staging" / f"part-{uuid4()}.duckdb", OLD_S)
    young = aged(stand.root / ".tmp" / "staging" / f"part-{uuid4()}.parquet", YOUNG_S)
    others = aged(stand.root / "nobody" / "readme.md", OLD_S)
    would = swept(stand, "--dry-run")

    assert going.relative_to(stand.root).as_posix() in would["leftovers"][0]["files"]
    assert going.exists()
    assert staged.exists()
    done = swept(stand)
    assert done["files"] == would["files"] >= 1
    assert (going.exists(), staged.exists(), young.exists(), others.exists()) == (False, False, True, True)
    assert numbers_of(stand.service, "swept") == [1]
    assert outcome(stand.service, "swept", "verification")["findings"] == []


def test_where_two_catalogs_write_neither_deletes_what_it_does_not_know(
    make_service: Callable[..., Service], postgres_url: str, tmp_path: Path
) -> None:
    one, other = (make_stand(make_service, postgres_url, tmp_path) for _ in range(2))
    for number, stand in enumerate((one, other)):
        # The same slug and key: their files stand side by side.
        numbers(stand.service, "shared", [number * 10], [number * 10 + 1])
        policy(stand.service, "shared")
    folder = (tmp_path / head(one.service, "shared")["partitions"][0]["filePath"]).parent
    left = {aged(folder / f"part-{uuid4()}.duckdb", OLD_S), aged(tmp_path / "x" / f"part-{uuid4()}.duckdb", OLD_S)}
    for path in list(folder.iterdir()):
        aged(path, OLD_S)
    for stand in (one, other):
        run(stand.service, "shared", "compaction")
        done = outcome(stand.service, "shared", "collection")
        # What this catalog itself removed goes all the same.
        assert (done["status"], done["count"], done["leftovers"]) == ("completed", 2, 0)
        (kept,) = done["keptLeftovers"]
        assert kept["files"] > 0
        assert "another catalog owns this place too" in kept["reason"]
        assert [found["kept"] is None for found in swept(stand)["leftovers"]] == [False]
        assert all(path.exists() for path in left)

    assert (numbers_of(one.service, "shared"), numbers_of(other.service, "shared")) == ([0, 1], [10, 11])
    other.service.stop()
    confirmed = one.command("storage", "confirm", "--yes")
    assert confirmed.returncode == 0, confirmed.stderr
    live = head(one.service, "shared")["partitions"][0]["filePath"]
    assert outcome(one.service, "shared", "collection")["leftovers"] >= 1
    assert sorted(path.name for path in folder.iterdir() if path.stat().st_mtime < time.time() - YOUNG_S) == []
    assert (tmp_path / live).exists()
    assert numbers_of(one.service, "shared") == [0, 1]
    one.service.stop()


def make_deleted(stand: Stand, slug: str, **stored: int) -> Json:
    """A dataset with two partitions that is deleted; its manifest before."""
    numbers(stand.service, slug, [1], [2])
    policy(stand.service, slug, **stored)
    before = head(stand.service, slug)
    ask(stand.service, "POST", f"/admin/datasets/{slug}/archive")
    would = ask(stand.service, "DELETE", f"/admin/datasets/{slug}", confirm=slug, dryRun="true")
    assert (would["partitions"], would["rows"], would["bytes"]) == (
        before["partitionCount"],
        before["totalRows"],
        before["totalBytes"],
    )
    ask(stand.service, "DELETE", f"/admin/datasets/{slug}", confirm=slug)
    return before


def test_a_deleted_dataset_is_swept_and_cannot_be_restored_afterwards(stand: Stand) -> None:
    before = make_deleted(stand, "dropped")
    numbers(stand.service, "bystander", [7])
    assert len(stand.files_of("dropped")) == 2
    would = swept(stand, "--dry-run")
    assert would["deletedDatasets"] == ["dropped"]
    assert len(stand.files_of("dropped")) == 2
    done = swept(stand)

    assert done["deletedDatasets"] == ["dropped"]
    assert (done["files"], done["bytes"]) == (2, before["totalBytes"])
    assert stand.files_of("dropped") == set()
    for key in ("dropped", before["datasetId"]):
        gone = ask(stand.service, "POST", f"/admin/datasets/{key}/restore", status=410)
        assert "its grace period is over" in gone["error"]
    ask(stand.service, "POST", "/admin/datasets/never-there/restore", status=404)
    # What tells of it stays.
    audit = ask(stand.service, "GET", "/admin/audit", eventType="collection.dataset.deleted")["events"]
    assert [(one["datasetId"], one["payload"]["files"]) for one in audit] == [(before["datasetId"], 2)]
    assert swept(stand)["deletedDatasets"] == []
    assert numbers_of(stand.service, "bystander") == [7]
    # Its slug is free, and what is made under it has nothing of the old one.
    assert ingest(stand.service, "dropped", batch([3]))["dataset"]["id"] != before["datasetId"]
    assert numbers_of(stand.service, "dropped") == [3]


def test_a_deleted_dataset_within_its_grace_or_with_a_pin_is_not_swept(stand: Stand) -> None:
    make_deleted(stand, "graceful", deleteGraceMinutes=5)
    numbers(stand.service, "held", [1])
    ask(stand.service, "PUT", "/admin/datasets/held/pins/for-ever", status=201)
    make_deleted(stand, "held")
    assert swept(stand)["deletedDatasets"] == []

    for slug in ("graceful", "held"):
        ask(stand.service, "POST", f"/admin/datasets/{slug}/restore")
        assert set(numbers_of(stand.service, slug)) == {1, 2}


def test_the_history_outlives_its_files(stand: Stand) -> None:
    numbers(stand.service, "told", [1], [2])
    policy(stand.service, "told")
    delete_rows(stand.service, "told", ALL_TIME["start"], ALL_TIME["end"])
    run(stand.service, "told", "collection")

    listed = ask(stand.service, "GET", "/admin/datasets/told/manifests")["manifests"]
    assert [(one["version"], one["totalRows"]) for one in listed] == [(3, 0), (2, 2), (1, 1)]
    assert len(events(stand.service, "told", "ingest.published")) == 2


def test_a_version_that_is_not_whole_any_more_is_not_shown_in_part(stand: Stand) -> None:
    numbers(stand.service, "paged", [1], [2], [3])
    policy(stand.service, "paged")
    path = "/admin/datasets/paged/partitions"
    cursor = ask(stand.service, "GET", path, limit=1)["nextCursor"]
    run(stand.service, "paged", "compaction")
    assert len(ask(stand.service, "GET", path, limit=2, cursor=cursor)["partitions"]) == 2
    run(stand.service, "paged", "collection")

    ask(stand.service, "GET", path, limit=2, cursor=cursor, status=410)
    ask(stand.service, "GET", path, version=3, status=410)
    ask(stand.service, "GET", "/admin/datasets/paged/manifest", version=3, status=410)
    assert len(ask(stand.service, "GET", path, version=4)["partitions"]) == 1
    assert len(ask(stand.service, "GET", "/admin/datasets/paged/manifest", version=4)["manifest"]["partitions"]) == 1


def test_a_grace_of_ages_keeps_everything_and_stops_nothing(stand: Stand) -> None:
    made = numbers(stand.service, "ages", [1], [2])
    policy(stand.service, "ages", deleteGraceMinutes=1e300, rules={"maxAgeHours": 1e300, "maxTotalBytes": 1e300})
    run(stand.service, "ages", "compaction")

    assert [outcome(stand.service, "ages", one)["status"] for one in ("collection", "retention")] == ["skipped"] * 2
    assert stand.files_of("ages") > {one["filePath"] for one in made}
    ask(stand.service, "POST", "/admin/datasets/ages/archive")
    ask(stand.service, "DELETE", "/admin/datasets/ages", confirm="ages")
    make_deleted(stand, "after-ages")
    assert swept(stand)["deletedDatasets"] == ["after-ages"]
