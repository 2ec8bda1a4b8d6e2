"""Everything at once: writers, readers, maintenance, reversals and kills over some datasets, then the end's checks."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.faults.killer import make_killer
from tests.faults.lifecycle_stand import LifecycleStand, make_lifecycle_stand
from tests.service import Service, Worker, wait_until
from tests.soak.caller import Caller, admin_path
from tests.soak.crasher import Crasher
from tests.soak.ending import Ending, files_below
from tests.soak.follower import Follower
from tests.soak.history import History
from tests.soak.ledger import Ledger
from tests.soak.maintainers import ApiMaintainer, CommandMaintainer
from tests.soak.model import COMPACTION, DELETION, INGEST, RESTORE, RETENTION, TIERING, Model
from tests.soak.plans import Plan, make_plans
from tests.soak.readers import Reader
from tests.soak.reversers import Reverser
from tests.soak.watch import Watch, log
from tests.soak.writers import Writer, send

WRITERS = READERS = 4
_SETTINGS = {
    "TIMESTORE_HTTP_WORKERS": "2",
    "TIMESTORE_HTTP_THREADS": "8",
    "TIMESTORE_QUERY_THREADS": "1",
    "TIMESTORE_LIFECYCLE_THREADS": "1",
    "TIMESTORE_LIFECYCLE_INTERVAL_SECONDS": "1",
    "TIMESTORE_LIFECYCLE_JITTER_SECONDS": "0",
    "TIMESTORE_LIFECYCLE_COMPACTION_MAX_PARTITIONS": "6",
    "TIMESTORE_LIFECYCLE_COMPACTION_FAN_OUT": "2",
    # Small enough that what is old does not stand beside what is new for ever: retention finds whole partitions.
    "TIMESTORE_LIFECYCLE_COMPACTION_SMALL_BYTES": "150000",
    "TIMESTORE_LIFECYCLE_COMPACTION_TARGET_BYTES": "300000",
    "TIMESTORE_LIFECYCLE_ORPHAN_AGE_MINUTES": "10",
    "TIMESTORE_LOG_LEVEL": "warn",
}
# What has to have happened for a run to mean anything; it goes on for a while until it has.
_NEEDED = (
    INGEST,
    COMPACTION,
    RETENTION,
    TIERING,
    DELETION,
    RESTORE,
    "kills",
    "exports",
    "scheduled runs",
    "files collected",
    "connections cut",
    "sent twice at once",
    "sent again later",
    "asked twice of one version",
    "earlier versions asked",
)
_COUNTED = """
SELECT (SELECT count(*) FROM lifecycle_audit_log WHERE event_type = 'export.parquet.created') AS exports,
    (SELECT count(*) FROM lifecycle_job_runs WHERE trigger_source = 'schedule' AND status = 'completed')
        AS "scheduled runs"
