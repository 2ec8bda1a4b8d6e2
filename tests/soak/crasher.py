"""SIGKILL at random moments, and at named steps: server processes, lifecycle processes, the whole service."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import httpx
import psutil

from tests.faults.killer import Killer
from tests.faults.lifecycle_stand import LifecycleStand
from tests.service import Worker, wait_until
from tests.soak.maintainers import CommandMaintainer
from tests.soak.watch import Watch, log

STEPS = (
    "ingest.file_written",
    "ingest.file_stored",
    "ingest.published",
    "compaction.file_written",
    "compaction.file_stored",
    "compaction.published",
    "retention.published",
    "tiering.file_written",
    "tiering.file_stored",
    "tiering.published",
    "parquetExport.file_written",
    "parquetExport.file_stored",
    "parquetExport.published",
    "deletion.file_written",
    "deletion.file_stored",
    "deletion.published",
    "collection.file_deleted",
    "collection.rows_deleted",
    "restore.published",
)
_PAUSE_S = 2.0


@dataclass
class Crasher:
    """Kills, and starts again what does not start itself."""

    stand: LifecycleStand
    watch: Watch
    killer: Killer
    worker: Worker
    command: CommandMaintainer
    rng: random.Random
    _armed: str | None = field(default=None, init=False)

    def run(self) -> None:
        ways: tuple[tuple[float, Callable[[], None]], ...] = (
            (0.35, self._arm),
            (0.3, self._kill_server),
            (0.12, self._kill_worker),
            (0.15, self._kill_command),
            (0.08, self._kill_service),
        )
        while not self.watch.stop.wait(self.rng.uniform(0.2, 2 * _PAUSE_S)):
            self._look_after()
            (way,) = self.rng.choices([one for _, one in ways], [share for share, _ in ways])
            way()
        self.killer.armed.unlink(missing_ok=True)
        self._look_after()

    def _look_after(self) -> None:
        """Count whom the armed step killed, and see to it that everything runs."""
        if self._armed is not None and self.killer.has_struck:
            self._killed(f"at {self._armed}")
            self._armed = None
        if not self.worker.running:
            self.worker.start(wait=False)
        if not self.stand.service.running:
            self.watch.problem(f"the service ended by itself:\n{self.stand.service.log.read_text()[-3000:]}")

    def _killed(self, whom: str) -> None:
        log.info("killed %s", whom)
        self.watch.count("kills")
        self.watch.count(f"kills {whom}")

    def _arm(self) -> None:
        if self._armed is None:
            self._armed = self.rng.choice(STEPS)
            self.killer.arm(self._armed)

    def _kill_server(self) -> None:
        processes = self.stand.workers()
        if processes:
            with suppress(psutil.NoSuchProcess):
                self.rng.choice(processes).kill()
                self._killed("a server process")

    def _kill_worker(self) -> None:
        self.worker.kill()
        self._killed("the lifecycle worker")
        self.watch.stop.wait(self.rng.uniform(0, 2))
        self.worker.start(wait=False)

    def _kill_command(self) -> None:
        process = self.command.process
        if process is not None and process.poll() is None:
            process.kill()
            self._killed("a lifecycle command")

    def _kill_service(self) -> None:
        self.stand.service.kill()
        self._killed("the whole service")
        time.sleep(self.rng.uniform(0, 2))
        self.stand.service.start(wait=False)
        wait_until(self._is_up, "the service to be ready again")

    def _is_up(self) -> bool:
        try:
            return httpx.get(f"{self.stand.service.base}/ready", timeout=10).status_code == 200
        except httpx.TransportError:
            return False
