"""What maintenance refuses: a wrong clock, too much at once, damaged files, half a listing, another's files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.faults.hinder import Hinder, make_hinder
from tests.faults.lifecycle_stand import LifecycleStand, make_lifecycle_stand
from tests.service import Service, Worker, batch, numbers_of, wait_until
from timestore_core.admin.datasets import find
from timestore_core.lifecycle.operation import Maintenance
from timestore_core.lifecycle.runs import Report, Request, maintain

_SHIFTED = '''
"""Python's clock {days} days away, for the process that has this directory on its PYTHONPATH."""

import time

_real = time.time
time.time = lambda: _real() + {days} * 86_400
'''


@pytest.fixture(scope="module")
def hinder(tmp_path_factory: pytest.TempPathFactory) -> Hinder:
    return make_hinder(tmp_path_factory.mktemp("hinder") / "plugin")


@pytest.fixture(scope="module")
def stand(
    make_service: Callable[..., Service],
    postgres_url: str,
    tmp_path_factory: pytest.TempPathFactory,
    hinder: Hinder,
) -> Iterator[LifecycleStand]:
    home = tmp_path_factory.mktemp("guarded")
    settings = {"TIMESTORE_STORAGE_DRIVER": "hindered", "TIMESTORE_LIFECYCLE_COMPACTION_MAX_PARTITIONS": "4"}
    made = make_lifecycle_stand(make_service, postgres_url, home, **settings, **hinder.settings)
    made.service.start()
    made.admin("POST", "storage-targets", {"name": "cold", "kind": "local", "config": {"root": str(made.cold)}})
    yield made
    made.service.kill()


def everything(stand: LifecycleStand) -> dict[str, Any]:
    """All that maintenance could change: the files of both targets, and the rows that tell of them."""
    files = {
        path: path.stat().st_size
        for root in (stand.root, stand.cold)
        for path in root.rglob("*")
        if path.is_file() and path.relative_to(root).parts[0] not in (".timestore", ".tmp")
    }
    with stand.catalog() as catalog:
        rows = {
            table: catalog.execute(f"SELECT * FROM {table} ORDER BY id").fetchall()
            for table in ("datasets", "dataset_manifests", "dataset_partitions", "lifecycle_audit_log")
        }
    return {"files": files, **rows}


@pytest.mark.parametrize("days", [30, -30])
def test_with_a_clock_that_postgresql_contradicts_nothing_expires_and_the_message_says_why(
    stand: LifecycleStand, tmp_path: Path, days: int
) -> None:
    slug = f"shifted-{'back' if days < 0 else 'ahead'}"
    (tmp_path / "sitecustomize.py").write_text(_SHIFTED.format(days=days))
    shifted = {"PYTHONPATH": f"{tmp_path}:{stand.settings['PYTHONPATH']}"}
    stand.ingest(slug, 0, batches=4)
    stand.maintain(slug, "compaction")
    stand.leave_behind(slug)
    (cold,) = (one for one in stand.admin("GET", "storage-targets")["storageTargets"] if one["name"] == "cold")
    policy = {"coldStorageAfterHours": 1, "metadata": {"coldStorageTargetId": cold["id"]}}
    rules = {"rules": {"maxAgeHours": 1}, "deleteGraceMinutes": 0}
    stand.admin("PUT", f"datasets/{slug}/retention", policy | rules)
    before = everything(stand)

    ran = stand.command("lifecycle", "run", slug, "--operations", "retention,tiering,collection", "--json", **shifted)
    swept = stand.command("lifecycle", "sweep", **shifted)
    confirmed = stand.command("storage", "confirm", "--yes", **shifted)

    assert [one.returncode for one in (ran, swept, confirmed)] == [1, 1, 1], [swept, confirmed]
    report = json.loads(ran.stdout)
    assert [one["operation"] for one in report["operations"]] == ["retention", "tiering", "collection"]
    for text in (*(one["message"] for one in report["operations"]), swept.stderr, confirmed.stderr):
        assert "this host's clock and PostgreSQL's are" in text
        assert f"{30 * 86_400 // 10_000}" in text
        assert "nothing was removed" in text
    assert everything(stand) == before
    # The same with the right clock: there was something to do.
    done = stand.maintain(slug, "tiering", "collection", "retention")
    assert {one["status"] for one in done.values()} == {"completed"}


def scheduled(stand: LifecycleStand, slug: str, trigger: Any = "schedule") -> Report:
    with stand.runtime() as runtime:
        return maintain(Maintenance(runtime, find(runtime, slug), trigger), Request(["retention"], str(uuid4())))


def test_a_scheduled_retention_removes_at_most_its_share_and_one_by_hand_removes_all(stand: LifecycleStand) -> None:
    stand.ingest("share", 0, batches=10)
    left = [len(stand.live("share"))]
    messages = []
    for _ in range(3):
        (done,) = scheduled(stand, "share").operations
        left.append(len(stand.live("share")))
        messages.append(done["message"])

    # Half of ten, half of five, half of three.
    assert left == [10, 5, 3, 2]
    assert "5 more partitions have to go" in messages[0]
    assert "at most 50 % of a dataset (TIMESTORE_LIFECYCLE_RETENTION_MAX_SHARE_PERCENT)" in messages[0]
    assert [one["start_time"].second for one in stand.live("share")] == [20, 0]
    by_hand = stand.maintained("share", "retention")
    assert (by_hand.returncode, stand.live("share")) == (0, [])


def test_a_lifecycle_worker_on_its_schedule_keeps_to_the_share(
    make_service: Callable[..., Service], postgres_url: str, tmp_path: Path
) -> None:
    schedule = {"TIMESTORE_LIFECYCLE_INTERVAL_SECONDS": "1", "TIMESTORE_LIFECYCLE_JITTER_SECONDS": "0"}
    share = {"TIMESTORE_LIFECYCLE_RETENTION_MAX_SHARE_PERCENT": "30"}
    stand = make_lifecycle_stand(make_service, postgres_url, tmp_path, **schedule, **share)
    stand.service.start()
    stand.ingest("scheduled", 0, batches=10)
    worker = Worker("lifecycle", stand.settings, tmp_path / "worker.log")
    worker.start()
    try:
        wait_until(lambda: [run for run in stand.runs("scheduled") if run["status"] == "completed"], "a scheduled run")
    finally:
        worker.stop()
    runs = stand.runs("scheduled")

    assert {run["trigger_source"] for run in runs} == {"schedule"}
    (retention,) = (one for one in runs[0]["metadata"]["operations"] if one["operation"] == "retention")
    assert retention["partitions"] == 3
    assert "7 more partitions have to go" in retention["message"]


def test_a_dataset_made_again_under_the_slug_of_a_deleted_one_shares_nothing_with_it(stand: LifecycleStand) -> None:
    service, slug = stand.service, "again"
    for number in range(3):
        assert service.ingest(slug, batch([number]), f"key-{number}").status_code == 201
    old = stand.admin("GET", f"datasets/{slug}")["dataset"]["id"]
    stand.admin("PATCH", f"datasets/{slug}", {"status": "inactive"})
    stand.admin("DELETE", f"datasets/{slug}?confirm={slug}")
    gone = stand.stored(slug)
    for number in range(3):
        answer = service.ingest(slug, batch([100 + number]), f"key-{number}")
        assert (answer.status_code, "idempotent-replayed" in answer.headers) == (201, False)
    new = stand.admin("GET", f"datasets/{slug}")["dataset"]["id"]
    stand.age()
    stand.maintain(slug, "compaction", "collection")

    # The deleted one's files are no leftovers of its namesake.
    assert new != old
    assert gone <= stand.stored(slug)
    assert numbers_of(service, slug) == [100, 101, 102]
    with stand.catalog() as catalog:
        catalog.execute("UPDATE datasets SET deleted_at = deleted_at - interval '1 hour' WHERE id = %s", [old])
    swept = stand.command("lifecycle", "sweep", "--json")

    assert json.loads(swept.stdout)["deletedDatasets"] == [slug]
    assert not gone & stand.stored(slug)
    assert numbers_of(service, slug) == [100, 101, 102]
    stand.assert_nothing_leaks(slug)
    stand.assert_verified(slug)


@pytest.mark.parametrize("listing", ["the dataset's", "the owners'"])
def test_after_a_listing_that_failed_half_way_no_leftover_is_deleted(
    stand: LifecycleStand, hinder: Hinder, listing: str
) -> None:
    slug = f"half-way-{listing[4:10].strip(chr(39))}"
    stand.ingest(slug, 0, batches=3)
    stand.age()
    left = {stand.leave_behind(slug) for _ in range(3)}
    stored = stand.stored(slug)
    body = {"datasetSlug": slug, "operations": ["collection"]}
    with hinder.failing_listing(slug if listing == "the dataset's" else ".timestore"):
        refused = stand.service.client.post("/admin/lifecycle/run", json=body)
    with hinder.failing_listing("" if listing == "the dataset's" else ".timestore"):
        swept = stand.command("lifecycle", "sweep", "--json")

    assert refused.status_code == 503
    assert json.loads(swept.stdout)["files"] == 0
    assert stand.stored(slug) == stored
    assert stand.maintain(slug, "collection")["collection"]["leftovers"] == 3
    assert stand.stored(slug) == stored - left == stand.named(slug)
