"""Structured logs: JSON for machines, a console for people; secrets never get this far."""

from __future__ import annotations

import logging
import sys
from typing import Any, TextIO

import structlog
from gunicorn.glogging import Logger

from timestore_core.settings import load_settings

_LEVELS = {"fatal": 50, "error": 40, "warn": 30, "info": 20, "debug": 10, "trace": 5}


class GunicornLogger(Logger):  # type: ignore[misc]
    """gunicorn's own lines, in the form of all others."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        settings = load_settings()
        configure_logs(settings.log_level, settings.log_format)


def configure_logs(level: str, form: str, stream: TextIO | None = None) -> None:
    """Send structlog and the standard library's logs to the stream (by default standard output) in one form."""
    stream = stream or sys.stdout
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
    ]
    if form == "console":
        renderer: Any = structlog.dev.ConsoleRenderer(colors=stream.isatty())
        shared.append(structlog.processors.UnicodeDecoder())
    else:
        renderer = structlog.processors.JSONRenderer()
        shared.append(structlog.processors.format_exc_info)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(max(_LEVELS[level], 10)),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(_LEVELS[level])
    for name in ("gunicorn.error", "gunicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], True
    for noisy in ("psycopg", "psycopg.pool", "yoyo"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
