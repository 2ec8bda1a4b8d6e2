"""One process at a time for one backup: two would undo what the other has just written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psycopg

from timestore_core.catalog.database import Database, translated
from timestore_core.errors import Conflict


@contextmanager
def alone(database: Database, name: str, what: str) -> Iterator[None]:
    """Hold the lock of that name in this catalog. Raises Conflict, saying what, where another process has it."""
    values = [f"timestore-{database.schema}-{name}"]
    with database.connection() as connection:
        with translated():
            found = connection.execute(
                "SELECT pg_try_advisory_lock(hashtextextended(%s, 0)) AS held", values
            ).fetchone()
        if found is None or not found["held"]:
            raise Conflict(f"{what} is running in another process", code="busy")
        try:
            yield
        finally:
            # Where the connection broke the lock is gone with it.
            with suppress(psycopg.Error):
                connection.execute("SELECT pg_advisory_unlock(hashtextextended(%s, 0))", values)
