"""SIGKILL at every step of an ingest: what was acknowledged is there once, the rest once or not at all."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import httpx
import pytest

from tests.faults.killer import Killer, make_killer
from tests.faults.stand import Stand, make_stand
from tests.service import ALL_TIME, Service, batch, numbers_of, wait_until

STEPS = ["ingest.decoded", "ingest.file_written", "ingest.file_stored", "ingest.published"]
# A lock that a test holds stops the service inside its transaction: before it has the dataset's row, and when
# everything is written and only the commit is missing.
LOCKS = {
    "waiting for the dataset's row": ("datasets", "SELECT * FROM datasets FOR UPDATE"),
    "holding all, before the commit": ("lifecycle_audit_log", "LOCK TABLE lifecycle_audit_log IN EXCLUSIVE MODE"),
}


@dataclass(frozen=True)
class Victim:
    """A stand whose service has the killer, and the numbers that it has acknowledged."""

    stand: Stand
    killer: Killer

    def acknowledged(self, slug: str) -> list[int]:
        for start in (0, 10):
            assert self.stand.service.ingest(slug, batch([start, start + 1]), f"before-{start}").status_code == 201
        return [0, 1, 10, 11]


@pytest.fixture(scope="module")
def victim(
    make_service: Callable[..., Service], postgres_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Victim]:
    home = tmp_path_factory.mktemp("victim")
    killer = make_killer(home / "killer")
    stand = make_stand(make_service, postgres_url, home / "storage", **killer.settings)
    stand.service.start()
    yield Victim(stand, killer)
    stand.service.kill()


def unanswered(service: Service, slug: str, numbers: list[int], key: str | None) -> None:
    """Send a batch whose connection ends without an answer."""
    with pytest.raises(httpx.TransportError):
        service.ingest(slug, batch(numbers), key)


@pytest.mark.parametrize("step", STEPS)
def test_a_batch_killed_at_a_step_is_there_once_after_its_retry(victim: Victim, step: str) -> None:
    stand, service, slug = victim.stand, victim.stand.service, f"keyed-{step}"
    before = victim.acknowledged(slug)
    victim.killer.arm(step)
    unanswered(service, slug, [20, 21], "killed")
    assert victim.killer.has_struck
    service.kill()
    service.start()
    published = step == "ingest.published"

    assert numbers_of(service, slug) == before + ([20, 21] if published else [])
    stand.assert_the_catalog_names_only_whole_files()
    again = service.ingest(slug, batch([20, 21]), "killed")

    assert again.status_code == 201
    assert again.headers.get("idempotent-replayed") == ("true" if published else None)
    assert again.json()["manifest"]["version"] == 3
    assert numbers_of(service, slug) == [*before, 20, 21]
    stand.assert_the_catalog_names_only_whole_files()


@pytest.mark.parametrize("place", LOCKS)
def test_a_batch_killed_inside_its_transaction_is_there_once_after_its_retry(victim: Victim, place: str) -> None:
    stand, service, slug = victim.stand, victim.stand.service, f"locked-{place.split()[0]}"
    before = victim.acknowledged(slug)
    relation, lock = LOCKS[place]
    with ThreadPoolExecutor(1) as pool, stand.catalog() as holder:
        holder.execute(lock)
        sending = pool.submit(unanswered, service, slug, [20, 21], "killed")
        stand.wait_for_a_lock_waiter(relation)
        service.kill()
        sending.result()
    service.start()

    # PostgreSQL may have finished the statement of a process that is gone: nobody was told so.
    assert numbers_of(service, slug) in (before, [*before, 20, 21])
    assert service.ingest(slug, batch([20, 21]), "killed").json()["manifest"]["version"] == 3
    assert numbers_of(service, slug) == [*before, 20, 21]
    stand.assert_the_catalog_names_only_whole_files()


@pytest.mark.parametrize("step", STEPS)
def test_a_batch_without_a_key_is_whole_or_absent_when_its_worker_is_killed(victim: Victim, step: str) -> None:
    stand, service, slug = victim.stand, victim.stand.service, f"keyless-{step}"
    before = victim.acknowledged(slug)
    victim.killer.arm(step)

    unanswered(service, slug, [20, 21], None)
    # gunicorn's master replaces the worker: nobody starts anything.
    wait_until(lambda: is_ready(service), "another worker")

    assert numbers_of(service, slug) == before + ([20, 21] if step == "ingest.published" else [])
    stand.assert_the_catalog_names_only_whole_files()


def test_a_first_batch_killed_when_it_was_stored_leaves_no_dataset_behind(victim: Victim) -> None:
    service, slug = victim.stand.service, "never-begun"
    victim.killer.arm("ingest.file_stored")
    unanswered(service, slug, [1], "killed")
    wait_until(lambda: is_ready(service), "another worker")

    assert service.query(slug, {"timeRange": ALL_TIME}).status_code == 404
    assert service.ingest(slug, batch([1]), "killed").json()["manifest"]["version"] == 1


def test_kills_at_any_moment_of_a_load_lose_and_double_nothing(victim: Victim) -> None:
    stand, service, slug = victim.stand, victim.stand.service, "load"
    batches = 120
    acknowledged = [threading.Event() for _ in range(batches)]

    def write(number: int) -> None:
        with httpx.Client(base_url=service.base, timeout=60) as client:
            while not acknowledged[number].is_set():
                try:
                    answer = client.post(
                        f"/datasets/{slug}/ingest",
                        json=batch([number * 2, number * 2 + 1]),
                        headers={"idempotency-key": f"batch-{number}"},
                    )
                except httpx.TransportError:
                    continue
                assert answer.status_code in (201, 503)
                if answer.status_code == 201:
                    acknowledged[number].set()

    with ThreadPoolExecutor(8) as pool:
        writing = [pool.submit(write, number) for number in range(batches)]
        for enough in (30, 60, 90):
            wait_until(
                lambda enough=enough: sum(one.is_set() for one in acknowledged) >= enough, f"{enough} batches", 60
            )
            service.kill()
            service.start()
        for one in writing:
            one.result()

    assert numbers_of(service, slug) == list(range(2 * batches))
    assert [one["added_version"] for one in stand.partitions() if one["slug"] == slug] == list(range(1, batches + 1))
    stand.assert_the_catalog_names_only_whole_files()


def is_ready(service: Service) -> bool:
    try:
        return httpx.get(f"{service.base}/ready", timeout=10).status_code == 200
    except httpx.TransportError:
        return False
