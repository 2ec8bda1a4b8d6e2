"""The built-in storage drivers and the example's do what every driver is expected to do."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from uuid import uuid4

import pytest
import stamina
import timestore_s3
from timestore_local.driver import LocalDriver

from tests.contract_suites.example import example, guide
from tests.contract_suites.moto_server import SECRET, config, make_bucket, moto_server
from tests.service import free_port
from timestore_core.storage import StorageDriver
from timestore_core.testing import StorageDriverContract
from timestore_core.testing.storage import KEY, staged

SHARDED = example("sharded")["ShardedDriver"]


class DirectoryDriverContract(StorageDriverContract):
    """More of drivers whose root is a directory, broken here in ways that only one can be."""

    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        root = tmp_path / "root"
        root.mkdir()
        return root

    def test_a_put_that_the_disk_does_not_confirm_is_an_error(
        self, driver: StorageDriver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def failing(descriptor: int) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        source = staged(driver, b"content")
        monkeypatch.setattr(os, "fsync", failing)

        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            driver.put(source, KEY)

    def test_a_listing_that_cannot_be_completed_raises_instead_of_giving_fewer(
        self, driver: StorageDriver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for number in range(4):
            driver.put(staged(driver, b"content"), f"cpu/part-{number}.duckdb")
        real = os.scandir

        def failing(path: str) -> object:
            if Path(path).name == "cpu":
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return real(path)

        monkeypatch.setattr(os, "scandir", failing)

        with pytest.raises(PermissionError):
            list(driver.list())

    def test_a_file_outside_the_root_is_out_of_reach(self, driver: StorageDriver, tmp_path: Path) -> None:
        (tmp_path / "outside").write_bytes(b"not yours")

        with pytest.raises(OSError):
            driver.delete("../outside")

        assert (tmp_path / "outside").read_bytes() == b"not yours"


class TestLocalDriver(DirectoryDriverContract):
    @pytest.fixture
    def driver(self, root: Path) -> StorageDriver:
        return LocalDriver(root)

    @pytest.fixture
    def failing_driver(self, tmp_path: Path) -> StorageDriver:
        (tmp_path / "no directory").write_bytes(b"")
        return LocalDriver(tmp_path / "no directory")


class TestTheExamplesDriver(DirectoryDriverContract):
    @pytest.fixture
    def driver(self, root: Path) -> StorageDriver:
        driver: StorageDriver = SHARDED(root)
        return driver

    @pytest.fixture
    def failing_driver(self, tmp_path: Path) -> StorageDriver:
        driver: StorageDriver = SHARDED(tmp_path / "not mounted")
        return driver


class TestTheGuidesDriver(StorageDriverContract):
    @pytest.fixture
    def driver(self, tmp_path: Path) -> StorageDriver:
        return self._opened(tmp_path, tmp_path)

    @pytest.fixture
    def failing_driver(self, tmp_path: Path) -> StorageDriver:
        return self._opened(tmp_path, tmp_path / "no such directory")

    def _opened(self, tmp_path: Path, home: Path) -> StorageDriver:
        driver: StorageDriver = guide("ShelfDriver", tmp_path)["ShelfDriver"](home / "shelf.db")
        return driver


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with moto_server() as url:
        yield url


class TestS3Driver(StorageDriverContract):
    @pytest.fixture
    def driver(self, url: str, tmp_path: Path) -> StorageDriver:
        bucket = f"bucket-{uuid4()}"
        make_bucket(url, bucket)
        return opened(url, bucket, tmp_path)

    @pytest.fixture
    def failing_driver(self, tmp_path: Path) -> Iterator[StorageDriver]:
        with stamina.set_testing(True):
            yield opened(f"http://127.0.0.1:{free_port()}", "bucket", tmp_path)

    @pytest.fixture
    def secrets(self) -> Sequence[str]:
        return (SECRET,)


def opened(url: str, bucket: str, tmp_path: Path) -> StorageDriver:
    """The driver of a target in the bucket, as the plugin opens it."""
    kind = timestore_s3.timestore_storage_drivers()["s3"]
    return kind.open({**config(url, bucket), "_staging": str(tmp_path / "staging")})
