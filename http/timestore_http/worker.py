"""gunicorn's thread worker with what it lacks: a drain before the listener closes, and limits on idle sockets."""

from __future__ import annotations

import json
import selectors
import socket
import struct
import threading
import time
from collections import deque
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from types import FrameType
from typing import Any

from gunicorn.http.errors import ExpectationFailed, LimitRequestHeaders, LimitRequestLine, ParseException
from gunicorn.util import write_nonblock
from gunicorn.workers.gthread import _DEFER, TConn, ThreadWorker

from timestore_core.settings import load_settings
from timestore_http.errors import body_of
from timestore_http.media import JSON

# How long an ended connection may stay half open, for its client to read the last answer.
_LINGER_S = 2.0

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
        self._lingering: deque[TConn] = deque()
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

    def set_accept_enabled(self, enabled: bool) -> None:
        super().set_accept_enabled(enabled)
        if not self.alive:
            # A listener that nobody serves would let clients connect and wait: they are refused instead.
            for listener in self.sockets:
                listener.close()

    def handle(self, conn: TConn) -> Any:
        # gunicorn would hold a thread for five seconds for each client that has not sent anything yet.
        if not conn.initialized and not conn.wait_for_data(0):
            return _DEFER
        return super().handle(conn)

    def finish_request(self, conn: TConn, fs: Future[Any]) -> None:
        if fs.cancelled() or fs.exception() is not None or fs.result():
            super().finish_request(conn, fs)
        else:
            self._linger(conn)

    def murder_pending(self) -> None:
        super().murder_pending()
        while self._lingering and self._lingering[0].timeout <= time.monotonic():
            self._drop(self._lingering.popleft())

    def _linger(self, conn: TConn) -> None:
        """End our side at once, and the connection when the client has ended its own or the time is over.

        gunicorn waits for that on its main loop, where one client that does not close holds up all the others.
        """
        conn.timeout = time.monotonic() + _LINGER_S
        try:
            conn.sock.shutdown(socket.SHUT_WR)
            conn.sock.setblocking(False)
            self.poller.register(conn.sock, selectors.EVENT_READ, partial(self._drain, conn))
        except (OSError, ValueError, KeyError):
            self._drop(conn)
        else:
            self._lingering.append(conn)

    def _drain(self, conn: TConn, client: socket.socket) -> None:
        try:
            if client.recv(65_536):
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self._lingering.remove(conn)
        self._drop(conn)

    def _drop(self, conn: TConn) -> None:
        with suppress(OSError, ValueError, KeyError):
            self.poller.unregister(conn.sock)
        self.nr_conns -= 1
        conn.close()

    def _stop_accepting(self, *signal_args: Any) -> None:
        super().handle_exit(*signal_args)
