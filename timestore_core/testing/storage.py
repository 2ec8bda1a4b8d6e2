"""What every storage driver is expected to do."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import ClassVar
from uuid import uuid4

import duckdb
import pytest

from timestore_core.engine.instance import Engine, EngineLimits
from timestore_core.engine.remote import HTTPFS, httpfs_statement
from timestore_core.names import quote_literal
from timestore_core.storage import Access, StorageDriver, StoredFile

KEY = "cpu/host=a/part-1.duckdb"
# What `partitions.paths` and the markers of owners make keys of.
_KEYS = ("a", ".timestore/cat-1/7", "cpu/window=_/part-1.duckdb", "x-1_2.3/k=v.w-x_y/" + "z" * 80 + ".parquet")
_OUTSIDE = ("../outside", "a/../../outside", "a/..", "..", "/etc/hostname")
_CONTENT = bytes(range(256)) * 20


class StorageDriverContract:
    """Give the fixture `driver`: one over a store that is empty, anew for each test.

    `secrets` are texts that no message may hold. `failing_driver` is one over a store that fails, such as the same
    with an address where nobody listens; without it the tests of failures are skipped.
    """

    refuses_concurrent_puts: ClassVar[bool] = True
    """Whether of many that put one key at the same moment only one can win. Keys of partitions are never shared."""

    @pytest.fixture
    def driver(self) -> StorageDriver:
        raise NotImplementedError(f"{type(self).__name__} needs a fixture `driver`")

    @pytest.fixture
    def secrets(self) -> Sequence[str]:
        return ()

    @pytest.fixture
    def failing_driver(self) -> StorageDriver:
        pytest.skip(f"{type(self).__name__} has no fixture `failing_driver`")

    def test_the_staging_directory_is_a_local_one_that_can_be_written(self, driver: StorageDriver) -> None:
        staging = driver.staging_dir()

        assert staging.is_dir()
        assert staging.is_absolute()
        assert staged(driver, b"content").read_bytes() == b"content"

    def test_what_was_put_is_there_whole_and_its_source_is_gone(self, driver: StorageDriver, tmp_path: Path) -> None:
        source = staged(driver, _CONTENT)

        stored = driver.put(source, KEY)

        assert stored == driver.stat(KEY) == StoredFile(KEY, len(_CONTENT))
        assert content(driver, KEY, tmp_path) == _CONTENT
        assert not source.exists()

    def test_a_large_file_is_stored_whole(self, driver: StorageDriver, tmp_path: Path) -> None:
        large = _CONTENT * 1700 + b"the end"

        stored = driver.put(staged(driver, large), KEY)

        assert stored.size_bytes == len(large)
        assert content(driver, KEY, tmp_path) == large

    @pytest.mark.parametrize("key", _KEYS)
    def test_every_kind_of_key_is_kept_as_it_is(self, driver: StorageDriver, tmp_path: Path, key: str) -> None:
        driver.put(staged(driver, key.encode()), key)

        assert driver.stat(key) == StoredFile(key, len(key))
        assert [one.key for one in driver.list()] == [key]
        assert content(driver, key, tmp_path) == key.encode()

    def test_a_file_says_when_it_was_put_there(self, driver: StorageDriver) -> None:
        for one in (driver.put(staged(driver, b"content"), KEY), driver.stat(KEY), *driver.list()):
            assert one is not None
            assert one.modified_at is not None, "collection deletes no file whose age it does not know"
            assert one.modified_at.tzinfo is not None

    def test_a_taken_key_is_never_overwritten(self, driver: StorageDriver, tmp_path: Path) -> None:
        driver.put(staged(driver, b"first"), KEY)
        second = staged(driver, b"the second")

        with pytest.raises(FileExistsError):
            driver.put(second, KEY)

        assert content(driver, KEY, tmp_path) == b"first"
        assert second.exists()

    def test_of_many_that_put_one_key_at_once_one_wins(self, driver: StorageDriver, tmp_path: Path) -> None:
        contents = [bytes([65 + number]) * 10_000 for number in range(8)]
        sources = [staged(driver, one) for one in contents]

        def put(source: Path) -> bool:
            try:
                driver.put(source, KEY)
            except FileExistsError:
                return False
            return True

        with ThreadPoolExecutor(len(sources)) as pool:
            won = list(pool.map(put, sources))

        assert any(won)
        winners = [one for one, has_won in zip(contents, won, strict=True) if has_won]
        assert content(driver, KEY, tmp_path) in winners
        if self.refuses_concurrent_puts:
            assert len(winners) == 1

    def test_a_file_that_is_not_there_is_none_and_cannot_be_fetched(
        self, driver: StorageDriver, tmp_path: Path
    ) -> None:
        assert driver.stat(KEY) is None
        with pytest.raises(FileNotFoundError):
            driver.fetch(KEY, tmp_path / "fetched")
        assert not (tmp_path / "fetched").exists()

    def test_what_other_files_lie_below_is_no_file(self, driver: StorageDriver, tmp_path: Path) -> None:
        driver.put(staged(driver, b"content"), KEY)

        assert driver.stat("cpu") is None
        with suppress(OSError):
            driver.delete("cpu")

        assert content(driver, KEY, tmp_path) == b"content"

    def test_deleting_removes_the_file_alone_and_may_be_repeated(self, driver: StorageDriver) -> None:
        driver.delete(KEY)
        for key in (KEY, f"{KEY}2"):
            driver.put(staged(driver, b"content"), key)

        driver.delete(KEY)
        driver.delete(KEY)

        assert driver.stat(KEY) is None
        assert [one.key for one in driver.list()] == [f"{KEY}2"]

    def test_a_deleted_key_is_free_again(self, driver: StorageDriver, tmp_path: Path) -> None:
        driver.put(staged(driver, b"first"), KEY)
        driver.delete(KEY)

        driver.put(staged(driver, b"second"), KEY)

        assert content(driver, KEY, tmp_path) == b"second"

    def test_an_empty_store_lists_nothing(self, driver: StorageDriver) -> None:
        staged(driver, b"half written")

        assert list(driver.list()) == []
        assert list(driver.list("cpu")) == []

    def test_a_listing_names_every_file_below_the_prefix_and_nothing_else(self, driver: StorageDriver) -> None:
        keys = [f"cpu/host={number}/part-{number}.duckdb" for number in range(12)]
        others = ["cpu2/part-1.duckdb", "cp/part-1.duckdb", "cpu.duckdb", "deep/cpu/part-1.duckdb"]
        for key in [*keys, *others]:
            driver.put(staged(driver, key.encode()), key)
        staged(driver, b"half written")

        assert listed(driver) == sorted((key, len(key)) for key in [*keys, *others])
        assert listed(driver, "cpu") == sorted((key, len(key)) for key in keys)
        assert listed(driver, "cpu/host=1") == [(keys[1], len(keys[1]))]
        assert listed(driver, "nothing") == []

    @pytest.mark.parametrize("key", _OUTSIDE)
    def test_a_key_that_leads_outside_is_refused_by_name(self, driver: StorageDriver, tmp_path: Path, key: str) -> None:
        source = staged(driver, b"content")
        attempts: list[Callable[[], object]] = [
            lambda: driver.put(source, key),
            lambda: driver.fetch(key, tmp_path / "fetched"),
            lambda: driver.stat(key),
            lambda: driver.delete(key),
            lambda: driver.location(key),
            lambda: list(driver.list(key)),
        ]

        for attempt in attempts:
            with pytest.raises(OSError, match=re.escape(repr(key))):
                attempt()

        assert source.exists()
        assert not (tmp_path / "fetched").exists()

    def test_a_file_is_located_where_duckdb_may_read(self, driver: StorageDriver) -> None:
        driver.put(staged(driver, b"content"), KEY)
        location = driver.location(KEY)

        assert any(location.startswith(f"{one.rstrip('/')}/") for one in driver.allowed_locations())

    def test_duckdb_reads_a_file_in_place(self, driver: StorageDriver, tmp_path: Path) -> None:
        how = driver.in_place()
        if how is None:
            pytest.skip("this driver's files are fetched, since DuckDB cannot read them where they are")
        if how.extension == HTTPFS and httpfs_statement() is None:
            pytest.skip("httpfs is not installed")
        driver.put(_duckdb_file(driver), KEY)
        driver.put(_parquet_file(driver), "cpu/part-2.parquet")
        access = Access(frozenset(driver.allowed_locations()), (how.secret,) if how.secret else ())
        limits = EngineLimits(1, 200_000_000, 10_000_000, tmp_path / "spill")

        with opened_engine(limits) as engine, engine.lease(access) as instance, instance.cursor() as cursor:
            cursor.execute(f"ATTACH {quote_literal(driver.location(KEY))} AS probe (TYPE duckdb, READ_ONLY)")
            attached = cursor.execute("SELECT sum(n) FROM probe.records").fetchone()
            cursor.execute("DETACH probe")
            parquet = quote_literal(driver.location("cpu/part-2.parquet"))
            read = cursor.execute(f"SELECT sum(n) FROM read_parquet({parquet})").fetchone()  # noqa: S608

        assert attached == read == (4950,)

    def test_a_check_of_a_working_store_passes_and_leaves_nothing(self, driver: StorageDriver) -> None:
        driver.put(staged(driver, b"content"), KEY)

        driver.check()

        assert [one.key for one in driver.list()] == [KEY]

    def test_threads_share_a_driver(self, driver: StorageDriver, tmp_path: Path) -> None:
        def work(number: int) -> None:
            for turn in range(3):
                key = f"thread={number}/part-{turn}.duckdb"
                expected = f"{number} {turn}".encode() * 1000
                assert driver.put(staged(driver, expected), key).size_bytes == len(expected)
                assert content(driver, key, tmp_path) == expected
                assert [one.key for one in driver.list(f"thread={number}")] == [key]
                driver.delete(key)
                assert driver.stat(key) is None

        with ThreadPoolExecutor(6) as pool:
            list(pool.map(work, range(6)))

        assert list(driver.list()) == []

    def test_how_to_read_in_place_shows_no_secret(self, driver: StorageDriver, secrets: Sequence[str]) -> None:
        assert_holds_none(f"{driver.in_place()!r} {driver.location(KEY)} {driver.allowed_locations()}", secrets)

    def test_a_store_that_fails_raises_os_errors_without_secrets(
        self, failing_driver: StorageDriver, secrets: Sequence[str], tmp_path: Path
    ) -> None:
        source = tmp_path / "source"
        source.write_bytes(b"content")
        attempts: list[Callable[[], object]] = [
            lambda: failing_driver.put(source, KEY),
            lambda: failing_driver.fetch(KEY, tmp_path / "fetched"),
            lambda: list(failing_driver.list()),
            failing_driver.check,
        ]

        for attempt in attempts:
            with pytest.raises(OSError) as raised:  # noqa: PT011
                attempt()
            assert_holds_none(f"{raised.value} {raised.value!r} {raised.value.args}", secrets)

        assert source.read_bytes() == b"content"
        assert not (tmp_path / "fetched").exists()


def staged(driver: StorageDriver, content: bytes) -> Path:
    """A file of this content in the driver's staging directory."""
    source = driver.staging_dir() / f"staged-{uuid4()}"
    source.write_bytes(content)
    return source


