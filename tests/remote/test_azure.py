"""Partitions in Azure Blob Storage, as Microsoft's emulator keeps them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
import timestore_azure
from filelock import FileLock

from tests.integration.maintenance import head
from tests.interop.node_bullmq import INSTALL_TIMEOUT_S, NodeUnavailable
from tests.remote.conftest import RemoteStand
from tests.remote.one_bucket import lives_there
from tests.service import free_port, wait_until
from timestore_core.storage import StorageDriver
from timestore_core.testing import StorageDriverContract

pytestmark = pytest.mark.extended

AZURITE = "3.37.0"
# The account that every Azurite has, as its documentation gives it.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


def install(cache: Path) -> Path:
    """Azurite's home, installed below `cache` unless it is there already. Raises NodeUnavailable."""
    for command in ("node", "npm"):
        if shutil.which(command) is None:
            raise NodeUnavailable(f"there is no {command} on PATH")
    home = cache / f"azurite-{AZURITE}"
    with FileLock(cache / ".lock"):
        if not home.exists():
            beside = cache / f".{uuid4().hex}"
            beside.mkdir()
            options = ["--no-save", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(beside)]
            try:
                command_line = ["npm", "install", *options, f"azurite@{AZURITE}"]
                done = subprocess.run(command_line, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S)
                if done.returncode != 0:
                    raise NodeUnavailable(f"npm could not install azurite: {done.stderr.strip()[-500:]}")
                beside.rename(home)
            except subprocess.TimeoutExpired:
                raise NodeUnavailable(f"npm could not install azurite in {INSTALL_TIMEOUT_S} s") from None
            finally:
                shutil.rmtree(beside, ignore_errors=True)
    return home


@pytest.fixture(scope="module")
def azure(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The connection string of an Azurite. Where Node is not to be had the test is skipped; under CI it fails."""
    try:
        home = install(Path(pytestconfig.cache.mkdir("node-azurite")))
    except NodeUnavailable as reason:
        if os.environ.get("CI") == "true":
            pytest.fail(str(reason))
        pytest.skip(str(reason))
    port, log = free_port(), tmp_path_factory.mktemp("azure") / "log"
    program = home / "node_modules/azurite/dist/src/blob/main.js"
    options = ["--blobPort", str(port), "--skipApiVersionCheck", "--silent", "--inMemoryPersistence"]
    with log.open("wb") as output:
        server = subprocess.Popen(["node", str(program), *options], stdout=output, stderr=output)
    wait_until(lambda: _answers(f"http://127.0.0.1:{port}/"), f"Azurite; its log is {log}")
    yield (
        f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};"
        f"BlobEndpoint=http://127.0.0.1:{port}/{ACCOUNT};"
    )
    server.kill()
    server.wait(30)


@pytest.fixture(scope="module")
def container(azure: str) -> str:
    from azure.storage.blob import BlobServiceClient

    BlobServiceClient.from_connection_string(azure).create_container("container")
    return "container"


@pytest.fixture(scope="module")
def stand(azure: str, container: str, new_stand: Callable[..., RemoteStand]) -> RemoteStand:
    return new_stand(
        TIMESTORE_STORAGE_DRIVER="azure_blob",
        TIMESTORE_AZURE_CONTAINER=container,
        TIMESTORE_AZURE_CONNECTION_STRING=azure,
    )


def test_a_dataset_lives_in_azure_blob_storage(azure: str, container: str, stand: RemoteStand) -> None:
    from azure.storage.blob import ContainerClient

    lives_there(stand)

    listed = ContainerClient.from_connection_string(azure, container).list_blobs(name_starts_with="life/")
    named = {one["filePath"]: one["fileSizeBytes"] for one in head(stand.service, "life")["partitions"]}
    assert {one.name: one.size for one in listed} == named
    assert KEY not in stand.service.log.read_text()


class TestAzureDriver(StorageDriverContract):
    @pytest.fixture
    def driver(self, azure: str, tmp_path: Path) -> StorageDriver:
        from azure.storage.blob import BlobServiceClient

        name = f"container-{uuid4()}"
        BlobServiceClient.from_connection_string(azure).create_container(name)
        return self._opened(azure, name, tmp_path)

    @pytest.fixture
    def failing_driver(self, tmp_path: Path) -> StorageDriver:
        connection = f"AccountName={ACCOUNT};AccountKey={KEY};BlobEndpoint=http://127.0.0.1:{free_port()}/{ACCOUNT}"
        return self._opened(connection, "container", tmp_path)

    @pytest.fixture
    def secrets(self) -> Sequence[str]:
        return (KEY,)

    def _opened(self, connection: str, container: str, tmp_path: Path) -> StorageDriver:
        kind = timestore_azure.timestore_storage_drivers()["azure_blob"]
        config = {"container": container, "prefix": "below/here", "connectionString": connection}
        return kind.open({**config, "_staging": str(tmp_path / "staging")})


@pytest.mark.parametrize("endpoint", ["http://169.254.169.254/account", "http://metadata/account"])
def test_an_endpoint_that_must_not_be_called_is_refused(endpoint: str, stand: RemoteStand) -> None:
    connection = f"AccountName=a;AccountKey={KEY};BlobEndpoint={endpoint}"
    body = {"name": "inward", "kind": "azure_blob", "config": {"container": "c-1", "connectionString": connection}}
    answer = stand.service.client.post("/admin/storage-targets", json=body)

    assert (answer.status_code, KEY in answer.text) == (400, False), answer.text


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=10).status_code > 0
    except httpx.HTTPError:
        return False
