"""Connections to PostgreSQL: a bounded pool, and errors that say whether trying again can help."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import psycopg
import structlog
from psycopg import conninfo
from psycopg.rows import dict_row
from psycopg_pool import ConnectionPool, PoolTimeout

from timestore_core.errors import ConfigurationError, InsufficientStorage, Unavailable
from timestore_core.settings import Settings

log = structlog.get_logger(__name__)

Row = dict[str, Any]
Connection = psycopg.Connection[Row]
T = TypeVar("T")

# While PostgreSQL is known to be away a request does not wait the whole time limit for it.
_AWAY_TIMEOUT_S = 1.0
_RECONNECT_TIMEOUT_S = 1.5
_READY_TIMEOUT_S = 2
_STATEMENT_TIMEOUT_MS = 30_000
# Longer than a statement's, which may wait for the lock of another one's transaction.
_TRANSACTION_TIMEOUT_MS = 60_000
_CONNECT_DEFAULTS: dict[str, Any] = {
    "connect_timeout": 5,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
    "application_name": "timestore",
}

# https://www.postgresql.org/docs/current/errcodes-appendix.html
_DISK_FULL = "53100"
_TRANSIENT_CLASSES = ("08", "40", "53", "55", "57", "58")


class Database:
    """The catalog's PostgreSQL, for one process. Made after a fork; opens connections when first asked."""

    def __init__(self, settings: Settings) -> None:
        self.schema = settings.pg_schema
        self._timeout_s = settings.pgpool_connection_timeout_ms / 1000
        self._away = False
        self._target = connection_string(settings)
        self._pool: ConnectionPool[Connection] = ConnectionPool(
            self._target,
            kwargs={"autocommit": True, "row_factory": dict_row},
            min_size=0,
            max_size=settings.pgpool_max,
            max_idle=settings.pgpool_idle_timeout_ms / 1000,
            timeout=self._timeout_s,
            reconnect_timeout=_RECONNECT_TIMEOUT_S,
            reconnect_failed=self._is_away,
            configure=self._configure,
            name="timestore",
            open=False,
        )

    def open(self) -> None:
        self._pool.open()

    def close(self) -> None:
        self._pool.close()

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """A connection in autocommit mode. Raises Unavailable where PostgreSQL cannot be reached."""
        try:
            with self._pool.connection(timeout=_AWAY_TIMEOUT_S if self._away else self._timeout_s) as connection:
                yield connection
        except PoolTimeout as error:
            raise Unavailable(
                "PostgreSQL cannot be reached, or all connections are taken; try again shortly"
            ) from error

    def read(self, work: Callable[[Connection], T]) -> T:
        """Run the reading work; once more on a fresh connection where the first one turns out to be dead."""
        for attempt in (1, 2):
            try:
                with translated(), self.connection() as connection:
                    return work(connection)
            except Unavailable as error:
                if attempt == 2 or not lost_connection(error):
                    raise
                self.drop_dead_connections()
        raise AssertionError("unreachable")

    def drop_dead_connections(self) -> None:
        """Replace the idle connections that a restart of PostgreSQL left behind."""
        self._pool.check()

    def check(self) -> dict[str, Any]:
        """What readiness says of PostgreSQL, over a connection of its own. Raises Unavailable when it is away."""
        with (
            translated(),
            psycopg.connect(
                self._target, connect_timeout=_READY_TIMEOUT_S, autocommit=True, row_factory=dict_row
            ) as connection,
        ):
            found = connection.execute(
                "SELECT current_setting('synchronous_commit') AS commits, "
                "current_setting('fsync') AS fsync, version() AS version, now() AS now"
            ).fetchone()
        assert found is not None
        return found

    def _configure(self, connection: Connection) -> None:
        connection.execute(
            "SELECT set_config('search_path', quote_ident(%s), false), "
            "set_config('statement_timeout', %s, false), set_config('TimeZone', 'UTC', false), "
            # A process that was stopped in mid-transaction must not hold a dataset's lock for ever. After a pipeline
            # PostgreSQL does not count the idle time; the whole transaction's it counts, from version 17 on.
            "set_config('idle_in_transaction_session_timeout', %s, false), "
            "(SELECT set_config(name, %s, false) FROM pg_settings WHERE name = 'transaction_timeout')",
            [self.schema, str(_STATEMENT_TIMEOUT_MS), str(_STATEMENT_TIMEOUT_MS), str(_TRANSACTION_TIMEOUT_MS)],
        )
        self._away = False

    def _is_away(self, _: Any) -> None:
        if not self._away:
            log.warning("catalog.unreachable")
        self._away = True


def lost_connection(error: Unavailable) -> bool:
    """Whether a connection that we had broke, so that a fresh one may work at once."""
    return isinstance(error.__cause__, psycopg.OperationalError) and not isinstance(error.__cause__, PoolTimeout)


def connection_string(settings: Settings) -> str:
    """The libpq connection string with the time limits that a server needs.

    Raises ConfigurationError without repeating the URL, which holds a password.
    """
    try:
        given = conninfo.conninfo_to_dict(settings.database_url.get_secret_value())
    except psycopg.ProgrammingError:
        raise ConfigurationError(
            "TIMESTORE_DATABASE_URL: is not a PostgreSQL URL such as postgres://user:password@host:5432/database"
        ) from None
    return conninfo.make_conninfo("", **{**_CONNECT_DEFAULTS, **given})


@contextmanager
def translated() -> Iterator[None]:
    """Turn PostgreSQL's passing troubles into Unavailable and a full disk into InsufficientStorage.

    Judged by SQLSTATE, never by the text. What is our own fault passes through.
    """
    try:
        yield
    except psycopg.Error as error:
        state = error.sqlstate or ""
        if state == _DISK_FULL:
            raise InsufficientStorage("PostgreSQL's disk is full; nothing was published") from error
        lost = isinstance(error, psycopg.OperationalError | psycopg.InterfaceError) and not state
        if lost or state[:2] in _TRANSIENT_CLASSES:
            raise Unavailable("PostgreSQL is not available; try again shortly") from error
        raise
