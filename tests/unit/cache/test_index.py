"""The cache's index, lost, broken or locked: files and the limit outlive it."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.cache.stand import (
    PLENTY,
    SIZE,
    Store,
    content,
    file_of,
    lying,
    names,
    path_in,
)
from timestore_core.partitions import cache_index
from timestore_core.partitions.cache import FileCache


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
