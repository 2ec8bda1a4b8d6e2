"""SIGKILL while batches go into the catalog, and while they are gathered out of it: nothing is lost or doubled."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from uuid import uuid4

import httpx
import pytest

from tests.faults.killer import Killer, make_killer
from tests.faults.stand import Stand, make_stand
from tests.service import Service, batch, numbers_of, wait_until

INGEST_STEPS = ["ingest.encoded", "ingest.published"]
COMPACTION_STEPS = ["compaction.file_written", "compaction.file_stored", "compaction.published"]
LOCKS = {
    "waiting for the dataset's row": ("datasets", "SELECT * FROM datasets FOR UPDATE"),
    "holding all, before the commit": ("lifecycle_audit_log", "LOCK TABLE lifecycle_audit_log IN EXCLUSIVE MODE"),
}


@dataclass(frozen=True)
class Victim:
    """A stand whose service has the killer."""

    stand: Stand
    killer: Killer

    def dataset(self, numbers: list[int]) -> str:
        """The slug of a new dataset with a batch for each of the numbers, all of them in the catalog."""
        slug = f"i-{uuid4().hex[:8]}"
        made = self.stand.service.client.post("/admin/datasets", json={"slug": slug, "writeFormat": "auto"})
        assert made.status_code == 201
        for number in numbers:
            assert self.stand.service.ingest(slug, batch([number]), f"key-{number}").status_code == 201
        return slug


@pytest.fixture(scope="module")
def victim(
    make_service: Callable[..., Service], postgres_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Victim]:
    home = tmp_path_factory.mktemp("inline-victim")
    killer = make_killer(home / "killer")
    stand = make_stand(
        make_service,
        postgres_url,
        home / "storage",
        TIMESTORE_INGEST_INLINE_MAX_PARTITIONS="40",
        **killer.settings,
    )
    stand.service.start()
    yield Victim(stand, killer)
    stand.service.kill()


def unanswered(service: Service, slug: str, number: int) -> None:
    """Send a batch whose connection ends without an answer."""
    with pytest.raises(httpx.TransportError):
        service.ingest(slug, batch([number]), f"key-{number}")


@pytest.mark.parametrize("step", INGEST_STEPS)
def test_a_batch_killed_at_a_step_is_there_once_after_its_retry(victim: Victim, step: str) -> None:
    stand, service = victim.stand, victim.stand.service
    slug = victim.dataset([1, 2])
    victim.killer.arm(step)
    unanswered(service, slug, 3)
    assert victim.killer.has_struck
    wait_until(lambda: is_ready(service), "another worker")
    published = step == "ingest.published"

    assert numbers_of(service, slug) == ([1, 2, 3] if published else [1, 2])
    again = service.ingest(slug, batch([3]), "key-3")
    assert again.status_code == 201
    assert again.headers.get("idempotent-replayed") == ("true" if published else None)
    assert again.json()["manifest"]["version"] == 3
    assert numbers_of(service, slug) == [1, 2, 3]
    stand.assert_the_catalog_names_only_whole_files()


@pytest.mark.parametrize("place", LOCKS)
def test_a_batch_killed_inside_its_transaction_is_there_once_after_its_retry(victim: Victim, place: str) -> None:
    stand, service = victim.stand, victim.stand.service
    slug = victim.dataset([1, 2])
    relation, lock = LOCKS[place]
    with ThreadPoolExecutor(1) as pool, stand.catalog() as holder:
        holder.execute(lock)
        sending = pool.submit(unanswered, service, slug, 3)
        stand.wait_for_a_lock_waiter(relation)
        service.kill()
        sending.result()
    service.start()

    seen = numbers_of(service, slug)
    assert seen in ([1, 2], [1, 2, 3])
    again = service.ingest(slug, batch([3]), "key-3")
    assert again.status_code == 201
    assert again.json()["manifest"]["version"] == 3
    assert numbers_of(service, slug) == [1, 2, 3]
    stand.assert_the_catalog_names_only_whole_files()


@pytest.mark.parametrize("step", COMPACTION_STEPS)
def test_gathering_killed_at_a_step_loses_and_doubles_nothing(victim: Victim, step: str) -> None:
    stand, service = victim.stand, victim.stand.service
    slug = victim.dataset([1, 2, 3])
    run = {"datasetSlug": slug, "operations": ["compaction"]}
    victim.killer.arm(step)
    with pytest.raises(httpx.TransportError):
        service.client.post("/admin/lifecycle/run", json=run)
    assert victim.killer.has_struck
    wait_until(lambda: is_ready(service), "another worker")

    assert numbers_of(service, slug) == [1, 2, 3]
    stand.assert_the_catalog_names_only_whole_files()
    assert service.client.post("/admin/lifecycle/run", json=run).status_code == 200
    assert numbers_of(service, slug) == [1, 2, 3]
    assert service.ingest(slug, batch([2]), "key-2").headers["idempotent-replayed"] == "true"
    stand.assert_the_catalog_names_only_whole_files()


def test_kills_at_any_moment_of_a_load_that_is_gathered_meanwhile_lose_and_double_nothing(victim: Victim) -> None:
    stand, service = victim.stand, victim.stand.service
    slug = victim.dataset([])
    batches = 120
    acknowledged = [threading.Event() for _ in range(batches)]

    def write(number: int) -> None:
        with httpx.Client(base_url=service.base, timeout=60) as client:
            while not acknowledged[number].is_set():
                headers = {"idempotency-key": f"batch-{number}"}
                try:
                    answer = client.post(f"/datasets/{slug}/ingest", json=batch([number]), headers=headers)
                except httpx.TransportError:
                    continue
                assert answer.status_code in (201, 503)
                if answer.status_code == 201:
                    acknowledged[number].set()

    with ThreadPoolExecutor(8) as pool:
        writing = [pool.submit(write, number) for number in range(batches)]
        for enough in (45, 90):
            wait_until(lambda enough=enough: sum(one.is_set() for one in acknowledged) >= enough, f"{enough} batches")
            service.kill()
            service.start()
        for one in writing:
            one.result()

    assert numbers_of(service, slug) == list(range(batches))
    stand.assert_the_catalog_names_only_whole_files()


def is_ready(service: Service) -> bool:
    try:
        return httpx.get(f"{service.base}/ready", timeout=10).status_code == 200
    except httpx.TransportError:
        return False
