"""The cache of whole remote files, in one process: what it hands out and what it removes."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from pathlib import Path

import pytest

from tests.unit.cache.stand import (
    PLENTY,
    SIZE,
    Store,
    content,
    descriptors,
    fails,
    file_of,
    flip,
    lying,
    names,
    path_in,
    writing,
)
from timestore_core.partitions.cache import AlteredFileError, CachedFile, FileCache


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
