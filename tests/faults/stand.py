"""A service with what a fault test looks behind: its catalog, its files and its processes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import psycopg
from psycopg.rows import dict_row

from tests.service import Service, wait_until

Catalog = psycopg.Connection[dict[str, Any]]


@dataclass(frozen=True)
class Stand:
    """A service, and the ways around it."""

    service: Service
    root: Path
    database_url: str
    schema: str

    def catalog(self) -> Catalog:
        """A connection to the service's schema, in a transaction like any other client's."""
        return psycopg.connect(
            self.database_url, row_factory=dict_row, options=f"-c search_path={self.schema}", connect_timeout=10
        )

    def partitions(self) -> list[dict[str, Any]]:
        """What the catalog names and no version has removed, oldest first."""
        with self.catalog() as catalog:
            return catalog.execute(
                "SELECT p.*, d.slug, b.content FROM dataset_partitions p JOIN datasets d ON d.id = p.dataset_id "
                "LEFT JOIN dataset_partition_blobs b ON b.partition_id = p.id "
                "WHERE p.removed_version IS NULL ORDER BY p.added_version"
            ).fetchall()

    def count(self, table: str) -> int:
        """The rows of one of the catalog's tables."""
        with self.catalog() as catalog:
            found = catalog.execute(f"SELECT count(*) AS n FROM {table}").fetchone()
        assert found is not None
        number: int = found["n"]
        return number

    def files(self) -> list[Path]:
        """Every partition file under a final key."""
        staging = self.root / ".tmp"
        return sorted(path for path in self.root.rglob("*.duckdb") if not path.is_relative_to(staging))

    def staged(self) -> list[Path]:
        """What is being written, or was left there."""
        return sorted((self.root / ".tmp" / "staging").glob("*"))

    def workers(self) -> list[psutil.Process]:
        """The server processes below gunicorn's master."""
        return psutil.Process(self.service.pid).children()

    def assert_the_catalog_names_only_whole_files(self) -> None:
        for partition in self.partitions():
            content = partition["content"] or (self.root / partition["file_path"]).read_bytes()
            assert len(content) == partition["file_size_bytes"]
            assert hashlib.sha1(content, usedforsecurity=False).hexdigest() == partition["checksum"]

    def wait_for_a_lock_waiter(self, relation: str) -> None:
        """Return when the service's connection waits for a lock on the table, or on one of its rows."""

        def waiting() -> bool:
            with self.catalog() as catalog:
                found = catalog.execute(
                    "SELECT 1 FROM pg_locks waits JOIN pg_stat_activity a ON a.pid = waits.pid "
                    "JOIN pg_locks holds ON holds.pid = waits.pid AND holds.relation = %s::regclass "
                    "WHERE NOT waits.granted AND a.application_name = 'timestore'",
                    [relation],
                ).fetchone()
            return found is not None

        wait_until(waiting, f"the service to wait for a lock of {relation}")


def make_stand(make_service: Callable[..., Service], postgres_url: str, root: Path, **settings: str) -> Stand:
    """A stand over a new schema and the given storage root; its service is not started yet."""
    schema = f"f_{uuid4().hex[:12]}"
    given = {"TIMESTORE_DATABASE_URL": postgres_url, "TIMESTORE_STORAGE_ROOT": str(root), **settings}
    service = make_service(TIMESTORE_PG_SCHEMA=schema, **given)
    return Stand(service, root, postgres_url, schema)
