from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from timestore_scopes import timestore_authorize, timestore_principal

from timestore_core.model import Actor, Dataset
from timestore_core.settings import Settings


def dataset(**iam: Any) -> Dataset:
    now = datetime(2024, 1, 1, tzinfo=UTC)
    return Dataset("ds-1", "s", "s", None, "active", "duckdb", None, {"iam": iam}, now, now)


def allowed(action: Any, scopes: str, one: Dataset | None = None) -> bool:
    return timestore_authorize(actor_of(scopes), action, one, Settings())


def actor_of(scopes: str) -> Actor:
    return timestore_principal({"x-iam-scopes": scopes}, Settings())


def test_the_actor_is_the_first_header_that_is_not_empty() -> None:
    actor = timestore_principal(
        {"x-iam-user": " ", "x-user-id": "bob", "x-actor-id": "eve", "x-iam-scopes": "a, b,,"}, Settings()
    )

    assert actor == Actor("bob", frozenset({"a", "b"}))


def test_everything_is_open_without_settings() -> None:
    assert all(allowed(action, "") for action in ("read", "write", "admin"))


def test_the_dataset_s_own_scopes_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIMESTORE_REQUIRE_SCOPE", "all")
    own = dataset(readScopes=["r"], writeScopes=[])

    assert not allowed("read", "all", own)
    assert allowed("read", "r,x", own)
    assert allowed("write", "", own)
    assert not allowed("read", "", dataset())


def test_write_falls_back_to_the_admin_scope_and_then_to_the_general_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIMESTORE_REQUIRE_SCOPE", "all")
    assert allowed("write", "all")
    monkeypatch.setenv("TIMESTORE_ADMIN_SCOPE", "admin")
    assert not allowed("write", "all")
    assert allowed("write", "admin")
    monkeypatch.setenv("TIMESTORE_REQUIRE_WRITE_SCOPE", "write")
    assert not allowed("write", "admin")
    assert allowed("write", "write")
    assert not allowed("admin", "all")
