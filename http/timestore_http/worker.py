"""gunicorn's thread worker with what it lacks: a drain before the listener closes, and limits on idle sockets."""

from __future__ import annotations

import json
import socket
import struct
import threading
from contextlib import suppress
from http import HTTPStatus
from types import FrameType
from typing import Any

from gunicorn.http.errors import ExpectationFailed, LimitRequestHeaders, LimitRequestLine, ParseException
from gunicorn.util import write_nonblock
from gunicorn.workers.gthread import ThreadWorker

from timestore_core.settings import load_settings
from timestore_http.errors import body_of
from timestore_http.media import JSON

_draining = threading.Event()
_REFUSALS: dict[type[Exception], tuple[int, str]] = {
    LimitRequestLine: (414, "the request line is too long"),
    LimitRequestHeaders: (431, "there are too many headers, or they are too long"),
    ExpectationFailed: (417, "the only expectation that is met is 100-continue"),
}


def is_draining() -> bool:
    """Whether this process was told to stop: it still answers, but wants no new work."""
    return _draining.is_set()


class TimestoreWorker(ThreadWorker):  # type: ignore[misc]
    """On SIGTERM `/ready` answers 503 for a moment, so that a load balancer looks away, before accepting stops."""

    def init_process(self) -> None:
        idle_ms = load_settings().http_idle_timeout_ms
        for listener in self.sockets:
            # Accepted sockets inherit these from the listener; a stalled client cannot hold a thread for ever.
            limit = struct.pack("ll", idle_ms // 1000, idle_ms % 1000 * 1000)
            listener.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
            listener.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        super().init_process()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if _draining.is_set():
            return
        _draining.set()
        timer = threading.Timer(load_settings().shutdown_drain_ms / 1000, self._stop_accepting, [sig, frame])
        timer.daemon = True
        timer.start()

    def handle_error(self, req: Any, client: socket.socket, addr: Any, exc: Exception) -> None:
        """Answer what is no HTTP at all in the shape of every other error, and never with a 5xx."""
        if not isinstance(exc, ParseException):
            super().handle_error(req, client, addr, exc)
            return
        self.log.warning("Malformed request: %s", type(exc).__name__)
        status, message = _REFUSALS.get(type(exc), (400, "the request's line or headers are malformed"))
        body = json.dumps(body_of(status, message)).encode()
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nConnection: close\r\n"
            f"Content-Type: {JSON}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        with suppress(OSError):
            write_nonblock(client, head.encode() + body)

    def _stop_accepting(self, *signal_args: Any) -> None:
        super().handle_exit(*signal_args)
