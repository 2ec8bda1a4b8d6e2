"""What gunicorn loads in each worker, after the fork: `timestore_http.wsgi:make()`."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from typing import Any

import falcon
import structlog

from timestore_core.lifecycle.gathering import Gatherer
from timestore_core.plugins import load_plugins
from timestore_core.runtime import Runtime
from timestore_core.settings import load_settings, unknown_variables
from timestore_http.app import make_app
from timestore_http.logs import configure_logs
from timestore_http.worker import is_draining

log = structlog.get_logger(__name__)


def make() -> falcon.App[Any, Any]:
    """The application of this process."""
    settings = load_settings()
    # Threads that decode hold the interpreter in turn: shorter turns keep the others' waits for PostgreSQL and
    # DuckDB from adding up (measured: 15 % more batches of 1,000 rows from 8 clients).
    sys.setswitchinterval(0.001)
    configure_logs(settings.log_level, settings.log_format)
    for name, close in unknown_variables(os.environ):
        log.warning("settings.unknown", variable=name, meant=close)
    is_made = threading.Event()
    # Registered first, so it runs last.
    atexit.register(_end, is_made)
    runtime = Runtime(settings, load_plugins())
    atexit.register(runtime.close)
    gatherer = Gatherer(runtime)
    gatherer.start()
    atexit.register(gatherer.stop)
    app = make_app(runtime, is_draining)
    is_made.set()
    return app


def _end(is_made: threading.Event) -> None:
    """End the process where all is given back: what DuckDB 1.5.5 frees with the interpreter aborts it.

    A process that never began to serve ends as usual, with a status that stops the server.
    """
    if is_made.is_set():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
