"""Brings the catalog's schema up to date; safe to call from any number of processes at once."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import psycopg
from psycopg import conninfo, sql
from yoyo import read_migrations
from yoyo.backends import get_backend_class
from yoyo.connections import DatabaseURI

from timestore_core.catalog.database import connection_string, translated
from timestore_core.errors import ConfigurationError
from timestore_core.names import quote_identifier
from timestore_core.settings import Settings

# Any constant will do; it only has to be the same in every process. ("timestor" as a 64-bit integer.)
_LOCK_KEY = int.from_bytes(b"timestor", "big", signed=True)


def migrations_dir() -> Path:
    """Where the SQL files are: beside this package in a wheel, at the top of a checkout."""
    package = Path(__file__).resolve().parent.parent
    for candidate in (package / "migrations", package.parent / "migrations"):
        if candidate.is_dir():
            return candidate
    raise ConfigurationError("the migrations are missing from this installation; install timestore again")


def migrate(settings: Settings) -> tuple[str, ...]:
    """Create the schema and apply what is missing; the names of the migrations that were applied.

    Holds a PostgreSQL advisory lock meanwhile, so that of several starting processes one migrates and the
    others wait. Raises Unavailable where PostgreSQL cannot be reached.
    """
    target = connection_string(settings)
    with translated(), psycopg.connect(target, autocommit=True) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", [_LOCK_KEY])
        connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(settings.pg_schema)))
        return _apply(target, settings.pg_schema)


def pending(settings: Settings) -> tuple[str, ...]:
    """The names of the migrations that `migrate` would apply; changes nothing, not even the schema."""
    every = [migration.id for migration in read_migrations(str(migrations_dir()))]
    with translated(), psycopg.connect(connection_string(settings), autocommit=True) as connection:
        table = f"{quote_identifier(settings.pg_schema)}._yoyo_migration"
        known = connection.execute("SELECT to_regclass(%s)", [table]).fetchone()
        if known is None or known[0] is None:
            return tuple(every)
        query = sql.SQL("SELECT migration_id FROM {}._yoyo_migration").format(sql.Identifier(settings.pg_schema))
        applied = {row[0] for row in connection.execute(query)}
    return tuple(name for name in every if name not in applied)


def _apply(target: str, schema: str) -> tuple[str, ...]:
    backend = _backend(target, schema)
    try:
        todo = backend.to_apply(read_migrations(str(migrations_dir())))
        names = tuple(migration.id for migration in todo)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            backend.apply_migrations(todo)
        return names
    finally:
        backend.connection.close()


def _backend(target: str, schema: str) -> Any:
    """yoyo's backend over psycopg 3. It pastes the schema into `SET search_path`, so it gets it quoted."""
    parts: dict[str, Any] = dict(conninfo.conninfo_to_dict(target))
    uri = DatabaseURI(
        scheme="postgresql+psycopg",
        username=parts.pop("user", None),
        password=parts.pop("password", None),
        hostname=parts.pop("host", None),
        port=parts.pop("port", None),
        database=parts.pop("dbname", None),
        args={**parts, "schema": quote_identifier(schema)},
    )
    backend = get_backend_class(uri.scheme)(uri, "_yoyo_migration")
    backend.init_database()
    return backend
