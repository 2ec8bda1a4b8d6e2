"""One cache under many processes: its limit at every moment, one download for all, and processes that are killed."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Barrier
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from tests.unit.cache.stand import content, file_of, flip, writing
from timestore_core.partitions import cache, cache_files, cache_index
from timestore_core.partitions.cache import CachedFile, FileCache

pytestmark = pytest.mark.extended

PROCESSES = 8
FILES = 200
LARGEST = 8000
ALL = FILES * LARGEST
TWENTY = 20 * LARGEST
PATIENCE_S = 120
_SPAWN = multiprocessing.get_context("spawn")


def bytes_of(number: int) -> bytes:
    return content(number, LARGEST - 8 * (number % 250))


class Reader:
    """Reads files through the cache as a query does, and writes down in a log what it downloads."""

    def __init__(self, home: Path, limit: int, log: Path) -> None:
        self.cache = FileCache(home, limit)
        self.log = log
        self.dies_after: int | None = None

    def read(self, number: int) -> None:
        file = file_of(bytes_of(number))
        held = self.cache.hold(file) or self.cache.fetch(file, lambda path: self._download(number, path))
        assert held is not None, f"no room for {number}"
        try:
            assert held.path.read_bytes() == bytes_of(number), f"{number} is wrong"
        finally:
            held.let_go()
        self.cache.flush()

    def _download(self, number: int, path: Path) -> None:
        data = bytes_of(number)
        with self.log.open("a") as log:
            log.write(f"{number}\n")
        with path.open("xb", buffering=0) as part:
            for start in range(0, len(data), 1000):
                part.write(data[start : start + 1000])
                if self.dies_after is not None and start > 2000:
                    self.dies_after -= 1
                    if self.dies_after < 0:
                        os.kill(os.getpid(), signal.SIGKILL)


def read_all(home: Path, limit: int, log: Path, seed: int) -> None:
    reader = Reader(home, limit, log)
    order = list(range(FILES))
    random.Random(seed).shuffle(order)
    for number in order:
        reader.read(number)
    reader.cache.counts()


def read_some(home: Path, limit: int, log: Path, seed: int, reads: int, dies_after: int | None = None) -> None:
    """Some files more often than others."""
    reader = Reader(home, limit, log)
    reader.dies_after = dies_after
    chosen = random.Random(seed)
    for _ in range(reads):
        reader.read(int(FILES * chosen.random() ** 3))
    reader.cache.counts()


def read_in_rounds(home: Path, log: Path, seed: int, rounds: int, barrier: Barrier) -> None:
    reader = Reader(home, ALL, log)
    for turn in range(rounds):
        barrier.wait(PATIENCE_S)
        order = list(range(40))
        random.Random(seed + turn).shuffle(order)
        for number in order:
            reader.read(number)
        barrier.wait(PATIENCE_S)


def started(target: Callable[..., None], *arguments: Any) -> BaseProcess:
    process = _SPAWN.Process(target=target, args=arguments, daemon=True)
    process.start()
    return process


def bytes_at_one_moment(files: Path) -> int:
    """Bytes that were in the directory, files and parts, between two looks at it.

    Two looks, since one takes its time: it would count a file that is evicted while it lasts and the one that comes
    in its stead. What both see, unchanged, was there between them, and a part does not shrink.
    """
    first, second = _look(files), _look(files)
    return sum(size for key, size in first.items() if key in second)


def _look(files: Path) -> dict[tuple[object, ...], int]:
    found: dict[tuple[object, ...], int] = {}
    if not files.is_dir():
        return found
    for entry in os.scandir(files):
        try:
            about = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue
        changed = None if entry.name.endswith(".part") else about.st_ctime_ns
        found[entry.name, about.st_ino, changed] = about.st_size
    return found


def watch(processes: Sequence[BaseProcess], home: Path, limit: int) -> int:
    """Look at the directory until all processes ended; the most bytes that were there at one moment."""
    most = 0
    running = {process.sentinel for process in processes}
    while running:
        running -= {one for one in wait(list(running), timeout=0.001) if isinstance(one, int)}
        most = max(most, bytes_at_one_moment(home / "files"))
        assert most <= limit
    for process in processes:
        process.join(PATIENCE_S)
    return most


def lying(home: Path) -> set[str]:
    return {path.name for path in (home / "files").iterdir()}


def downloads(log: Path) -> Counter[int]:
    return Counter(int(line) for line in log.read_text().split())


def test_files_that_all_fit_are_downloaded_once_for_all_processes(tmp_path: Path) -> None:
    home, log = tmp_path / "cache", tmp_path / "log"
    processes = [started(read_all, home, ALL, log, seed) for seed in range(PROCESSES)]
    watch(processes, home, ALL)
    assert [process.exitcode for process in processes] == [0] * PROCESSES
    assert downloads(log) == Counter(range(FILES))
    counts = FileCache(home, ALL).counts()
    size_bytes = sum(len(bytes_of(number)) for number in range(FILES))
    assert (counts["files"], counts["sizeBytes"], counts["bytes"]) == (FILES, size_bytes, size_bytes)
    assert counts["hits"] + counts["misses"] == PROCESSES * FILES
    assert counts["evictions"] == 0


def test_files_and_parts_never_exceed_the_limit_and_no_file_is_downloaded_while_it_stays(tmp_path: Path) -> None:
    home, log = tmp_path / "cache", tmp_path / "log"
    processes = [started(read_some, home, TWENTY, log, seed, 150) for seed in range(PROCESSES)]
    most = watch(processes, home, TWENTY)
    assert [process.exitcode for process in processes] == [0] * PROCESSES
    assert most > TWENTY // 2
    counts = FileCache(home, TWENTY).counts()
    there = sum(path.stat().st_size for path in (home / "files").iterdir())
    assert (counts["files"], counts["sizeBytes"]) == (len(lying(home)), there)
    # Whatever came either left or is there still: none came while it was there.
    assert downloads(log).total() == counts["evictions"] + counts["files"]


def test_processes_killed_while_they_fetch_stop_nobody_and_their_room_is_given_back(tmp_path: Path) -> None:
    home, log = tmp_path / "cache", tmp_path / "log"
    dying = [started(read_some, home, TWENTY, log, seed, 1000, seed) for seed in range(PROCESSES // 2)]
    others = [started(read_some, home, TWENTY, log, 100 + seed, 100) for seed in range(PROCESSES // 2)]
    watch(dying + others, home, TWENTY)
    assert [process.exitcode for process in dying] == [-signal.SIGKILL] * len(dying)
    assert [process.exitcode for process in others] == [0] * len(others)
    late = started(read_some, home, TWENTY, log, 200, 50)
    watch([late], home, TWENTY)
    assert late.exitcode == 0
    whole = content(1, TWENTY)
    held = FileCache(home, TWENTY).fetch(file_of(whole), writing(whole))
    assert held is not None
    assert lying(home) == {held.path.name}
    held.let_go()


def test_altered_files_are_handed_out_by_no_process_and_fetched_again_once(tmp_path: Path) -> None:
    home, log = tmp_path / "cache", tmp_path / "log"
    rounds = 3
    barrier = _SPAWN.Barrier(PROCESSES + 1)
    read_some(home, ALL, log, 0, 100)
    expected = downloads(log) | Counter(range(40))
    processes = [started(read_in_rounds, home, log, 100 * seed, rounds, barrier) for seed in range(PROCESSES)]
    for _ in range(rounds):
        # In the first round no process has met any file yet, in the others all have met all.
        altered = [n for n in range(0, 40, 3) if (home / "files" / file_of(bytes_of(n)).name).exists()]
        assert altered
        for number in altered:
            flip(home / "files" / file_of(bytes_of(number)).name)
        expected += Counter(altered)
        barrier.wait(PATIENCE_S)
        barrier.wait(PATIENCE_S)
    watch(processes, home, ALL)
    assert [process.exitcode for process in processes] == [0] * PROCESSES
    assert downloads(log) == expected


def die_at_line(line: int) -> None:
    """SIGKILL to this process when it comes to its so-manieth line of the cache's code."""
    sources = {cache.__file__, cache_files.__file__, cache_index.__file__}
    left = line

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal left
        if frame.f_code.co_filename not in sources:
            return None
        if event == "line":
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)


