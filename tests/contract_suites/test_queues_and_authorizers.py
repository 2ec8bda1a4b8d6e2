"""The built-in queue without Redis and the built-in authorizer do what all of their kind are expected to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import timestore_scopes
from timestore_inline import InlineQueue

from tests.contract_suites.memory_queue import MemoryQueue
from timestore_core.queues import Queue
from timestore_core.settings import Settings
from timestore_core.testing import AuthorizerContract, QueueContract
from timestore_core.testing.authorizer import Case, dataset


class TestInlineQueue(QueueContract):
    @pytest.fixture
    def queue(self) -> Queue:
        return InlineQueue(Settings())


class TestMemoryQueue(QueueContract):
    """A queue that defers, so that the suite's larger half is seen to work without Redis."""

    @pytest.fixture
    def queue(self) -> Queue:
        return MemoryQueue()


class TestScopes(AuthorizerContract):
    @pytest.fixture
    def plugin(self) -> Any:
        return timestore_scopes

    @pytest.fixture
    def settings(self, monkeypatch: pytest.MonkeyPatch) -> Settings:
        monkeypatch.setenv("TIMESTORE_REQUIRE_SCOPE", "all")
        monkeypatch.setenv("TIMESTORE_ADMIN_SCOPE", "admin")
        return Settings()

    @pytest.fixture
    def allowed(self) -> Sequence[Case]:
        own = dataset({"iam": {"readScopes": ["r"], "writeScopes": []}})
        return [
            ({"x-iam-scopes": "all"}, "read", None),
            ({"x-iam-scopes": "x, admin"}, "admin", None),
            ({"x-iam-scopes": "r"}, "read", own),
            ({}, "write", own),
        ]

    @pytest.fixture
    def refused(self) -> Sequence[Case]:
        own = dataset({"iam": {"readScopes": ["r"], "writeScopes": ["w"]}})
        return [
            ({}, "read", None),
            ({"x-iam-scopes": "all"}, "admin", None),
            ({"x-iam-scopes": "all"}, "read", own),
            ({"x-iam-scopes": "r"}, "write", own),
            ({"x-iam-user": "admin"}, "admin", None),
        ]
