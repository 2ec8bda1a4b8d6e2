"""A TCP proxy in front of PostgreSQL that reads the protocol and cuts a connection at its commits.

A commit is the statement COMMIT, and the call of the function that publishes a batch and is a transaction of its own.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qs, urlsplit

Cut = Literal["before the server has it", "after the server has done it"]


class PostgresProxy:
    """Forwards 127.0.0.1:`port` to the server's Unix socket, message by message.

    `cut_next` cuts the connections of the next commits: either the server never gets the message, or it has
    committed and the client never gets the answer.
    """

    def __init__(self, server: Path) -> None:
        self._server = server
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._cuts: list[Cut] = []
        self.cut_count = 0
        self._open: set[socket.socket] = set()

    def cut_next(self, cut: Cut, times: int = 1) -> None:
        with self._lock:
            self._cuts = [cut] * times
            self.cut_count = 0

    def accept(self) -> None:
        """Serve until the listener is closed."""
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=[client], daemon=True).start()

    def close(self) -> None:
        # A plain close would leave the accepting thread asleep.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for one in self._open:
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def _serve(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as server:
            with self._lock:
                self._open |= {client, server}
            withheld = threading.Event()
            try:
                server.connect(str(self._server))
                answers = threading.Thread(target=self._answer, args=[server, client, withheld], daemon=True)
                answers.start()
                with suppress(OSError, EOFError):
                    self._ask(client, server, withheld)
                # The end of one side is the end of both.
                for one in (client, server):
                    with suppress(OSError):
                        one.shutdown(socket.SHUT_RDWR)
                answers.join()
            finally:
                with self._lock:
                    self._open -= {client, server}

    def _ask(self, client: socket.socket, server: socket.socket, withheld: threading.Event) -> None:
        """The client's messages. Returns when a cut has ended the connection."""
        (length,) = struct.unpack("!i", start := _exactly(client, 4))
        server.sendall(start + _exactly(client, length - 4))
        publishing: set[bytes] = set()
        while True:
            kind = _exactly(client, 1)
            (length,) = struct.unpack("!i", size := _exactly(client, 4))
            body = _exactly(client, length - 4)
            if kind == b"P":
                (publishing.add if b"publish_batch" in body else publishing.discard)(body.split(b"\0")[0])
            calls = kind == b"B" and body.split(b"\0")[1] in publishing
            cut = self._next_cut() if calls or (kind in b"QP" and b"COMMIT" in body.upper()) else None
            if cut == "before the server has it":
                return
            if cut == "after the server has done it":
                withheld.set()
                server.sendall(kind + size + body)
                while calls and kind != b"S":
                    kind = _exactly(client, 1)
                    (length,) = struct.unpack("!i", size := _exactly(client, 4))
                    server.sendall(kind + size + _exactly(client, length - 4))
                # It takes the next message only when it has answered this one: its end is then the commit's.
                server.sendall(b"X" + struct.pack("!i", 4))
                while server.recv(65536):
                    pass
                return
            server.sendall(kind + size + body)

    def _answer(self, server: socket.socket, client: socket.socket, withheld: threading.Event) -> None:
        with suppress(OSError):
            while not withheld.is_set() and (data := server.recv(65536)) and not withheld.is_set():
                client.sendall(data)

    def _next_cut(self) -> Cut | None:
        with self._lock:
            if not self._cuts:
                return None
            self.cut_count += 1
            return self._cuts.pop()


def _exactly(source: socket.socket, length: int) -> bytes:
    pieces = bytearray()
    while len(pieces) < length:
        piece = source.recv(length - len(pieces))
        if not piece:
            raise EOFError
        pieces += piece
    return bytes(pieces)


@contextmanager
def postgres_proxy(url: str) -> Iterator[tuple[PostgresProxy, str]]:
    """A running proxy to the server of this URL, and the URL that leads through it."""
    directory = parse_qs(urlsplit(url).query)["host"][0]
    proxy = PostgresProxy(Path(directory) / ".s.PGSQL.5432")
    accepting = threading.Thread(target=proxy.accept, daemon=True)
    accepting.start()
    try:
        yield proxy, f"postgresql://postgres@127.0.0.1:{proxy.port}/postgres?sslmode=disable&gssencmode=disable"
    finally:
        proxy.close()
        accepting.join()
