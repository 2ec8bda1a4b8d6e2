"""Fixtures of the fault tests: stands, which are killed when their test is over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.stand import Stand, make_stand
from tests.service import Service


@pytest.fixture
def stand_with(
    make_service: Callable[..., Service], postgres_url: str, tmp_path: Path
) -> Iterator[Callable[..., Stand]]:
    """Makes started stands of one test; settings are given by keyword."""
    made: list[Stand] = []

    def make(root: Path | None = None, database_url: str = postgres_url, **settings: str) -> Stand:
        stand = make_stand(make_service, postgres_url, root or tmp_path / "storage", **settings)
        made.append(stand)
        stand.service.start()
        return stand

    yield make
    for stand in made:
        stand.service.kill()
