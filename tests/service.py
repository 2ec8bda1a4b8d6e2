"""A real service for tests: gunicorn in processes of its own, on a free port, over a real PostgreSQL."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

START_TIMEOUT_S = 120


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until(condition: Callable[[], Any], what: str, timeout_s: float = 120) -> Any:
    """The condition's first true value; fails the test, saying what was awaited, when the time is over."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"waited {timeout_s} s for {what}")


class Command:
    """A `timestore` command in a process tree of its own, which may be stopped, killed and started again."""

    def __init__(self, arguments: Sequence[str], settings: Mapping[str, str], log: Path) -> None:
        self.log = log
        self._arguments = arguments
        self._environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("TIMESTORE_")},
            "REDIS_URL": "inline",
            **settings,
        }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> Mapping[str, str]:
        """What the process sees, for other commands that are to see the same."""
        return self._environment

    @property
    def storage(self) -> Path:
        """The root of the default local target."""
        return Path(self._environment["TIMESTORE_STORAGE_ROOT"])

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def run(self, **changes: str) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", "from timestore_workers.cli import main; main()", *self._arguments],
                env={**self._environment, **changes},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def stop(self) -> int:
        """SIGTERM, as an operator would; the exit status."""
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        return self._process.wait(60)

    def kill(self) -> None:
        """SIGKILL to the whole process tree, at once."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(30)


class Worker(Command):
    """`timestore worker ingest` or `lifecycle`, with its health on a port."""

    def __init__(self, kind: str, settings: Mapping[str, str], log: Path) -> None:
        self.port = free_port()
        super().__init__(["worker", kind, "--metrics-port", str(self.port)], settings, log)

    def start(self, *, wait: bool = True, **changes: str) -> Worker:
        self.run(**changes)
        if wait:
            wait_until(self._healthy, f"the worker to start; its log is {self.log}", START_TIMEOUT_S)
        return self

    def metric(self, name: str) -> float:
        """The value of a metric as /metrics shows it, 0 where it does not show it yet."""
        text = httpx.get(f"http://127.0.0.1:{self.port}/metrics", timeout=10).text
        return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name))

    def _healthy(self) -> bool:
        if not self.running:
            raise AssertionError(f"the worker ended:\n{self.log.read_text()[-4000:]}")
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/health", timeout=10).status_code == 200
        except httpx.HTTPError:
            return False


class Service(Command):
    """The server with its settings."""

    def __init__(self, settings: Mapping[str, str], log: Path) -> None:
        self.port = free_port()
        self.base = f"http://127.0.0.1:{self.port}"
        self.client = httpx.Client(base_url=self.base, timeout=60)
        defaults = {
            "TIMESTORE_PORT": str(self.port),
            "TIMESTORE_HTTP_WORKERS": "1",
            "TIMESTORE_SHUTDOWN_DRAIN_MS": "0",
        }
        super().__init__(["serve"], {**defaults, **settings}, log)

    def start(self, *, wait: bool = True, **changes: str) -> Service:
        self.run(**changes)
        if wait:
            wait_until(self._answers, f"the service to become ready; its log is {self.log}", START_TIMEOUT_S)
        return self

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError(f"the service ended with {self._process.returncode}:\n{self.log.read_text()[-4000:]}")
        try:
            return httpx.get(f"{self.base}/ready", timeout=10).status_code == 200
        except httpx.HTTPError:
            return False

    def ingest(self, slug: str, body: Mapping[str, Any], key: str | None = None) -> httpx.Response:
        headers = {} if key is None else {"idempotency-key": key}
        return self.client.post(f"/datasets/{slug}/ingest", json=body, headers=headers)

    def query(self, slug: str, body: Mapping[str, Any]) -> httpx.Response:
        return self.client.post(f"/datasets/{slug}/query", json=body)


ALL_TIME = {"start": "0001-01-01T00:00:00Z", "end": "9999-12-31T23:59:59Z"}
FIELDS = [{"name": "timestamp", "type": "timestamp"}, {"name": "n", "type": "integer"}]


def batch(numbers: list[int], **changes: Any) -> dict[str, Any]:
    """A small batch: one row a number, at that many seconds after 2024-01-01."""
    rows = [
        {"timestamp": f"2024-01-{1 + n // 86400:02}T{n // 3600 % 24:02}:{n // 60 % 60:02}:{n % 60:02}Z", "n": n}
        for n in numbers
    ]
    times = [row["timestamp"] for row in rows] or ["2024-01-01T00:00:00Z"]
    return {
        "schema": {"fields": FIELDS},
        "partition": {"key": {"window": "w"}, "timeRange": {"start": min(times), "end": max(times)}},
        "rows": rows,
        **changes,
    }


def numbers_of(service: Service, slug: str) -> list[int]:
    """Every visible row's number, in order."""
    response = service.query(slug, {"timeRange": ALL_TIME})
    assert response.status_code == 200, response.text
    return sorted(row["n"] for row in response.json()["rows"])
