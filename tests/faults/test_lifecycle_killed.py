"""SIGKILL at every step of maintenance: run again, it ends as if it had never been killed, and nothing leaks."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest

from tests.faults.killer import Killer, make_killer
from tests.faults.lifecycle_stand import LifecycleStand, make_lifecycle_stand
from tests.faults.postgres_proxy import Cut, PostgresProxy, postgres_proxy
from tests.service import Service, batch, wait_until

pytestmark = pytest.mark.extended

BATCHES, ROWS = 6, 40
FIRST_MINUTE = {"start": "2024-01-01T00:00:00Z", "end": "2024-01-01T00:00:59Z"}


@dataclass(frozen=True)
class Victim:
    """A stand whose processes have the killer; what operations do that nobody kills, once each."""

    stand: LifecycleStand
    killer: Killer
    spared: dict[str, dict[str, Any]] = field(default_factory=dict)


@pytest.fixture(scope="module")
def victim(
    make_service: Callable[..., Service], postgres_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Victim]:
    home = tmp_path_factory.mktemp("victim")
    killer = make_killer(home / "killer")
    # Groups of three: there is more than one to be killed between.
    settings = {"TIMESTORE_LIFECYCLE_COMPACTION_MAX_PARTITIONS": "3", **killer.settings}
    stand = make_lifecycle_stand(make_service, postgres_url, home, **settings)
    stand.service.start()
    cold = {"name": "cold", "kind": "local", "config": {"root": str(stand.cold)}}
    stand.admin("POST", "storage-targets", cold)
    yield Victim(stand, killer)
    stand.service.kill()


def prepare(stand: LifecycleStand, operation: str, slug: str) -> None:
    """A dataset that the operation has something to do with."""
    stand.ingest(slug, 0, BATCHES, ROWS)
    if operation == "retention":
        far = batch([1, 2], rows=[{"timestamp": f"2099-01-01T00:00:0{n}Z", "n": n} for n in (1, 2)])
        far["partition"]["timeRange"] = {"start": "2099-01-01T00:00:01Z", "end": "2099-01-01T00:00:02Z"}
        assert stand.service.ingest(slug, far).status_code == 201
    if operation == "tiering":
        (cold,) = (one for one in stand.admin("GET", "storage-targets")["storageTargets"] if one["name"] == "cold")
        policy = {"coldStorageAfterHours": 1, "metadata": {"coldStorageTargetId": cold["id"]}}
        stand.admin("PUT", f"datasets/{slug}/retention", {**policy, "mode": "size", "deleteGraceMinutes": 0})
    if operation in ("collection", "restore"):
        stand.maintain(slug, "compaction")
    if operation == "collection":
        for _ in range(3):
            stand.leave_behind(slug)


def perform(stand: LifecycleStand, operation: str, slug: str) -> bool:
    """Whether the operation lived to its end."""
    if operation not in ("deletion", "restore"):
        done = stand.maintained(slug, operation)
        assert done.returncode in (0, -signal.SIGKILL), done
        return done.returncode == 0
    path, body = (
        ("delete-rows", {"timeRange": FIRST_MINUTE}) if operation == "deletion" else ("restore", {"version": 5})
    )
    try:
        answer = stand.service.client.post(f"/admin/datasets/{slug}/{path}", json=body)
    except httpx.TransportError:
        return False
    assert answer.status_code == 200 or answer.json().get("code") == "nothing_to_restore", answer.text
    return True


def outcome(stand: LifecycleStand, operation: str, slug: str) -> dict[str, Any]:
    """What an operation has to leave, whatever happened to it on the way."""
    found: dict[str, Any] = {
        "answers": stand.answers(slug),
        "version": stand.version(slug),
        "partitions": sorted((one["row_count"], Path(one["root"]).name) for one in stand.live(slug)),
    }
    if operation == "parquetExport":
        newest = max(stand.named(slug) & set(stand.stored(f"exports/{slug}")))
        found["exported"] = pq.read_table(newest).to_pylist()
    return found


def spared_outcome(victim: Victim, operation: str) -> dict[str, Any]:
    """What the operation leaves of the same rows when nobody disturbs it."""
    slug = f"spared-{operation}".lower()
    if operation not in victim.spared:
        prepare(victim.stand, operation, slug)
        assert perform(victim.stand, operation, slug)
        victim.spared[operation] = outcome(victim.stand, operation, slug)
    return victim.spared[operation]


STEPS = [
    ("compaction", "compaction.file_written"),
    ("compaction", "compaction.file_stored"),
    ("compaction", "compaction.published"),
    ("retention", "retention.published"),
    ("tiering", "tiering.file_written"),
    ("tiering", "tiering.file_stored"),
    ("tiering", "tiering.published"),
    ("parquetExport", "parquetExport.file_written"),
    ("parquetExport", "parquetExport.file_stored"),
    ("parquetExport", "parquetExport.published"),
    ("deletion", "deletion.file_written"),
    ("deletion", "deletion.file_stored"),
    ("deletion", "deletion.published"),
    ("collection", "collection.file_deleted"),
    ("collection", "collection.rows_deleted"),
    ("collection", "collection.leftover_deleted"),
    ("restore", "restore.published"),
]


@pytest.mark.parametrize(("operation", "step"), STEPS)
def test_an_operation_that_is_killed_at_a_step_ends_as_if_it_had_not_been(
    victim: Victim, operation: str, step: str
) -> None:
    stand, slug = victim.stand, step.lower().replace(".", "-")
    expected = spared_outcome(victim, operation)
    prepare(stand, operation, slug)
    victim.killer.arm(step)

    assert not perform(stand, operation, slug)
    assert victim.killer.has_struck
    stand.wait_until_no_maintenance_holds_its_lock()
    wait_until(lambda: is_ready(stand.service), "another worker")
    stand.assert_whole(slug)
    assert perform(stand, operation, slug)

    assert outcome(stand, operation, slug) == expected
    stand.assert_nothing_leaks(slug)
    stand.assert_verified(slug)
    stand.assert_whole(slug)
    assert outcome(stand, operation, slug) == expected
    assert_the_killed_run_is_known_as_failed(stand, operation, slug)


def assert_the_killed_run_is_known_as_failed(stand: LifecycleStand, operation: str, slug: str) -> None:
    runs = [run for run in stand.runs(slug) if run["operations"] == [operation]]
    if operation in ("deletion", "restore"):
        return
    (killed,) = (run for run in runs if run["status"] == "failed")
    assert killed["error"] == "its process ended before it did"
    assert killed["completed_at"] is not None
    assert {run["status"] for run in runs} <= {"failed", "completed", "skipped"}


def is_ready(service: Service) -> bool:
    try:
        return httpx.get(f"{service.base}/ready", timeout=10).status_code == 200
    except httpx.TransportError:
        return False


def test_a_compaction_killed_inside_its_transaction_leaves_the_snapshot_as_it_was(victim: Victim) -> None:
    stand, slug = victim.stand, "in-the-transaction"
    prepare(stand, "compaction", slug)
    before, version = stand.answers(slug), stand.version(slug)
    with stand.catalog() as holder:
        # Everything is written then, and only the commit is missing.
        holder.execute("LOCK TABLE lifecycle_audit_log IN EXCLUSIVE MODE")
        process = stand.started("lifecycle", "run", slug, "--operations", "compaction")
        stand.wait_for_a_lock_waiter("lifecycle_audit_log")
        process.kill()
        process.communicate()
    stand.wait_until_no_maintenance_holds_its_lock()

    assert (stand.answers(slug), stand.version(slug), len(stand.live(slug))) == (before, version, BATCHES)
    assert perform(stand, "compaction", slug)

    assert (stand.answers(slug), len(stand.live(slug))) == (before, 2)
    stand.assert_nothing_leaks(slug)
    stand.assert_verified(slug)
    assert_the_killed_run_is_known_as_failed(stand, "compaction", slug)


# A commit whose answer is lost: what maintenance publishes it publishes once.

CUTS: list[Cut] = ["before the server has it", "after the server has done it"]
PUBLISHING = ["compaction", "retention", "tiering", "deletion"]


@pytest.fixture(scope="module")
def proxied(
    make_service: Callable[..., Service], postgres_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[LifecycleStand, PostgresProxy]]:
    with postgres_proxy(postgres_url) as (proxy, url):
        home = tmp_path_factory.mktemp("proxied")
        settings = {"TIMESTORE_LIFECYCLE_COMPACTION_MAX_PARTITIONS": "3", "TIMESTORE_DATABASE_URL": url}
        stand = make_lifecycle_stand(make_service, postgres_url, home, **settings)
        stand.service.start()
        stand.admin("POST", "storage-targets", {"name": "cold", "kind": "local", "config": {"root": str(stand.cold)}})
        # Whatever a process writes down when it first comes to a target is written.
        prepare(stand, "tiering", "warm")
        stand.maintain("warm", "tiering", "collection")
        yield stand, proxy
        stand.service.kill()


def maintained_by_the_service(stand: LifecycleStand, operation: str, slug: str) -> httpx.Response:
    path, body = "lifecycle/run", {"datasetSlug": slug, "operations": [operation]}
    if operation == "deletion":
        path, body = f"datasets/{slug}/delete-rows", {"timeRange": FIRST_MINUTE}
    return stand.service.client.post(f"/admin/{path}", json=body)


@pytest.mark.parametrize("operation", PUBLISHING)
@pytest.mark.parametrize("cut", CUTS)
def test_a_change_whose_commit_is_cut_is_made_once(
    proxied: tuple[LifecycleStand, PostgresProxy], victim: Victim, cut: Cut, operation: str
) -> None:
    stand, proxy = proxied
    slug = f"cut-{cut.split()[0]}-{operation}"
    prepare(stand, operation, slug)
    version = stand.version(slug)
    proxy.cut_next(cut)

    answer = maintained_by_the_service(stand, operation, slug)

    assert proxy.cut_count == 1
    assert answer.status_code == 200, answer.text
    changes = {"compaction": 2, "tiering": BATCHES}.get(operation, 1)
    assert stand.version(slug) == version + changes
    assert outcome(stand, operation, slug) == spared_outcome(victim, operation)
    stand.assert_nothing_leaks(slug)
    stand.assert_whole(slug)


@pytest.mark.parametrize("operation", PUBLISHING)
@pytest.mark.parametrize("cut", CUTS)
def test_a_change_whose_commit_is_never_answered_is_finished_by_the_next_run(
    proxied: tuple[LifecycleStand, PostgresProxy], victim: Victim, cut: Cut, operation: str
) -> None:
    stand, proxy = proxied
    slug = f"never-{cut.split()[0]}-{operation}"
    prepare(stand, operation, slug)
    before = stand.answers(slug)
    proxy.cut_next(cut, times=100)

    unknown = maintained_by_the_service(stand, operation, slug)
    proxy.cut_next(cut, times=0)

    assert unknown.status_code == 503
    assert int(unknown.headers["retry-after"]) >= 1
    stand.assert_whole(slug)
    if operation in ("compaction", "tiering"):
        assert stand.answers(slug) == before
    again = maintained_by_the_service(stand, operation, slug)

    assert again.status_code == 200, again.text
    assert outcome(stand, operation, slug) == spared_outcome(victim, operation)
    stand.assert_nothing_leaks(slug)
    stand.assert_whole(slug)