"""
_AT_MOST_LONGER_S = 90
_PROGRESS_EVERY_S = 5.0


@dataclass(frozen=True)
class Outcome:
    """What a run found wrong, what it never came to, and what it counted."""

    problems: list[str]
    missing: list[str]
    figures: dict[str, int]


def run_scenario(
    make_service: Callable[..., Service], postgres_url: str, home: Path, seed: int, seconds: float
) -> Outcome:
    """A run of about this length."""
    killer = make_killer(home / "killer")
    stand = make_lifecycle_stand(make_service, postgres_url, home, **_SETTINGS, **killer.settings)
    stand.service.start()
    watch, plans = Watch(), make_plans(seconds)
    ledger, history = Ledger(watch.problem), History(stand, watch.problem)
    worker = Worker("lifecycle", {**stand.settings}, home / "lifecycle.log")
    try:
        _prepare(stand, watch, ledger, history, plans)
        base = stand.service.base

        def rng(name: str) -> random.Random:
            return random.Random(f"{seed}/{name}")

        command = CommandMaintainer(stand, watch, plans, rng("command"))
        crasher = Crasher(stand, watch, killer, worker, command, rng("crasher"))
        parts: dict[str, Callable[[], None]] = {
            **{f"writer-{n}": Writer(base, watch, ledger, plans, rng(f"w{n}")).run for n in range(WRITERS)},
            **{f"reader-{n}": Reader(base, watch, history, plans, rng(f"r{n}")).run for n in range(READERS)},
            "follower": Follower(base, watch, history, plans, rng("follower")).run,
            "maintainer": ApiMaintainer(base, watch, plans, rng("maintainer")).run,
            "command": command.run,
            "reverser": Reverser(base, watch, history, plans, rng("reverser")).run,
            "crasher": crasher.run,
        }
        worker.start(wait=False)
        threads = [watch.thread(name, work) for name, work in parts.items()]
        for thread in threads:
            thread.start()
        watch.guard("the progress", lambda: _wait(stand, watch, history, seconds))
        _stop(watch, threads, worker)
        watch.guard("the end", Ending(stand, watch, ledger, history, worker.log).run)
        figures = _figures(stand, watch, history)
        return Outcome(watch.problems, [one for one in _NEEDED if not figures.get(one)], figures)
    finally:
        watch.stop.set()
        worker.kill()
        stand.service.kill()
        history.close()


def _prepare(stand: LifecycleStand, watch: Watch, ledger: Ledger, history: History, plans: tuple[Plan, ...]) -> None:
    """The datasets with their policies, and a first batch of each."""
    cold = {"name": "cold", "kind": "local", "config": {"root": str(stand.cold)}}
    target = stand.admin("POST", "storage-targets", cold)
    with Caller(stand.service.base, watch) as caller:
        for plan in plans:
            made = {"slug": plan.slug, "writeFormat": plan.write_format, "metadata": dict(plan.metadata)}
            dataset = stand.admin("POST", "datasets", made)["dataset"]
            model = Model(plan.slug, ledger.batch_of, watch.problem, plan.max_age_hours, plan.max_total_bytes)
            history.follow(dataset["id"], model)
            caller.send("PUT", admin_path(plan.slug, "retention"), plan.policy(target["storageTarget"]["id"]))
            assert send(caller, ledger, ledger.draw(plan.slug, plan.keys[0], random.Random(plan.slug), 10))
    assert not watch.problems, watch.problems


def _wait(stand: LifecycleStand, watch: Watch, history: History, seconds: float) -> None:
    """Until the time is over and everything has happened, with a line of progress now and then."""
    started_s = time.monotonic()
    while not watch.stop.wait(max(_PROGRESS_EVERY_S, seconds / 120)):
        history.catch_up()
        figures = _figures(stand, watch, history)
        elapsed_s = time.monotonic() - started_s
        names = ("rows", "versions", "kills", "queries checked", "files", INGEST, COMPACTION, RETENTION, DELETION)
        log.info("%4.0f s: %s", elapsed_s, ", ".join(f"{name} {figures.get(name, 0):,}" for name in names))
        missing = [one for one in _NEEDED if not figures.get(one)]
        if elapsed_s >= seconds + _AT_MOST_LONGER_S or (elapsed_s >= seconds and not missing):
            break


def _stop(watch: Watch, threads: list[threading.Thread], worker: Worker) -> None:
    watch.stop.set()
    for thread in threads:
        thread.join(300)
        if thread.is_alive():
            watch.problem(f"{thread.name} does not end")
    # One that has only just been started does not know the signal yet.
    wait_until(lambda: not worker.running or _answers(worker), "the lifecycle worker to begin or to end")
    if worker.running and worker.stop() != 0:
        watch.problem(f"the lifecycle worker ended badly:\n{worker.log.read_text()[-3000:]}")


def _answers(worker: Worker) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{worker.port}/health", timeout=10).status_code == 200
    except httpx.TransportError:
        return False


def _figures(stand: LifecycleStand, watch: Watch, history: History) -> dict[str, int]:
    models = history.models.values()
    found = dict(watch.figures)
    for model in models:
        for kind, count in model.done.items():
            found[kind] = found.get(kind, 0) + count
    with stand.catalog() as catalog:
        counted = catalog.execute(_COUNTED).fetchone()
    return {
        **found,
        **(counted or {}),
        "versions": sum(model.version for model in models),
        "rows": sum(batch.count for model in models for batch in model.batches.values()),
        "files": sum(1 for root in (stand.root, stand.cold) for _ in files_below(root)),
    }