def content(driver: StorageDriver, key: str, directory: Path) -> bytes:
    """The bytes of the stored file, through a file in the directory."""
    fetched = directory / f"fetched-{uuid4()}"
    driver.fetch(key, fetched)
    return fetched.read_bytes()


def listed(driver: StorageDriver, prefix: str = "") -> list[tuple[str, int]]:
    """Key and size of every file below the prefix, in order; a file that is named twice comes twice."""
    return sorted((one.key, one.size_bytes) for one in driver.list(prefix))


def assert_holds_none(text: str, secrets: Sequence[str]) -> None:
    """Fail, without repeating it, where a secret is in the text."""
    for number, secret in enumerate(secrets):
        if secret in text:
            pytest.fail(f"secrets[{number}] is in a text that people see")


@contextmanager
def opened_engine(limits: EngineLimits) -> Iterator[Engine]:
    """A DuckDB as locked down as the service's."""
    engine = Engine("contract", limits)
    try:
        yield engine
    finally:
        engine.close()


def _duckdb_file(driver: StorageDriver) -> Path:
    path = driver.staging_dir() / f"staged-{uuid4()}.duckdb"
    with duckdb.connect() as connection:
        connection.execute(f"ATTACH {quote_literal(str(path))} AS probe")
        connection.execute("CREATE TABLE probe.records AS SELECT range AS n FROM range(100)")
        connection.execute("DETACH probe")
    return path


def _parquet_file(driver: StorageDriver) -> Path:
    path = driver.staging_dir() / f"staged-{uuid4()}.parquet"
    with duckdb.connect() as connection:
        connection.execute("CREATE TABLE records AS SELECT range AS n FROM range(100)")
        connection.execute(f"COPY records TO {quote_literal(str(path))} (FORMAT parquet)")
    return path
