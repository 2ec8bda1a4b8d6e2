"""The cache of whole remote files, in one process: what it hands out, what it removes, and what it survives."""

from __future__ import annotations

import errno
import gc
import hashlib
import os
import shutil
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from timestore_core.partitions import cache_index
from timestore_core.partitions.cache import AlteredFileError, CachedFile, FileCache, Held

SIZE = 1000
PLENTY = 1_000_000


def content(number: int, size: int = SIZE) -> bytes:
    return f"{number:08}".encode() * (size // 8)


def file_of(data: bytes) -> CachedFile:
    return CachedFile(hashlib.sha1(data).hexdigest(), len(data), "parquet")


def writing(data: bytes) -> Callable[[Path], None]:
    """A download that brings these bytes."""

    def download(path: Path) -> None:
        path.write_bytes(data)

    return download


class Store:
    """Stands for a remote store: counts what is fetched from it."""

    def __init__(self) -> None:
        self.fetched: list[bytes] = []

    def of(self, data: bytes) -> Callable[[Path], None]:
        def download(path: Path) -> None:
            assert not path.exists()
            self.fetched.append(data)
            path.write_bytes(data)

        return download

    def read(self, cache: FileCache, data: bytes) -> bool:
        """Read the file as a query does, check its bytes; whether the cache had or took it."""
        file = file_of(data)
        held = cache.hold(file) or cache.fetch(file, self.of(data))
        if held is None:
            return False
        assert held.path.read_bytes() == data
        held.let_go()
        return True


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def lying(home: Path) -> set[str]:
    return {path.name for path in (home / "files").iterdir()}


def names(*contents: bytes) -> set[str]:
    return {file_of(data).name for data in contents}


def path_in(home: Path, data: bytes) -> Path:
    return home / "files" / file_of(data).name


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def flip(path: Path) -> None:
    """Change a byte and keep the size; the time of change differs however coarse the clock of the disk is."""
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))


def fails(*_: object) -> None:
    raise AssertionError("nothing was to be downloaded")


def test_a_file_is_downloaded_once_and_then_found(home: Path, store: Store) -> None:
    cache = FileCache(home, PLENTY)
    assert cache.hold(file_of(content(1))) is None
    assert store.read(cache, content(1))
    assert store.read(cache, content(1))
    assert store.read(FileCache(home, PLENTY), content(1))
    assert len(store.fetched) == 1
    assert cache.location == str(home / "files")


def test_a_fetch_of_a_file_that_came_meanwhile_downloads_nothing(home: Path, store: Store) -> None:
    assert store.read(FileCache(home, PLENTY), content(1))
    held = FileCache(home, PLENTY).fetch(file_of(content(1)), fails)
    assert held is not None
    held.let_go()


def test_counters_add_up_over_all_who_use_the_directory(home: Path, store: Store) -> None:
    one, other = FileCache(home, 2 * SIZE), FileCache(home, 2 * SIZE)
    for number in (1, 2, 3):
        assert store.read(one, content(number))
    assert store.read(other, content(3))
    assert one.counts() == {
        "hits": 0, "misses": 3, "bytes": 3 * SIZE, "evictions": 1, "files": 2, "sizeBytes": 2 * SIZE
    }  # fmt: skip
    other.flush()
    assert one.counts()["hits"] == 1


@pytest.mark.parametrize("harm", ["flip", "truncate", "lengthen"])
@pytest.mark.parametrize("met", [True, False], ids=["met before", "first met"])
def test_an_altered_file_is_noticed_removed_and_fetched_again(home: Path, store: Store, harm: str, met: bool) -> None:
    cache = FileCache(home, PLENTY)
    assert store.read(cache, content(1))
    path = path_in(home, content(1))
    if harm == "flip":
        flip(path)
    else:
        os.truncate(path, SIZE + (8 if harm == "lengthen" else -8))
    reader = cache if met else FileCache(home, PLENTY)
    assert reader.hold(file_of(content(1))) is None
    assert lying(home) == set()
    assert reader.counts()["sizeBytes"] == 0
    assert store.read(reader, content(1))
    assert len(store.fetched) == 2


