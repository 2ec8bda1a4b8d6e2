"""A real service to measure: `timestore serve` in processes of its own, and a client that keeps its connection."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import psutil  # type: ignore[import-untyped]

START_TIMEOUT_S = 60
JSON = "application/json"
ARROW = "application/vnd.apache.arrow.stream"


class Client:
    """One keep-alive connection a thread. The standard library's client costs the least beside the service."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._local = threading.local()

    def post(self, path: str, body: bytes, content_type: str = JSON, accept: str = JSON) -> bytes:
        """The answer's body. Raises RuntimeError for anything but a success."""
        status, data = self.exchange(path, body, content_type, accept)
        if status not in (200, 201, 202, 204):
            raise RuntimeError(f"{path}: {status} {data[:500]!r}")
        return data

    def exchange(self, path: str, body: bytes, content_type: str = JSON, accept: str = JSON) -> tuple[int, bytes]:
        """The answer's status and body, whatever they are."""
        headers = {"Content-Type": content_type, "Accept": accept}
        try:
            response = self._send(path, body, headers)
        except (http.client.RemoteDisconnected, ConnectionError):
            # The server closes a connection that was idle for long; a measured loop never is.
            self._connection().close()
            response = self._send(path, body, headers)
        return response.status, response.read()

    def ingest(self, slug: str, body: bytes) -> None:
        self.post(f"/datasets/{slug}/ingest", body)

    def query(self, slug: str, request: dict[str, Any], accept: str = JSON) -> bytes:
        return self.post(f"/datasets/{slug}/query", msgspec.json.encode(request), accept=accept)

    def is_ready(self) -> bool:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
            connection.request("GET", "/ready")
            return connection.getresponse().status == 200
        except OSError:
            return False

    def _send(self, path: str, body: bytes, headers: dict[str, str]) -> http.client.HTTPResponse:
        connection = self._connection()
        connection.request("POST", path, body, headers)
        return connection.getresponse()

    def _connection(self) -> http.client.HTTPConnection:
        if not hasattr(self._local, "connection"):
            self._local.connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=120)
        connection: http.client.HTTPConnection = self._local.connection
        return connection


class Service:
    """A running service: its client and its processes."""

    def __init__(self, port: int, process: subprocess.Popen[bytes]) -> None:
        self.client = Client(port)
        self._process = process

    def worker_rss_bytes(self) -> list[int]:
        """The resident memory of each worker process."""
        return [child.memory_info().rss for child in psutil.Process(self._process.pid).children()]


@contextmanager
def running(database_url: str, storage_root: Path, log: Path, workers: int, **settings: str) -> Iterator[Service]:
    """Start a service with the defaults of a single host but for the settings, and stop it when the block ends."""
    port = free_port()
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TIMESTORE_")}
    environment |= {
        "REDIS_URL": "inline",
        "TIMESTORE_DATABASE_URL": database_url,
        "TIMESTORE_STORAGE_ROOT": str(storage_root),
        "TIMESTORE_PORT": str(port),
        "TIMESTORE_HTTP_WORKERS": str(workers),
        "TIMESTORE_SHUTDOWN_DRAIN_MS": "0",
        **settings,
    }
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", "from timestore_workers.cli import main; main()", "serve"],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    service = Service(port, process)
    try:
        _await_ready(service, process, log)
        yield service
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def _await_ready(service: Service, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not service.client.is_ready():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the service did not start:\n{log.read_text()[-4000:]}")
        time.sleep(0.05)


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
