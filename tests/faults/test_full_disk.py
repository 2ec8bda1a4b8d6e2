"""A full disk: 507 or a clear refusal, nothing half-published, and on it goes when there is room again."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.faults.stand import Stand
from tests.service import ALL_TIME, FIELDS, batch, numbers_of

MIB = 1024 * 1024


@contextmanager
def small_disk(directory: Path, size_bytes: int) -> Iterator[Path]:
    """A file system of its own that is full after so many bytes; skips the test where none can be mounted."""
    directory.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "timestore-test", str(directory)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        assert os.environ.get("CI") != "true", f"CI must be able to mount a tmpfs: {mounted.stderr}"
        pytest.skip(f"a tmpfs cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield directory
    finally:
        # Lazily: a process that was killed may still hold a file.
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", 4 * MIB) as directory:
        yield directory


def fill(directory: Path, leave_bytes: int = 0) -> Path:
    """Write ballast until the file system is full, then give so many bytes back."""
    ballast = directory / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
        file.truncate(file.tell() - leave_bytes)
    return ballast


def assert_it_is_full(answer: httpx.Response) -> None:
    assert answer.status_code == 507, answer.text
    assert answer.json()["code"] == "insufficient_storage"
    assert "timestore-default-local is full" in answer.json()["message"]


def assert_all_is_well(stand: Stand, slug: str, numbers: list[int]) -> None:
    """What was acknowledged can be read, nothing was half-published, and nothing was left behind."""
    assert numbers_of(stand.service, slug) == numbers
    assert stand.staged() == []
    assert sorted(stand.root / one["file_path"] for one in stand.partitions()) == stand.files()
    stand.assert_the_catalog_names_only_whole_files()


def test_a_full_storage_root_refuses_batches_until_there_is_room(stand_with: Callable[..., Stand], disk: Path) -> None:
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(2 * MIB))
    stand = stand_with(root=disk / "storage")
    (worker,) = stand.workers()
    acknowledged: list[int] = []
    numbers = list(range(100))
    while (answer := stand.service.ingest("full", batch(numbers), f"batch-{numbers[0]}")).status_code == 201:
        acknowledged += numbers
        numbers = [number + 100 for number in numbers]

    assert_it_is_full(answer)
    assert_all_is_well(stand, "full", acknowledged)
    assert_it_is_full(stand.service.ingest("full", batch(numbers), f"batch-{numbers[0]}"))
    ballast.unlink()
    again = stand.service.ingest("full", batch(numbers), f"batch-{numbers[0]}")

    assert (again.status_code, "idempotent-replayed" in again.headers) == (201, False)
    assert_all_is_well(stand, "full", acknowledged + numbers)
    assert stand.workers() == [worker]


def test_a_disk_that_is_full_at_any_point_of_a_write_leaves_nothing(
    stand_with: Callable[..., Stand], disk: Path
) -> None:
    stand = stand_with(root=disk / "storage")
    (worker,) = stand.workers()
    assert stand.service.ingest("points", batch([0])).status_code == 201
    acknowledged, refused = [0], 0
    # A page of this file system at a time, to beyond what the batch needs.
    for left_bytes in range(0, 80 * 1024, 4096):
        ballast = fill(disk, left_bytes)

        answer = stand.service.ingest("points", batch([len(acknowledged)]))

        if answer.status_code == 201:
            acknowledged.append(len(acknowledged))
        else:
            assert_it_is_full(answer)
            refused += 1
        assert_all_is_well(stand, "points", acknowledged)
        ballast.unlink()
    assert refused > 3
    assert len(acknowledged) > 3
    assert stand.workers() == [worker]


def test_writers_that_fill_the_disk_together_get_either_answer(stand_with: Callable[..., Stand], disk: Path) -> None:
    stand = stand_with(root=disk / "storage")
    stand.service.ingest("together", batch([0]))
    fill(disk, 256 * 1024)

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda number: stand.service.ingest("together", batch([number])), range(1, 33)))

    for answer in answers:
        if answer.status_code != 201:
            assert_it_is_full(answer)
    written = [number for number, answer in enumerate(answers, start=1) if answer.status_code == 201]
    assert 0 < len(written) < 32
    assert_all_is_well(stand, "together", [0, *written])


def wide_batch(first: int, rows: int) -> dict[str, Any]:
    schema = {"fields": [*FIELDS, {"name": "text", "type": "string"}]}
    body = batch(list(range(first, first + rows)), schema=schema)
    for row in body["rows"]:
        # Long, and the same nowhere: it cannot be compressed away.
        row["text"] = hashlib.sha256(str(row["n"]).encode()).hexdigest() * 2
    return body


SPILLING: dict[str, dict[str, Any]] = {
    "each text by itself": {"groupBy": ["text"], "aggregations": [{"fn": "count"}]},
    "texts of each second": {
        "downsample": {"intervalUnit": "second", "aggregations": [{"fn": "count_distinct", "column": "text"}]}
    },
}
COUNT = {"intervalUnit": "month", "aggregations": [{"fn": "count"}]}
# Which of the two is exhausted first is the engine's affair; each names what to raise.
REFUSALS = {"query_memory": (413, "TIMESTORE_QUERY_MEMORY_BYTES"), "spill_full": (507, "TIMESTORE_TEMP_DIR")}


@pytest.mark.parametrize("where", ["TIMESTORE_TEMP_DIR of its own", "the storage root"])
def test_queries_that_fill_the_disk_they_spill_to_are_refused_and_the_rest_goes_on(
    stand_with: Callable[..., Stand], tmp_path: Path, where: str
) -> None:
    settings = {"TIMESTORE_QUERY_MEMORY_BYTES": str(32 * MIB), "TIMESTORE_QUERY_THREADS": "1"}
    rows = 240_000
    with small_disk(tmp_path / "disk", 128 * MIB) as disk:
        if where == "the storage root":
            stand = stand_with(root=disk / "storage", **settings)
            spill = stand.root / ".tmp" / "spill"
        else:
            spill = disk / "spill"
            stand = stand_with(TIMESTORE_TEMP_DIR=str(spill), **settings)
        (worker,) = stand.workers()
        for first in range(0, rows, 80_000):
            assert stand.service.ingest("wide", wide_batch(first, 80_000)).status_code == 201
        fill(disk, leave_bytes=2 * MIB)

        refusals = [stand.service.query("wide", {"timeRange": ALL_TIME, **one}) for one in SPILLING.values()]
        counted = stand.service.query("wide", {"timeRange": ALL_TIME, "downsample": COUNT})
        first_rows = stand.service.query("wide", {"timeRange": ALL_TIME, "columns": ["n"], "limit": 5})
        created = stand.service.ingest("small", batch([1]))

        for refused in refusals:
            assert refused.status_code != 200
            status, setting = REFUSALS[refused.json()["code"]]
            assert refused.status_code == status
            assert setting in refused.json()["message"]
        assert "spill_full" in {refused.json()["code"] for refused in refusals}
        assert counted.json()["rows"] == [{"timestamp": "2024-01-01T00:00:00.000Z", "count": rows}]
        assert [row["n"] for row in first_rows.json()["rows"]] == list(range(5))
        assert created.status_code == 201
        assert sum(path.stat().st_size for path in spill.rglob("*") if path.is_file()) == 0
        assert stand.workers() == [worker]
        stand.service.kill()
