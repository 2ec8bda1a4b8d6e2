"""gunicorn's thread worker with what it lacks: a drain before the listener closes, and limits on idle sockets."""

from __future__ import annotations

import socket
import struct
import threading
from types import FrameType
from typing import Any

from gunicorn.workers.gthread import ThreadWorker

from timestore_core.settings import load_settings

_draining = threading.Event()


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

    def _stop_accepting(self, *signal_args: Any) -> None:
        super().handle_exit(*signal_args)
