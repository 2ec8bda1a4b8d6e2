"""Is the process alive, and can it do its work: /health, /ready and their second names."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import falcon
import structlog

from timestore_core.catalog.datasets import targets_in_use
from timestore_core.errors import TimestoreError, Unavailable
from timestore_core.model import StorageTarget
from timestore_core.runtime import Runtime

log = structlog.get_logger(__name__)

_CHECK_TIMEOUT_S = 5
# Below the other: who takes too long is still named.
_TARGETS_TIMEOUT_S = 4
_CLOCK_TOLERANCE_S = 60
# Which targets are in use changes rarely, and looking it up reads the catalog.
_TARGETS_AGE_S = 15


class HealthResource:
    """Alive: answers without touching anything."""

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        del req
        resp.media = {"status": "ok"}


class ReadyResource:
    """Ready: every dependency by name. 503 when one is down, and from the moment a shutdown begins."""

    def __init__(self, runtime: Runtime, is_draining: Callable[[], bool]) -> None:
        self._runtime = runtime
        self._is_draining = is_draining
        self._in_use: tuple[float, Sequence[StorageTarget]] = (float("-inf"), ())
        self._pool = ThreadPoolExecutor(max_workers=4, thread_name_prefix="ready")
        self._targets_pool = ThreadPoolExecutor(max_workers=8, thread_name_prefix="ready-target")

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        del req
        if self._is_draining():
            resp.status = falcon.HTTP_503
            resp.media = {"status": "draining", "details": {}}
            return
        checks = {
            "postgresql": self._postgresql,
            "storage": self._storage,
            "engine": self._engine,
            "queue": self._queue,
        }
        running = {name: self._pool.submit(check) for name, check in checks.items()}
        details = {name: _result(name, future) for name, future in running.items()}
        if details["queue"]["status"] == "down" and self._runtime.settings.ingest_journal:
            # Accepted batches wait in the journal meanwhile: taking this instance out would help nobody.
            details["queue"]["status"] = "degraded"
        ready = all(detail["status"] != "down" for detail in details.values())
        resp.status = falcon.HTTP_200 if ready else falcon.HTTP_503
        resp.media = {"status": "ready" if ready else "unavailable", "details": details}

    def _postgresql(self) -> Mapping[str, Any]:
        found = self._runtime.database.check()
        warnings = []
        if found["commits"] == "off" or found["fsync"] == "off":
            warnings.append("synchronous_commit or fsync is off: a crash of PostgreSQL can lose acknowledged batches")
        if abs((found["now"] - datetime.now(UTC)).total_seconds()) > _CLOCK_TOLERANCE_S:
            warnings.append("this host's clock and PostgreSQL's disagree by more than a minute")
        return {"warnings": warnings} if warnings else {}

    def _storage(self) -> Mapping[str, Any]:
        default = self._runtime.targets.default
        running = [(default, self._targets_pool.submit(self._use, default))]
        running += [(one, self._targets_pool.submit(self._read, one)) for one in self._others(default)]
        wait([check for _, check in running], timeout=_TARGETS_TIMEOUT_S)
        away = [one.name for one, check in running if not check.done() or check.exception() is not None]
        for one, check in running:
            if check.done() and check.exception() is not None:
                log.warning("ready.target_away", target=one.name, error=str(check.exception())[:300])
        if away:
            raise Unavailable(f"cannot be used: {', '.join(away)}")
        return {"target": default.name}

    def _others(self, default: StorageTarget) -> Sequence[StorageTarget]:
        """The other targets that hold partitions of current snapshots, looked up now and then."""
        read_s, known = self._in_use
        if time.monotonic() - read_s > _TARGETS_AGE_S:
            known = targets_in_use(self._runtime.database)
            self._in_use = (time.monotonic(), known)
        return [one for one in known if one.id != default.id]

    def _use(self, target: StorageTarget) -> None:
        """Raises where the target cannot be written and read."""
        self._runtime.targets.driver(target).check()

    def _read(self, target: StorageTarget) -> None:
        """Raises where the target cannot be read."""
        driver = self._runtime.targets.driver(target)
        # Whether it is there does not matter, only that the store can say so.
        driver.stat(".timestore/ready")
        if not all("://" in place or Path(place).is_dir() for place in driver.allowed_locations()):
            raise OSError("its directory is not there")

    def _engine(self) -> Mapping[str, Any]:
        self._runtime.engine.check()
        return {}

    def _queue(self) -> Mapping[str, Any]:
        return self._runtime.queue.check()


def _result(name: str, future: Future[Mapping[str, Any]]) -> dict[str, Any]:
    try:
        return {"status": "up", **future.result(timeout=_CHECK_TIMEOUT_S)}
    except TimeoutError:
        return {"status": "down", "message": f"did not answer within {_CHECK_TIMEOUT_S} s"}
    except TimestoreError as error:
        return {"status": "down", "message": error.message}
    except Exception as error:
        log.warning("ready.down", dependency=name, error=str(error)[:300])
        return {"status": "down", "message": f"{type(error).__name__}; the log says more"}
