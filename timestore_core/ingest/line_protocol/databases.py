"""The databases that lines were written to, as the datasets that they made remember them."""

from __future__ import annotations

from timestore_core.catalog.database import Connection, Database

_DATABASES = """
SELECT DISTINCT metadata #>> '{lineProtocol,database}' AS name FROM datasets
WHERE deleted_at IS NULL AND metadata #>> '{lineProtocol,database}' IS NOT NULL ORDER BY name LIMIT 10000
"""


def databases(database: Database) -> list[str]:
    """Their names, in order."""

    def work(connection: Connection) -> list[str]:
        return [row["name"] for row in connection.execute(_DATABASES)]

    return database.read(work)
