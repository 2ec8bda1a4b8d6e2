"""A store to fetch from, and a directory for the cache."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.cache.stand import Store


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "cache"