def test_an_altered_file_with_its_old_time_of_change_is_noticed(home: Path, store: Store) -> None:
    cache = FileCache(home, PLENTY)
    assert store.read(cache, content(1))
    path = path_in(home, content(1))
    before = path.stat()
    replaced = path.with_suffix(".new")
    replaced.write_bytes(content(2))
    os.utime(replaced, ns=(before.st_atime_ns, before.st_mtime_ns))
    replaced.rename(path)
    assert cache.hold(file_of(content(1))) is None


def test_a_file_is_held_against_its_checksum_once_and_again_when_distrusted(
    home: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert store.read(FileCache(home, PLENTY), content(1))
    computed = 0
    file_digest = hashlib.file_digest

    def counted(*arguments: object) -> object:
        nonlocal computed
        computed += 1
        return file_digest(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(hashlib, "file_digest", counted)
    cache = FileCache(home, PLENTY)
    for _ in range(3):
        assert store.read(cache, content(1))
    assert computed == 1
    cache.distrust(file_of(content(1)))
    assert store.read(cache, content(1))
    assert computed == 2


def test_who_finds_a_file_altered_does_not_remove_the_right_one_that_took_its_place(home: Path, store: Store) -> None:
    cache = FileCache(home, PLENTY)
    assert store.read(cache, content(1))
    path = path_in(home, content(1))
    flip(path)
    altered = FileCache(home, PLENTY)._files.opened(path.name)
    assert altered is not None
    assert store.read(cache, content(1))
    cache._drop(file_of(content(1)), altered)
    altered.close()
    assert lying(home) == names(content(1))


@pytest.mark.parametrize("came", [content(2), content(1)[:-8], content(1) + b"more", b""])
def test_a_wrong_download_is_an_error_leaves_nothing_and_the_next_try_works(
    home: Path, store: Store, came: bytes
) -> None:
    cache = FileCache(home, PLENTY)
    with pytest.raises(AlteredFileError, match="not what was written"):
        cache.fetch(file_of(content(1)), writing(came))
    assert lying(home) == set()
    assert cache.counts()["sizeBytes"] == 0
    assert store.read(cache, content(1))


@pytest.mark.parametrize(
    "error", [ConnectionError("reset"), FileNotFoundError("bucket"), RuntimeError, KeyboardInterrupt]
)
def test_a_download_that_raises_leaves_nothing_and_the_next_try_works(
    home: Path, store: Store, error: BaseException
) -> None:
    cache = FileCache(home, SIZE)
    before = descriptors()

    def download(path: Path) -> None:
        path.write_bytes(content(1)[:500])
        raise error

    with pytest.raises(error if isinstance(error, type) else type(error)):
        cache.fetch(file_of(content(1)), download)
    assert lying(home) == set()
    assert cache.counts()["sizeBytes"] == 0
    gc.collect()
    assert descriptors() == before
    assert store.read(cache, content(1))


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_steps_aside(home: Path, store: Store, code: int) -> None:
    cache = FileCache(home, PLENTY)

    def download(path: Path) -> None:
        path.write_bytes(content(1)[:500])
        raise OSError(code, "no room")

    assert cache.fetch(file_of(content(1)), download) is None
    assert lying(home) == set()
    assert cache.counts()["sizeBytes"] == 0
    assert store.read(cache, content(1))


def test_a_part_that_cannot_be_written_is_the_caches_fault_and_not_the_stores(home: Path, store: Store) -> None:
    cache = FileCache(home, PLENTY)

    def download(path: Path) -> None:
        path.mkdir()
        try:
            path.write_bytes(b"")
        finally:
            path.rmdir()

    assert cache.fetch(file_of(content(1)), download) is None
    assert store.read(cache, content(1))


def test_a_file_larger_than_the_limit_is_not_fetched_and_evicts_nothing(home: Path, store: Store) -> None:
    cache = FileCache(home, SIZE)
    assert store.read(cache, content(1))
    assert cache.fetch(file_of(content(2, 2 * SIZE)), fails) is None
    assert lying(home) == names(content(1))


def test_a_name_that_could_not_be_found_again_is_not_kept(home: Path) -> None:
    cache = FileCache(home, PLENTY)
    for file in (CachedFile("../" + "0" * 37, 8, "x"), CachedFile("0" * 40, 8, "x/../y"), CachedFile("0" * 40, 8, "")):
        assert cache.hold(file) is None
        assert cache.fetch(file, fails) is None


def test_the_least_recently_used_file_goes_first(home: Path, store: Store) -> None:
    cache = FileCache(home, 3 * SIZE)
    for number in (1, 2, 3):
        assert store.read(cache, content(number))
    assert store.read(cache, content(1))
    assert store.read(cache, content(4))
    assert lying(home) == names(content(1), content(3), content(4))
    assert store.read(cache, content(5))
    assert lying(home) == names(content(1), content(4), content(5))


def test_a_clock_that_is_set_back_does_not_disturb_the_order(
    home: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = FileCache(home, 2 * SIZE)
    assert store.read(cache, content(1))
    monkeypatch.setattr("time.time", lambda: 0.0)
    assert store.read(cache, content(2))
    assert store.read(cache, content(3))
    assert lying(home) == names(content(2), content(3))


def test_files_in_use_are_not_evicted(home: Path, store: Store) -> None:
    cache = FileCache(home, 2 * SIZE)
    held = [cache.fetch(file_of(content(number)), store.of(content(number))) for number in (1, 2)]
    assert not store.read(cache, content(3))
    assert cache.clear() == 0
    assert lying(home) == names(content(1), content(2))
    assert held[1] is not None
    held[1].let_go()
    held[1].let_go()
    assert store.read(FileCache(home, 2 * SIZE), content(3))
    assert lying(home) == names(content(1), content(3))


def test_clear_removes_what_nobody_uses(home: Path, store: Store) -> None:
    cache = FileCache(home, PLENTY)
    for number in (1, 2):
        assert store.read(cache, content(number))
    held = cache.hold(file_of(content(2)))
    assert held is not None
    assert cache.clear() == SIZE
    assert lying(home) == names(content(2))
    held.let_go()


def test_a_limit_that_was_lowered_holds_from_the_next_start(home: Path, store: Store) -> None:
    before = FileCache(home, 5 * SIZE)
    for number in range(5):
        assert store.read(before, content(number))
    FileCache(home, 2 * SIZE).flush()
    assert lying(home) == names(content(3), content(4))


def test_nothing_stays_open_once_files_are_let_go(home: Path, store: Store) -> None:
    cache = FileCache(home, 3 * SIZE)
    before = descriptors()
    for number in range(6):
        assert store.read(cache, content(number))
    flip(path_in(home, content(5)))
    assert cache.hold(file_of(content(5))) is None
    assert descriptors() == before


def test_the_directory_may_be_deleted_at_any_time(home: Path, store: Store) -> None:
    cache = FileCache(home, 2 * SIZE)
    assert store.read(cache, content(1))
    shutil.rmtree(home)
    assert cache.hold(file_of(content(1))) is None
    cache.flush()
    assert store.read(cache, content(1))
    shutil.rmtree(home / "locks")
    assert store.read(cache, content(2))
    assert store.read(cache, content(3))
    assert lying(home) == names(content(2), content(3))


@pytest.mark.parametrize("replaced", [False, True])
@pytest.mark.parametrize("writes", ["before", "after"])
def test_a_directory_deleted_during_a_download_is_no_missing_partition(
    home: Path, store: Store, replaced: bool, writes: str
) -> None:
    cache = FileCache(home, PLENTY)

    def download(path: Path) -> None:
        if writes == "before":
            path.write_bytes(content(1))
        shutil.rmtree(home)
        if replaced:
            assert store.read(FileCache(home, PLENTY), content(2))
        if writes == "after":
            # As the drivers of remote stores say it: without the path.
            raise FileNotFoundError(errno.ENOENT, "there is no such file or bucket")

    assert cache.fetch(file_of(content(1)), download) is None
    assert store.read(cache, content(1))


def test_a_lost_index_is_made_again_from_the_files_and_the_limit_is_kept(home: Path, store: Store) -> None:
    cache = FileCache(home, 3 * SIZE)
    for number in (1, 2, 3):
        assert store.read(cache, content(number))
        os.utime(path_in(home, content(number)), (number, number))
    (home / "index.sqlite").unlink()
    assert store.read(cache, content(4))
    assert lying(home) == names(content(2), content(3), content(4))
    assert cache.counts()["sizeBytes"] == 3 * SIZE


def break_header(index: Path) -> None:
    index.write_bytes(b"no database" * 1000)


def break_pages(index: Path) -> None:
    data = index.read_bytes()
    index.write_bytes(data[:4096] + b"\xff" * (len(data) - 4096))


def drop_table(index: Path) -> None:
    with sqlite3.connect(index) as database:
        database.execute("DROP TABLE files")
    database.close()


def make_strange(index: Path) -> None:
    index.unlink()
    with sqlite3.connect(index) as database:
        database.execute("CREATE TABLE files (x)")
    database.close()


@pytest.mark.parametrize(
    "harm", [break_header, break_pages, drop_table, make_strange, lambda index: os.truncate(index, 0)]
)
@pytest.mark.parametrize("restarted", [False, True])
def test_a_broken_index_is_replaced(home: Path, store: Store, harm: Callable[[Path], None], restarted: bool) -> None:
    cache = FileCache(home, 2 * SIZE)
    assert store.read(cache, content(1))
    assert store.read(cache, content(2))
    harm(home / "index.sqlite")
    if restarted:
        cache = FileCache(home, 2 * SIZE)
    assert store.read(cache, content(1))
    store.read(cache, content(3))  # One query may have to go on without the cache.
    assert store.read(cache, content(4))
    assert cache.counts()["sizeBytes"] <= 2 * SIZE
    assert sum(path.stat().st_size for path in (home / "files").iterdir()) <= 2 * SIZE


def test_an_index_that_is_locked_is_left_alone_and_queries_go_on(
    home: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_index, "_BUSY_S", 0)
    cache = FileCache(home, PLENTY)
    assert store.read(cache, content(1))
    before = (home / "index.sqlite").stat().st_ino
    stranger = sqlite3.connect(home / "index.sqlite", isolation_level=None)
    stranger.execute("BEGIN EXCLUSIVE")
    assert store.read(cache, content(1))
    cache.flush()
    assert not store.read(cache, content(2))
    assert not store.read(FileCache(home, PLENTY), content(2))
    assert (cache.counts(), cache.clear()) == ({}, 0)
    stranger.close()
    assert store.read(cache, content(2))
    assert (home / "index.sqlite").stat().st_ino == before
    assert cache.counts()["hits"] == 1


def test_an_index_locked_when_a_download_ends_costs_that_download_alone(
    home: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_index, "_BUSY_S", 0)
    cache = FileCache(home, SIZE)
    cache.flush()
    stranger = sqlite3.connect(home / "index.sqlite", isolation_level=None)

    def download(path: Path) -> None:
        path.write_bytes(content(1))
        stranger.execute("BEGIN EXCLUSIVE")

    assert cache.fetch(file_of(content(1)), download) is None
    stranger.close()
    assert lying(home) == set()
    # The room that could not be given back is taken from who is not fetching any more.
    assert store.read(cache, content(2))
    assert lying(home) == names(content(2))


@pytest.mark.parametrize("lost", [False, True], ids=["index kept", "index lost"])
def test_an_index_lost_during_a_download_does_not_lose_its_room(home: Path, store: Store, lost: bool) -> None:
    cache, other = FileCache(home, 3 * SIZE), FileCache(home, 3 * SIZE)

    def download(path: Path) -> None:
        path.write_bytes(content(1)[:8])
        if lost:
            (home / "index.sqlite").unlink()
        for number in (2, 3, 4):
            assert store.read(other, content(number))
        assert names(content(3), content(4)) < lying(home)
        assert len(lying(home)) == 3
        path.write_bytes(content(1))

    held = cache.fetch(file_of(content(1)), download)
    assert held is not None
    held.let_go()
    assert lying(home) == names(content(1), content(3), content(4))


def test_an_index_lost_before_a_download_wrote_anything_costs_others_room_and_not_the_limit(
    home: Path, store: Store
) -> None:
    cache, other = FileCache(home, 3 * SIZE), FileCache(home, 3 * SIZE)

    def download(path: Path) -> None:
        (home / "index.sqlite").unlink()
        for number in (2, 3, 4):
            assert store.read(other, content(number))
        path.write_bytes(content(1))

    held = cache.fetch(file_of(content(1)), download)
    assert held is not None
    held.let_go()
    assert lying(home) == names(content(1), content(3), content(4))


def test_who_met_a_broken_index_does_not_delete_the_one_that_took_its_place(home: Path, store: Store) -> None:
    cache = FileCache(home, PLENTY)
    assert store.read(cache, content(1))
    before = (home / "index.sqlite").stat().st_ino
    error = sqlite3.DatabaseError("malformed")
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    assert cache._index._discarded(error)
    assert (home / "index.sqlite").stat().st_ino == before


def test_a_file_that_is_in_place_stays_counted_when_saying_so_fails(
    home: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = FileCache(home, SIZE)

    def rename(path: Path, target: Path) -> None:
        os.rename(path, target)  # noqa: PTH104
        raise OSError(errno.EIO, "the disk")

    with monkeypatch.context() as broken:
        broken.setattr(Path, "rename", rename)
        assert cache.fetch(file_of(content(1)), store.of(content(1))) is None
    assert lying(home) == names(content(1))
    assert cache.counts()["sizeBytes"] == SIZE
    assert store.read(cache, content(2))
    assert lying(home) == names(content(2))


def test_files_that_somebody_deleted_are_not_counted_from_the_next_start(home: Path, store: Store) -> None:
    assert store.read(FileCache(home, PLENTY), content(1))
    path_in(home, content(1)).unlink()
    assert FileCache(home, PLENTY).counts()["sizeBytes"] == 0


def test_what_is_no_directory_is_no_cache(tmp_path: Path, store: Store) -> None:
    (tmp_path / "taken").write_text("a file")
    cache = FileCache(tmp_path / "taken" / "cache", PLENTY)
    assert not store.read(cache, content(1))
    cache.flush()
    assert (cache.counts(), cache.clear()) == ({}, 0)


def test_files_that_somebody_put_there_are_counted_if_they_are_named_so_and_left_alone_else(
    home: Path, store: Store
) -> None:
    first = FileCache(home, 2 * SIZE)
    assert store.read(first, content(1))
    path_in(home, content(2)).write_bytes(content(2))
    path_in(home, content(3)).write_bytes(content(7))
    (home / "files" / "notes.txt").write_bytes(b"x" * SIZE)
    cache = FileCache(home, 4 * SIZE)
    assert cache.counts()["sizeBytes"] == 3 * SIZE
    assert store.read(cache, content(2))
    assert store.fetched == [content(1)]
    assert store.read(cache, content(3))
    assert store.fetched == [content(1), content(3)]
    FileCache(home, 0).flush()
    assert lying(home) == {"notes.txt"}


def test_a_directory_in_a_files_place_costs_that_file_alone(home: Path, store: Store) -> None:
    path_in(home, content(1)).mkdir(parents=True)
    cache = FileCache(home, 10_000)
    assert cache.fetch(file_of(content(1)), fails) is None
    for number in range(2, 15):
        assert store.read(cache, content(number))


def abandon(home: Path, data: bytes, limit: int) -> None:
    """What a process leaves that ends in the middle of a fetch."""
    dead, file = FileCache(home, limit), file_of(data)
    dead._prepare()
    assert dead._reserve(file)
    dead._files.new_part(file).write_bytes(data[: len(data) // 2])


@pytest.mark.parametrize("index", ["index kept", "index lost"])
@pytest.mark.parametrize("wanted", [1, 2])
def test_room_that_a_dead_process_reserved_is_given_back(home: Path, store: Store, index: str, wanted: int) -> None:
    abandon(home, content(1), SIZE)
    if index == "index lost":
        (home / "index.sqlite").unlink()
    assert store.read(FileCache(home, SIZE), content(wanted))
    assert lying(home) == names(content(wanted))


def test_room_that_a_dead_process_reserved_in_the_same_stripe_is_given_back(home: Path, store: Store) -> None:
    stripe = FileCache(home, SIZE)._files.stripe
    first = stripe(file_of(content(0)).name)
    other = next(number for number in range(1, 100_000) if stripe(file_of(content(number)).name) == first)
    abandon(home, content(0), SIZE)
    assert store.read(FileCache(home, SIZE), content(other))
    assert lying(home) == names(content(other))


def test_a_file_put_in_place_by_a_process_that_ended_before_it_said_so_is_used(home: Path, store: Store) -> None:
    abandon(home, content(1), 2 * SIZE)
    (part,) = (home / "files").iterdir()
    part.write_bytes(content(1))
    part.rename(path_in(home, content(1)))
    cache = FileCache(home, 2 * SIZE)
    held = cache.fetch(file_of(content(1)), fails)
    assert held is not None
    assert store.read(cache, content(2))
    assert not store.read(cache, content(3, 2 * SIZE))
    assert path_in(home, content(1)).exists()
    held.let_go()
    assert store.read(cache, content(3, 2 * SIZE))
    assert lying(home) == names(content(3, 2 * SIZE))


def test_a_dead_process_part_beside_a_file_that_somebody_put_there_goes_with_it(home: Path, store: Store) -> None:
    abandon(home, content(1), 2 * SIZE)
    path_in(home, content(1)).write_bytes(content(1))
    assert store.read(FileCache(home, 2 * SIZE), content(3, 2 * SIZE))
    assert lying(home) == names(content(3, 2 * SIZE))


def test_threads_that_want_one_file_download_it_once(home: Path, store: Store) -> None:
    cache = FileCache(home, PLENTY)
    start = threading.Barrier(8)

    def want(number: int) -> Held | None:
        start.wait()
        return cache.fetch(file_of(content(number % 2)), store.of(content(number % 2)))

    with ThreadPoolExecutor(8) as pool:
        held = list(pool.map(want, range(8)))
    for one in held:
        assert one is not None
        one.let_go()
    assert sorted(store.fetched) == [content(0), content(1)]


def test_a_fetch_waits_for_nobody_who_merely_uses_other_files(home: Path, store: Store) -> None:
    cache = FileCache(home, 2 * SIZE)
    downloading, may_end = threading.Event(), threading.Event()

    def slow(path: Path) -> None:
        downloading.set()
        assert may_end.wait(60)
        path.write_bytes(content(1))

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(cache.fetch, file_of(content(1)), slow)
        try:
            assert downloading.wait(60)
            assert store.read(cache, content(2))
            assert store.read(cache, content(3))
            assert not store.read(cache, content(4, 2 * SIZE))
        finally:
            may_end.set()
        held = running.result()
    assert held is not None
    held.let_go()
    assert path_in(home, content(1)).exists()
