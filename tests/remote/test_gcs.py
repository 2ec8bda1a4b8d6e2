"""Partitions in Google Cloud Storage, as an emulator of its JSON API keeps them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
import timestore_gcs

from tests.integration.maintenance import head
from tests.remote.conftest import RemoteStand
from tests.remote.one_bucket import lives_there
from tests.service import free_port, wait_until
from timestore_core.storage import StorageDriver
from timestore_core.testing import StorageDriverContract

pytestmark = pytest.mark.extended


@pytest.fixture(scope="module")
def gcs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The emulator's URL; it has a bucket named `bucket`."""
    port = free_port()
    arguments = ["start", "--host", "127.0.0.1", "--port", str(port), "-q", "--in-memory", "--default-bucket", "bucket"]
    log: Path = tmp_path_factory.mktemp("gcs") / "log"
    with log.open("wb") as output:
        emulator = subprocess.Popen(
            [sys.executable, "-m", "gcp_storage_emulator", *arguments], stdout=output, stderr=output
        )
    url = f"http://127.0.0.1:{port}"
    wait_until(lambda: _answers(f"{url}/storage/v1/b/bucket"), f"the emulator; its log is {log}")
    yield url
    emulator.kill()
    emulator.wait(30)


@pytest.fixture(scope="module")
def stand(gcs: str, new_stand: Callable[..., RemoteStand]) -> RemoteStand:
    return new_stand(
        TIMESTORE_STORAGE_DRIVER="gcs",
        TIMESTORE_GCS_BUCKET="bucket",
        TIMESTORE_GCS_ENDPOINT=gcs,
        TIMESTORE_GCS_PROJECT="project",
        TIMESTORE_GCS_CREDENTIALS="anon",
    )


def test_a_dataset_lives_in_google_cloud_storage(gcs: str, stand: RemoteStand) -> None:
    lives_there(stand)

    listed = httpx.get(f"{gcs}/storage/v1/b/bucket/o", params={"prefix": "life/"}).json()
    found = {one["name"]: int(one["size"]) for one in listed["items"]}
    named = {one["filePath"]: one["fileSizeBytes"] for one in head(stand.service, "life")["partitions"]}
    assert found == named


class TestGcsDriver(StorageDriverContract):
    # The emulator takes no notice of `ifGenerationMatch`.
    refuses_concurrent_puts = False

    @pytest.fixture
    def driver(self, gcs: str, tmp_path: Path) -> StorageDriver:
        bucket = f"bucket-{uuid4()}"
        httpx.post(f"{gcs}/storage/v1/b", json={"name": bucket}, params={"project": "project"}).raise_for_status()
        config = {"bucket": bucket, "prefix": "below/here", "endpoint": gcs, "project": "project"}
        kind = timestore_gcs.timestore_storage_drivers()["gcs"]
        return kind.open({**config, "credentials": "anon", "_staging": str(tmp_path / "staging")})


@pytest.mark.parametrize("endpoint", ["http://169.254.169.254", "http://metadata.google.internal", "http://u:p@host"])
def test_an_endpoint_that_must_not_be_called_is_refused(endpoint: str, stand: RemoteStand) -> None:
    body = {"name": "inward", "kind": "gcs", "config": {"bucket": "bucket", "endpoint": endpoint}}
    answer = stand.service.client.post("/admin/storage-targets", json=body)

    assert (answer.status_code, "config.endpoint" in answer.text) == (400, True), answer.text


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=10).status_code == 200
    except httpx.HTTPError:
        return False
