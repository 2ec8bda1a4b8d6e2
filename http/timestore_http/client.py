"""Is the client that waits for this answer still there?"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable

import falcon


def gone(req: falcon.Request) -> Callable[[], bool] | None:
    """Tells whether the client has closed its connection, where the server lends its socket."""
    connection = req.env.get("gunicorn.socket")
    if not isinstance(connection, socket.socket):
        return None

    def is_gone() -> bool:
        try:
            readable, _, _ = select.select([connection], [], [], 0)
            return bool(readable) and connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False
        except (OSError, ValueError):
            return True

    return is_gone
