"""Fixtures: a real PostgreSQL for the whole run, and real services on schemas of their own."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from timestore_workers.embedded import embedded_postgres

from tests.service import Service


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """The URL of an embedded PostgreSQL that lives as long as the test run.

    Not below pytest's own directory, which it closes to other users: run by root, PostgreSQL is one.
    """
    home = Path(tempfile.mkdtemp(prefix="timestore-tests-"))
    with embedded_postgres(home / "data") as url:
        yield url
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def make_service(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Service]]:
    """Makes services that are not started yet; settings are given by keyword. All are killed at the end."""
    made: list[Service] = []

    def make(**settings: str) -> Service:
        home: Path = tmp_path_factory.mktemp("service")
        defaults = {
            "TIMESTORE_DATABASE_URL": postgres_url,
            "TIMESTORE_PG_SCHEMA": f"t_{uuid4().hex[:12]}",
            "TIMESTORE_STORAGE_ROOT": str(home / "storage"),
            "TIMESTORE_QUERY_CACHE_DIR": str(home / "cache"),
        }
        service = Service({**defaults, **settings}, home / "service.log")
        made.append(service)
        return service

    yield make
    for service in made:
        service.kill()


@pytest.fixture(scope="module")
def service(make_service: Callable[..., Service]) -> Iterator[Service]:
    """A running service with default settings, shared by the tests of a module; use slugs of your own."""
    running = make_service().start()
    yield running
    assert running.stop() == 0