def die_at_every_line(home: Path, is_fresh: bool) -> None:
    """For every line of a fetch that evicts: a process that dies there, and one that comes after it."""
    limit = 3000
    small, large = content(1), content(2, limit)
    line = 0
    is_killed = True
    while is_killed:
        line += 1
        if is_fresh:
            shutil.rmtree(home, ignore_errors=True)
        child = os.fork()
        if child == 0:
            die_at_line(line)
            fetch(home, limit, small)
            os._exit(0)
        is_killed = os.WIFSIGNALED(os.waitpid(child, 0)[1])
        assert bytes_at_one_moment(home / "files") <= limit, line
        for data in (small, large):
            fetch(home, limit, data)
            assert bytes_at_one_moment(home / "files") <= limit, line
        assert lying(home) == {file_of(large).name}, line
    assert line > 100


def fetch(home: Path, limit: int, data: bytes) -> None:
    file: CachedFile = file_of(data)
    reader = FileCache(home, limit)
    held = reader.hold(file) or reader.fetch(file, writing(data))
    assert held is not None
    assert held.path.read_bytes() == data
    held.let_go()
    reader.flush()


@pytest.mark.slow
@pytest.mark.extended
@pytest.mark.parametrize("is_fresh", [False, True], ids=["full", "new"])
def test_a_process_may_be_killed_at_every_line(tmp_path: Path, is_fresh: bool) -> None:
    process = started(die_at_every_line, tmp_path / "cache", is_fresh)
    process.join(PATIENCE_S)
    assert process.exitcode == 0
