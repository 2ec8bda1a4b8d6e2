"""PostgreSQL goes away under load and comes back: the service says so, waits, and loses nothing."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import httpx
import pytest

from tests.faults.own_postgres import Mode, OwnPostgres, own_postgres
from tests.faults.stand import Stand, make_stand
from tests.service import ALL_TIME, Service, batch, numbers_of, wait_until


@pytest.fixture(scope="module")
def restartable(
    make_service: Callable[..., Service], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Stand, OwnPostgres]]:
    with own_postgres() as postgres:
        root = tmp_path_factory.mktemp("restart") / "storage"
        stand = make_stand(
            make_service, postgres.url, root, TIMESTORE_HTTP_WORKERS="2", TIMESTORE_PGPOOL_CONNECTION_TIMEOUT_MS="2000"
        )
        stand.service.start()
        yield stand, postgres
        stand.service.kill()


class Load:
    """Writers that send each batch until it is acknowledged, and readers that miss nothing acknowledged."""

    def __init__(self, base: str, slug: str) -> None:
        self._base = base
        self._slug = slug
        self._numbers = itertools.count()
        self._over = threading.Event()
        self._lock = threading.Lock()
        self.acknowledged: set[int] = set()
        self.refused = 0

    def write(self) -> None:
        with httpx.Client(base_url=self._base, timeout=60) as client:
            while not self._over.is_set():
                number = next(self._numbers)
                while self._send(client, number) != 201:
                    pass
                with self._lock:
                    self.acknowledged.add(number)

    def read(self) -> None:
        with httpx.Client(base_url=self._base, timeout=60) as client:
            while not self._over.is_set():
                with self._lock:
                    expected = set(self.acknowledged)
                answer = client.post(f"/datasets/{self._slug}/query", json={"timeRange": ALL_TIME})
                if self._came(answer, 200):
                    assert expected <= {row["n"] for row in answer.json()["rows"]}

    def end(self) -> None:
        self._over.set()

    def _send(self, client: httpx.Client, number: int) -> int:
        answer = client.post(
            f"/datasets/{self._slug}/ingest", json=batch([number]), headers={"idempotency-key": f"batch-{number}"}
        )
        self._came(answer, 201)
        return answer.status_code

    def _came(self, answer: httpx.Response, expected: int) -> bool:
        """Whether the answer is the expected one; the only other one is 503, which says when to come back."""
        if answer.status_code == expected:
            return True
        assert answer.status_code == 503, answer.text
        assert int(answer.headers["retry-after"]) >= 1
        with self._lock:
            self.refused += 1
        return False


@pytest.mark.parametrize("mode", ["immediate", "fast"])
def test_a_restart_of_postgresql_under_load_needs_no_restart_of_the_service(
    restartable: tuple[Stand, OwnPostgres], mode: Mode
) -> None:
    stand, postgres = restartable
    service, slug = stand.service, f"load-{mode}"
    assert service.ingest(slug, batch([100_000]), "first").status_code == 201
    workers = {worker.pid for worker in stand.workers()}
    load = Load(service.base, slug)

    def progress(running: list[Future[None]], count: Callable[[], int], what: str) -> None:
        """Wait for ten more; a writer or a reader that failed ends the test."""
        enough = count() + 10
        wait_until(lambda: count() >= enough or any(one.done() for one in running), what, 90)
        for one in running:
            if one.done():
                one.result()

    with ThreadPoolExecutor(6) as pool:
        running = [pool.submit(work) for work in (load.write, load.write, load.write, load.write, load.read, load.read)]
        try:
            progress(running, lambda: len(load.acknowledged), "batches before")
            postgres.stop(mode)
            try:
                progress(running, lambda: load.refused, "refusals")
                ready = httpx.get(f"{service.base}/ready", timeout=60)
                health = httpx.get(f"{service.base}/health", timeout=60)
            finally:
                postgres.start()
            wait_until(lambda: httpx.get(f"{service.base}/ready", timeout=60).status_code == 200, "readiness")
            progress(running, lambda: len(load.acknowledged), "batches after")
        finally:
            load.end()

    assert (ready.status_code, health.status_code) == (503, 200)
    assert ready.json()["details"]["postgresql"]["status"] == "down"
    assert ready.json()["details"]["engine"]["status"] == "up"
    assert numbers_of(service, slug) == [*sorted(load.acknowledged), 100_000]
    named = [one for one in stand.partitions() if one["slug"] == slug]
    assert [one["added_version"] for one in named] == list(range(1, len(load.acknowledged) + 2))
    stand.assert_the_catalog_names_only_whole_files()
    assert {worker.pid for worker in stand.workers()} == workers
