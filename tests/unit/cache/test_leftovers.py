"""What others leave in a cache's directory: dead processes, people, and threads that want the same."""

from __future__ import annotations

import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.unit.cache.stand import (
    PLENTY,
    SIZE,
    Store,
    content,
    fails,
    file_of,
    lying,
    names,
    path_in,
)
from timestore_core.partitions.cache import FileCache, Held


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
