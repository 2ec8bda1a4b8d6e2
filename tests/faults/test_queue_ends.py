"""PostgreSQL away under busy workers, workers told to stop, and everything killed: what was accepted is there once."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.faults.own_postgres import own_postgres
from tests.faults.queue_stand import log_lines, make_hindrance, queue_stand
from tests.service import Service, wait_until

pytestmark = pytest.mark.extended

OUTAGE_S = 10


def test_jobs_wait_for_a_postgresql_that_is_away_and_none_fails(
    make_service: Callable[..., Service], tmp_path: Path
) -> None:
    numbers = list(range(60))
    holding = make_hindrance(tmp_path / "holding", "ingest.file_written", "hold")
    with (
        own_postgres() as postgres,
        queue_stand(make_service, postgres.url, tmp_path) as stand,
    ):
        stand.service.start()
        with ThreadPoolExecutor(8) as pool:
            jobs = list(pool.map(lambda number: stand.accept("waits", [number], f"batch-{number}"), numbers))
        workers = [stand.worker(**holding.settings, TIMESTORE_INGEST_COALESCE=how).start() for how in ("off", "on")]
        wait_until(lambda: holding.is_reached, "a job in the middle")
        postgres.stop("immediate")
        holding.release()
        # The outage is the fault here, not a wait for anything.
        time.sleep(OUTAGE_S)
        postgres.start()

        stand.wait_for("waits", numbers)
        assert {stand.finished("waits", job_id)["status"] for job_id in jobs} == {"completed"}
        assert stand.job_states()["failed"] == 0
        assert stand.count("ingest_journal") == 0
        assert "delayed" in {line["outcome"] for worker in workers for line in log_lines(worker, "job")}
        assert [worker.stop() for worker in workers] == [0, 0]
        stand.assert_the_catalog_names_only_whole_files()


def test_a_worker_told_to_stop_finishes_its_job_and_takes_no_other(
    make_service: Callable[..., Service], postgres_url: str, tmp_path: Path
) -> None:
    holding = make_hindrance(tmp_path / "holding", "ingest.file_written", "hold")
    with queue_stand(make_service, postgres_url, tmp_path, TIMESTORE_INGEST_CONCURRENCY="1") as stand:
        stand.service.start()
        worker = stand.worker(**holding.settings).start()
        jobs = [stand.accept("stopped", [number]) for number in range(50)]
        wait_until(lambda: holding.is_reached, "a job in the middle")

        with ThreadPoolExecutor(1) as pool:
            ending = pool.submit(worker.stop)
            wait_until(lambda: log_lines(worker, "worker.stopping"), "the worker to hear it")
            holding.release()
            status = ending.result()

        assert status == 0
        states = stand.job_states()
        assert (states["active"], states["failed"]) == (0, 0)
        assert states["wait"] + states["delayed"] > 0
        assert len(stand.visible("stopped")) == states["completed"] > 0
        stand.worker().start()
        assert {stand.finished("stopped", job_id)["status"] for job_id in jobs} == {"completed"}
        assert stand.visible("stopped") == list(range(50))


def test_a_job_that_outlasts_the_limit_is_given_back_and_done_by_another_worker_at_once(
    make_service: Callable[..., Service], postgres_url: str, tmp_path: Path
) -> None:
    holding = make_hindrance(tmp_path / "holding", "ingest.file_written", "hold")
    with queue_stand(make_service, postgres_url, tmp_path) as stand:
        stand.service.start()
        worker = stand.worker(**holding.settings, TIMESTORE_SHUTDOWN_TIMEOUT_MS="500").start()
        job_id = stand.accept("outlasts", [1])
        wait_until(lambda: holding.is_reached, "a job in the middle")

        # The job is held for ever: the worker ends all the same.
        assert worker.stop() == 0

        states = stand.job_states()
        assert (states["active"], states["failed"]) == (0, 0)
        stand.worker().start()
        assert stand.finished("outlasts", job_id)["status"] == "completed"
        assert int(stand.queued(job_id).get("stc", 0)) == 0
        assert stand.visible("outlasts") == [1]


def test_what_was_acknowledged_survives_the_end_of_everything(
    make_service: Callable[..., Service], postgres_url: str, tmp_path: Path
) -> None:
    numbers = list(range(60))
    with queue_stand(make_service, postgres_url, tmp_path) as stand:
        stand.service.start()
        workers = [stand.worker(TIMESTORE_INGEST_COALESCE=how).start() for how in ("off", "on")]
        with ThreadPoolExecutor(8) as pool:
            jobs = list(pool.map(lambda number: stand.accept("survives", [number]), numbers))
        stand.kill()

        stand.valkey.start()
        stand.service.start()
        for worker in workers:
            worker.start()

        stand.wait_for("survives", numbers)
        assert {stand.finished("survives", job_id)["status"] for job_id in jobs} == {"completed"}
        assert stand.count("ingest_journal") == 0
        stand.assert_the_catalog_names_only_whole_files()
