"""What both workers share: signals, a port for health and metrics, and a clean end."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, make_wsgi_app
from timestore_http.logs import configure_logs

from timestore_core.errors import ConfigurationError
from timestore_core.plugins import load_plugins
from timestore_core.runtime import Runtime
from timestore_core.settings import load_settings, unknown_variables
from timestore_workers.serve import prepare

log = structlog.get_logger(__name__)


class Metrics:
    """What a worker counts, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.jobs = Counter("timestore_jobs", "Jobs by how they ended", ["queue", "outcome"], registry=registry)
        self.running = Gauge("timestore_jobs_running", "Jobs that run now", registry=registry)
        self.seconds = Histogram("timestore_job_seconds", "Time of a job", ["queue"], registry=registry)
        self.journal = Gauge("timestore_journal_batches", "Accepted batches", ["state"], registry=registry)
        self.journal_bytes = Gauge("timestore_journal_bytes", "Stored bytes that wait", registry=registry)
        self.requeued = Counter("timestore_requeued", "Batches queued again", registry=registry)


def leave_what_still_runs(metrics: Metrics) -> None:
    """End the process here where jobs have outlasted the limit: the queue has them back, and a thread has no end."""
    running = metrics.registry.get_sample_value("timestore_jobs_running")
    if running:
        log.warning("worker.left_in_the_middle", jobs=int(running))
        sys.stdout.flush()
        os._exit(0)


@contextmanager
def worker_runtime(*, needs_queue: bool = True) -> Iterator[Runtime]:
    """This process's runtime, with logs configured and the catalog migrated."""
    settings = load_settings()
    configure_logs(settings.log_level, settings.log_format)
    if settings.inline and needs_queue:
        raise ConfigurationError(
            "REDIS_URL=inline: there is no queue to work on; set REDIS_URL to the Redis that the producers use"
        )
    for name, close in unknown_variables(os.environ):
        log.warning("settings.unknown", variable=name, meant=close)
    prepare()
    runtime = Runtime(settings, load_plugins())
    try:
        yield runtime
    finally:
        runtime.close()


@contextmanager
def stop_on_signal() -> Iterator[threading.Event]:
    """Set by SIGTERM and SIGINT: take nothing new, finish what runs. The second signal ends at once."""
    stop = threading.Event()

    def handle(number: int, _: Any) -> None:
        if stop.is_set():
            os._exit(1)
        log.info("worker.stopping", signal=signal.Signals(number).name)
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


def serve_metrics(metrics: Metrics, host: str, port: int, is_healthy: Callable[[], bool]) -> None:
    """Answer /health and /metrics on a port of this worker's own, in a daemon thread."""
    scrape = make_wsgi_app(metrics.registry)

    def application(environ: Any, start_response: Any) -> Any:
        if environ["PATH_INFO"] == "/metrics":
            return scrape(environ, start_response)
        found = environ["PATH_INFO"] in ("/health", "/livez")
        healthy = is_healthy()
        status = "404 Not Found" if not found else "200 OK" if healthy else "503 Service Unavailable"
        start_response(status, [("Content-Type", "application/json; charset=utf-8")])
        return [b'{"status":"ok"}' if found and healthy else b'{"status":"unavailable"}' if found else b"{}"]

    server = make_server(host, port, application, server_class=_Server, handler_class=_Quiet)
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    log.info("worker.metrics", host=host, port=server.server_port)
