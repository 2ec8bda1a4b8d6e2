"""The locked DuckDB instance and its registry of attached files."""

from __future__ import annotations

import hashlib
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import duckdb
import pytest

from timestore_core.engine.attached import Attachment
from timestore_core.engine.instance import Engine, EngineLimits
from timestore_core.partitions.cache import CachedFile, FileCache
from timestore_core.settings import MIB


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine("test", EngineLimits(2, 256 * MIB, 256 * MIB, tmp_path / "spill", max_attached=3))


def make_file(path: Path, value: int) -> Attachment:
    with duckdb.connect(path) as connection:
        connection.execute(f"CREATE TABLE t AS SELECT {value} AS v")
    return Attachment(path.stem, f"ATTACH '{path}' AS {path.stem} (READ_ONLY)", f"DETACH {path.stem}")


def fail(attachment: Attachment, error: Exception) -> Exception:
    return RuntimeError(f"{attachment.alias} cannot be attached: {type(error).__name__}")


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM read_text('{root}/../outside')",
        "ATTACH '{root}/../outside.db'",
        "COPY (SELECT 1) TO '{root}/../outside.csv'",
        "SET threads = 1",
        "SET enable_external_access = true",
        "SET allowed_directories = ['/']",
        "INSTALL httpfs",
        "LOAD httpfs",
    ],
)
def test_nothing_outside_the_allowed_directories_can_be_reached(engine: Engine, tmp_path: Path, statement: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    with engine.lease([str(root)]) as instance, instance.cursor() as cursor, pytest.raises(duckdb.Error):
        cursor.execute(statement.format(root=root))


def test_a_new_directory_makes_a_new_instance_while_the_old_one_finishes(engine: Engine, tmp_path: Path) -> None:
    with engine.lease([str(tmp_path / "a")]) as old:
        with engine.lease([str(tmp_path / "b")]) as new:
            assert new is not old
            assert old.cursor().execute("SELECT 1").fetchone() == (1,)
        assert old.cursor().execute("SELECT 1").fetchone() == (1,)
    with engine.lease([str(tmp_path / "a")]) as again:
        assert again is new
    with pytest.raises(duckdb.ConnectionException):
        old.cursor()


def test_the_registry_attaches_once_and_stays_within_its_bound(engine: Engine, tmp_path: Path) -> None:
    files = [make_file(tmp_path / f"f{number}.duckdb", number) for number in range(8)]
    with engine.lease([str(tmp_path)]) as instance:

        def read(number: int) -> int:
            chosen = [files[number % 8], files[(number + 1) % 8]]
            with instance.attached.pinned(chosen, fail), instance.cursor() as cursor:
                found = cursor.execute(f"SELECT v FROM {chosen[0].alias}.t").fetchone()
                assert found is not None
                return int(found[0])

        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(read, range(200)))

        assert answers == [number % 8 for number in range(200)]
        assert len(instance.attached) <= 3


def test_a_file_in_use_is_not_detached_by_others(engine: Engine, tmp_path: Path) -> None:
    files = [make_file(tmp_path / f"f{number}.duckdb", number) for number in range(6)]
    with engine.lease([str(tmp_path)]) as instance, instance.attached.pinned(files[:1], fail):
        for one in files[1:]:
            with instance.attached.pinned([one], fail):
                pass
        assert instance.cursor().execute("SELECT v FROM f0.t").fetchone() == (0,)


def test_a_file_that_cannot_be_attached_fails_everyone_who_waits_and_is_tried_again(
    engine: Engine, tmp_path: Path
) -> None:
    missing = Attachment("late", f"ATTACH '{tmp_path}/late.duckdb' AS late (READ_ONLY)", "DETACH late")
    barrier = threading.Barrier(4)
    with engine.lease([str(tmp_path)]) as instance:

        def read(_: int) -> str:
            barrier.wait()
            try:
                with instance.attached.pinned([missing], fail):
                    return "read"
            except RuntimeError as error:
                return str(error)

        with ThreadPoolExecutor(4) as pool:
            assert set(pool.map(read, range(4))) == {"late cannot be attached: IOException"}
        make_file(tmp_path / "late.duckdb", 1)
        with instance.attached.pinned([missing], fail):
            assert instance.cursor().execute("SELECT v FROM late.t").fetchone() == (1,)


def test_a_cached_file_cannot_be_evicted_while_it_is_attached(tmp_path: Path) -> None:
    """Nor is it kept attached by more bytes than are allowed, once no query reads it."""
    cache = FileCache(tmp_path / "cache", max_bytes=10 * MIB)
    files = [cached_file(tmp_path, number) for number in range(3)]
    size_bytes = files[0].size_bytes
    with closing(Engine("test", limits(tmp_path, max_cached_bytes=2 * size_bytes))) as engine:
        for file in files:
            read_through(engine, cache, file, tmp_path)
        with engine.lease([cache.location]) as instance:
            assert len(instance.attached) == 2

            assert cache.clear() == size_bytes
            assert not (Path(cache.location) / files[0].name).exists()
            instance.attached.forget(files[1].checksum)
            assert cache.clear() == size_bytes
            read_through(engine, cache, files[2], tmp_path)
    assert cache.clear() == size_bytes
    assert open_files_below(tmp_path) == []


def limits(tmp_path: Path, max_cached_bytes: int) -> EngineLimits:
    return EngineLimits(1, 256 * MIB, 256 * MIB, tmp_path / "spill", max_cached_bytes=max_cached_bytes)


def cached_file(tmp_path: Path, value: int) -> CachedFile:
    """What the cache will be asked for; it lies in a file `<value>.duckdb`."""
    path = tmp_path / f"{value}.duckdb"
    make_file(path, value)
    content = path.read_bytes()
    return CachedFile(hashlib.sha1(content, usedforsecurity=False).hexdigest(), len(content), "duckdb")


def read_through(engine: Engine, cache: FileCache, file: CachedFile, tmp_path: Path) -> None:
    """A query over the cached file, which is fetched where it is not there."""
    held = cache.hold(file) or cache.fetch(file, lambda path: copy_of(file, tmp_path, path))
    assert held is not None
    attach = f"ATTACH '{held.path}' AS \"{file.checksum}\" (READ_ONLY)"
    attachment = Attachment(file.checksum, attach, f'DETACH "{file.checksum}"', held.path)
    with engine.lease([cache.location]) as instance, instance.attached.pinned([attachment], fail):
        assert instance.cursor().execute(f'SELECT count(*) FROM "{file.checksum}".t').fetchone() == (1,)
        held.let_go()
        cache.clear()
        assert held.path.exists()


def copy_of(file: CachedFile, tmp_path: Path, path: Path) -> None:
    for source in tmp_path.glob("*.duckdb"):
        if hashlib.sha1(source.read_bytes(), usedforsecurity=False).hexdigest() == file.checksum:
            shutil.copy(source, path)


def open_files_below(directory: Path) -> list[str]:
    """The paths that this process has open there, removed ones too."""
    found = [str(one.readlink()) for one in Path("/proc/self/fd").iterdir() if one.is_symlink()]
    return [path for path in found if path.startswith(str(directory))]
