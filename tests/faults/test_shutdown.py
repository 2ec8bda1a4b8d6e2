"""SIGTERM and time limits: what runs is finished or stopped, with an answer that says which."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psutil
import pytest

from tests.faults.stand import Stand, make_stand
from tests.service import ALL_TIME, Service, batch, numbers_of, wait_until

DRAINING = {"TIMESTORE_SHUTDOWN_DRAIN_MS": "1500"}
ROWS = 300_000


def status_of(service: Service, path: str, timeout_s: float = 60) -> int | None:
    """The status of a GET over a connection of its own; None where nobody answers."""
    try:
        return httpx.get(f"{service.base}{path}", timeout=timeout_s).status_code
    except httpx.TransportError:
        return None


def terminate(service: Service) -> None:
    """SIGTERM to gunicorn's master, as an operator would send it."""
    psutil.Process(service.pid).send_signal(signal.SIGTERM)


# What a lock of the test stops in its request: the publish of a batch, and the reading of a query's snapshot.
SLOW: dict[str, tuple[str, str, Callable[[Service], httpx.Response], int]] = {
    "ingest": (
        "lifecycle_audit_log",
        "LOCK TABLE lifecycle_audit_log IN EXCLUSIVE MODE",
        lambda service: httpx.post(f"{service.base}/datasets/slow/ingest", json=batch([2]), timeout=60),
        201,
    ),
    "query": (
        "datasets",
        "LOCK TABLE datasets IN ACCESS EXCLUSIVE MODE",
        lambda service: httpx.post(f"{service.base}/datasets/slow/query", json={"timeRange": ALL_TIME}, timeout=60),
        200,
    ),
}


@pytest.mark.parametrize("kind", SLOW)
def test_a_running_request_is_finished_after_sigterm(stand_with: Callable[..., Stand], kind: str) -> None:
    stand = stand_with(**DRAINING)
    service = stand.service
    relation, lock, ask, expected = SLOW[kind]
    assert service.ingest("slow", batch([1])).status_code == 201
    with ThreadPoolExecutor(1) as pool, stand.catalog() as holder:
        holder.execute(lock)
        running = pool.submit(ask, service)
        stand.wait_for_a_lock_waiter(relation)

        terminate(service)
        wait_until(lambda: status_of(service, "/ready") == 503, "/ready to say that the service drains")
        while_draining = status_of(service, "/health")
        wait_until(lambda: status_of(service, "/health", timeout_s=2) is None, "the end of the draining")
        assert not running.done()
        holder.rollback()
        answer = running.result()

    assert while_draining == 200
    assert answer.status_code == expected
    if kind == "query":
        assert [row["n"] for row in answer.json()["rows"]] == [1]
    assert service.stop() == 0
    service.start()
    assert numbers_of(service, "slow") == ([1, 2] if kind == "ingest" else [1])


def test_after_draining_new_connections_are_refused_instead_of_left_waiting(stand_with: Callable[..., Stand]) -> None:
    stand = stand_with(TIMESTORE_SHUTDOWN_DRAIN_MS="0")
    service = stand.service
    assert service.ingest("slow", batch([1])).status_code == 201
    relation, lock, ask, _ = SLOW["ingest"]
    with ThreadPoolExecutor(1) as pool, stand.catalog() as holder:
        holder.execute(lock)
        running = pool.submit(ask, service)
        stand.wait_for_a_lock_waiter(relation)
        terminate(service)
        wait_until(lambda: status_of(service, "/health", timeout_s=2) is None, "the end of the draining")

        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{service.base}/health", timeout=2)

        holder.rollback()
        assert running.result().status_code == 201


def test_requests_that_come_while_draining_are_answered(stand_with: Callable[..., Stand]) -> None:
    service = stand_with(**DRAINING).service
    assert service.ingest("drained", batch([0])).status_code == 201

    terminate(service)
    wait_until(lambda: status_of(service, "/ready") == 503, "/ready to say that the service drains")
    created = service.ingest("drained", batch([1]))
    seen = numbers_of(service, "drained")

    assert created.status_code == 201
    assert seen == [0, 1]
    assert service.stop() == 0


def test_a_request_that_never_ends_does_not_keep_the_service_from_ending(stand_with: Callable[..., Stand]) -> None:
    stand = stand_with(TIMESTORE_SHUTDOWN_DRAIN_MS="0", TIMESTORE_SHUTDOWN_TIMEOUT_MS="1000")
    service = stand.service
    assert service.ingest("stuck", batch([1])).status_code == 201
    relation, lock, _, _ = SLOW["ingest"]
    with ThreadPoolExecutor(1) as pool, stand.catalog() as holder:
        holder.execute(lock)
        running = pool.submit(service.ingest, "stuck", batch([2]), "key")
        stand.wait_for_a_lock_waiter(relation)

        service.stop()

        with pytest.raises(httpx.TransportError):
            running.result()
    service.start()
    # PostgreSQL may have finished the statement that waited for the lock: nobody knows, and the key decides.
    assert numbers_of(service, "stuck") in ([1], [1, 2])
    assert service.ingest("stuck", batch([2]), "key").status_code == 201
    assert numbers_of(service, "stuck") == [1, 2]


@pytest.fixture(scope="module")
def hurried(
    make_service: Callable[..., Service], postgres_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stand]:
    """A stand that gives a query a second, over a dataset of 300,000 rows."""
    root = tmp_path_factory.mktemp("hurried") / "storage"
    stand = make_stand(make_service, postgres_url, root, TIMESTORE_QUERY_TIMEOUT_MS="1000")
    stand.service.start()
    for start in range(0, ROWS, 100_000):
        assert stand.service.ingest("large", batch(list(range(start, start + 100_000)))).status_code == 201
    yield stand
    stand.service.kill()


def endless() -> dict[str, Any]:
    """A question over all the rows that takes many times the limit."""
    percentiles = [{"fn": "percentile", "column": "n", "percentile": part / 100} for part in range(1, 90)]
    return {"timeRange": ALL_TIME, "downsample": {"intervalUnit": "second", "aggregations": percentiles}}


def test_a_query_over_its_time_limit_gets_504_and_the_next_one_its_answer(hurried: Stand) -> None:
    (worker,) = hurried.workers()
    for _ in range(2):
        late = hurried.service.query("large", endless())
        small = hurried.service.query("large", {"timeRange": ALL_TIME, "columns": ["n"], "limit": 3})

        assert late.status_code == 504, late.text[:300]
        assert late.json()["code"] == "query_timeout"
        assert "TIMESTORE_QUERY_TIMEOUT_MS" in late.json()["message"]
        assert [row["n"] for row in small.json()["rows"]] == [0, 1, 2]
    assert hurried.workers() == [worker]


def test_a_query_over_its_time_limit_gets_504_also_when_its_rows_are_on_their_way(hurried: Stand) -> None:
    hurried.service.stop()
    hurried.service.start(TIMESTORE_QUERY_TIMEOUT_MS="30")
    # Of ever more rows, those that take a little longer than the limit are cut off while they are fetched.
    answers = [
        hurried.service.query("large", {"timeRange": {**ALL_TIME, "end": batch([rows])["rows"][0]["timestamp"]}})
        for rows in range(10_000, ROWS, 10_000)
    ]

    assert {answer.status_code for answer in answers} <= {200, 504}
