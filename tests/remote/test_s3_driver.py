"""The driver alone, where its store misbehaves: no key is overwritten, no file too long, no failure tried for long."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from uuid import uuid4

import pytest
import timestore_s3

from tests.remote.conftest import FIRST, S3
from tests.remote.fault_proxy import Kind
from timestore_core.storage import SizedFetch, StorageDriver
from timestore_core.testing.storage import content, staged

Opened = Callable[..., StorageDriver]


@pytest.fixture
def opened(s3: S3, tmp_path: Path) -> Opened:
    """Opens a target below a prefix of its own."""
    prefix = f"driver-{uuid4()}"

    def open_(**config: object) -> StorageDriver:
        given = {
            "bucket": "first",
            "prefix": prefix,
            "endpoint": s3.proxy.url,
            "accessKeyId": FIRST.id,
            "secretAccessKey": FIRST.secret,
            "forcePathStyle": True,
            "_staging": str(tmp_path / "staging"),
            **config,
        }
        return timestore_s3.timestore_storage_drivers()["s3"].open(given)

    return open_


def test_a_key_that_somebody_takes_after_the_look_is_not_overwritten(opened: Opened, tmp_path: Path) -> None:
    first, second = opened(), opened()
    sources = [staged(first, bytes([65 + number]) * 1000) for number in range(8)]

    def put(source: Path) -> bool:
        try:
            (first if source in sources[:4] else second).put(source, "key")
        except FileExistsError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(put, sources))

    assert sum(won) == 1
    assert content(first, "key", tmp_path) == bytes([65 + won.index(True)]) * 1000
    assert [source.exists() for source in sources] == [not one for one in won]


def test_an_upload_whose_answer_was_lost_is_found_to_be_there(s3: S3, opened: Opened, tmp_path: Path) -> None:
    driver = opened()
    with s3.proxy.fault("swallowed", "PUT", within="lost", times=1) as fault:
        stored = driver.put(staged(driver, b"mine"), "lost")

    assert fault.struck == 1
    assert stored.size_bytes == 4
    assert content(driver, "lost", tmp_path) == b"mine"


@pytest.mark.parametrize("theirs", [b"their content", b"them"])
def test_a_key_taken_while_the_first_try_failed_is_not_ours(
    theirs: bytes, s3: S3, opened: Opened, tmp_path: Path
) -> None:
    driver = opened()
    source = staged(driver, b"mine")
    place = f"{driver.location('busy')}".removeprefix("s3://first/")

    with s3.proxy.fault("503", "PUT", within="busy", times=1) as fault, ThreadPoolExecutor(1) as pool:
        putting = pool.submit(driver.put, source, "busy")
        while fault.struck == 0:
            time.sleep(0.001)
        s3.client.put_object(Bucket="first", Key=place, Body=theirs)
        with pytest.raises(FileExistsError):
            putting.result()

    assert source.read_bytes() == b"mine"
    assert content(driver, "busy", tmp_path) == theirs


@pytest.mark.parametrize("kind", ["501*", "400*", "200*"])
def test_a_store_that_knows_no_conditions_is_looked_at_first(
    kind: Kind, s3: S3, opened: Opened, tmp_path: Path
) -> None:
    driver = opened()
    with s3.proxy.fault(kind, "PUT"):
        for key in ("one", "two"):
            driver.put(staged(driver, key.encode()), key)
        with pytest.raises(FileExistsError):
            driver.put(staged(driver, b"another"), "one")

    assert content(driver, "one", tmp_path) == b"one"
    assert content(driver, "two", tmp_path) == b"two"


@pytest.mark.extended
def test_an_upload_in_parts_overwrites_nothing_and_survives_the_loss_of_its_last_answer(
    s3: S3, opened: Opened, tmp_path: Path
) -> None:
    driver = opened()
    large = driver.staging_dir() / "large"

    def make_large() -> Path:
        with large.open("wb") as file:
            file.write(b"begin")
            file.truncate(105 * 2**20)
        return large

    with s3.proxy.fault("swallowed", "POST", within="uploadId", times=1) as fault:
        stored = driver.put(make_large(), "parts")
    assert fault.struck == 1
    assert stored.size_bytes == 105 * 2**20
    with s3.proxy.fault("503", "PUT", within="partNumber=2", times=1):
        assert driver.put(make_large(), "again").size_bytes == 105 * 2**20
    with pytest.raises(FileExistsError):
        driver.put(make_large(), "parts")
    assert s3.client.list_multipart_uploads(Bucket="first").get("Uploads", []) == []


@pytest.mark.parametrize(("came", "expected"), [(b"x" * 100_000, 99_999), (b"x" * 99_999, 100_000)])
def test_a_file_of_another_size_is_refused_and_leaves_nothing(
    came: bytes, expected: int, opened: Opened, tmp_path: Path
) -> None:
    driver = opened(_retryMs=0)
    assert isinstance(driver, SizedFetch)
    driver.put(staged(driver, came), "key")

    with pytest.raises(OSError, match=r"larger|short"):
        driver.fetch_sized("key", tmp_path / "fetched", expected)

    assert not (tmp_path / "fetched").exists()


def test_a_download_that_never_ends_is_ended_at_the_file_s_size(s3: S3, opened: Opened, tmp_path: Path) -> None:
    driver = opened()
    assert isinstance(driver, SizedFetch)
    driver.put(staged(driver, b"x" * 300_000), "key")
    sizes: list[int] = []
    fetched = tmp_path / "fetched"

    with s3.proxy.fault("longer", "GET", within="key"), ThreadPoolExecutor(1) as pool:
        fetching = pool.submit(driver.fetch_sized, "key", fetched, 300_000)
        while not fetching.done():
            with suppress(FileNotFoundError):
                sizes.append(fetched.stat().st_size)
        with pytest.raises(OSError, match="larger"):
            fetching.result()

    assert not fetched.exists()
    assert max(sizes, default=0) <= 300_000 + 2**16


@pytest.fixture
def counted(s3: S3) -> Callable[[], int]:
    """How often anything was asked since."""
    before = sum(s3.proxy.asked.values())
    return lambda: sum(s3.proxy.asked.values()) - before


def test_what_cannot_help_is_not_tried_again(opened: Opened, counted: Callable[[], int]) -> None:
    driver = opened(secretAccessKey="wrong-hunter1")

    with pytest.raises(OSError, match="no permission"):
        driver.stat("key")

    assert counted() == 1


@pytest.mark.parametrize("status", ["500", "503"])
def test_what_may_pass_is_tried_by_one_layer_alone(
    status: Kind, s3: S3, opened: Opened, counted: Callable[[], int]
) -> None:
    with s3.proxy.fault(status, "HEAD"), pytest.raises(OSError, match="cannot look up"):
        opened().stat("key")

    assert counted() == 4


def test_for_how_long_a_failure_is_tried_again_is_a_setting(s3: S3, opened: Opened, counted: Callable[[], int]) -> None:
    with s3.proxy.fault("503", "HEAD"), pytest.raises(OSError, match="cannot look up"):
        opened(_retryMs=0).stat("key")

    assert counted() == 1


@pytest.mark.extended
def test_a_listing_of_several_pages_is_complete(s3: S3, opened: Opened) -> None:
    driver = opened()
    below = driver.location("deep").removeprefix("s3://first/")
    keys = [f"part-{number:04}" for number in range(1_050)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda key: s3.client.put_object(Bucket="first", Key=f"{below}/{key}", Body=b"x"), keys))
    before = s3.proxy.requests("LIST", "first")

    assert sorted(one.key for one in driver.list()) == [f"deep/{key}" for key in keys]
    assert s3.proxy.requests("LIST", "first") - before >= 2
    with s3.proxy.fault("503", "LIST", within="continuation-token"), pytest.raises(OSError, match="cannot list"):
        list(driver.list())


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(opened: Opened, status: int) -> None:
    reached: list[str] = []

    class Stranger(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            reached.append(self.path)
            self.send_response(200)
            self.end_headers()

        def do_HEAD(self) -> None:
            self.do_PUT()

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Redirecting(Stranger):
        def do_PUT(self) -> None:
            self.send_response(status)
            self.send_header("Location", f"http://127.0.0.1:{stranger.server_port}/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

    stranger, store = (ThreadingHTTPServer(("127.0.0.1", 0), handler) for handler in (Stranger, Redirecting))
    for server in (stranger, store):
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        driver = opened(endpoint=f"http://127.0.0.1:{store.server_port}", sessionToken="hunter3")
        with pytest.raises(OSError, match="s3"):
            driver.put(staged(driver, b"secret rows"), "key")
    finally:
        for server in (stranger, store):
            server.shutdown()
            server.server_close()

    assert reached == []
