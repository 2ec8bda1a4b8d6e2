"""A damaged file: a query that needs it gets an error that names it, every other one its right answer."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.faults.stand import Stand, make_stand
from tests.service import ALL_TIME, FIELDS, Service, batch

ROWS = 2000
SCHEMA = {"fields": [*FIELDS, {"name": "value", "type": "double"}, {"name": "text", "type": "string"}]}


@pytest.fixture(scope="module")
def stand(
    make_service: Callable[..., Service], postgres_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stand]:
    made = make_stand(make_service, postgres_url, tmp_path_factory.mktemp("damaged") / "storage")
    made.service.start()
    yield made
    made.service.kill()


def rows_of(hour: int) -> list[dict[str, Any]]:
    """What the partition of this hour holds, as a query answers it."""
    numbers = [hour * 3600 + second for second in range(ROWS)]
    return [
        {
            "timestamp": row["timestamp"].replace("Z", ".000Z"),
            "n": row["n"],
            "value": row["n"] / 7,
            "text": f"{row['n'] * 2654435761 % 2**32:08x}",
        }
        for row in batch(numbers)["rows"]
    ]


def ingest_hours(stand: Stand, slug: str, hours: int) -> list[dict[str, Any]]:
    """One partition an hour; each as the catalog has it."""
    for hour in range(hours):
        body = batch([hour * 3600], schema=SCHEMA, rows=rows_of(hour))
        assert stand.service.ingest(slug, body).status_code == 201
    return [one for one in stand.partitions() if one["slug"] == slug]


def ask(stand: Stand, slug: str, hour: int, **question: Any) -> httpx.Response:
    time_range = {"start": f"2024-01-01T{hour:02}:00:00Z", "end": f"2024-01-01T{hour:02}:59:59Z"}
    return stand.service.query(slug, {"timeRange": time_range, **question})


def assert_names(answer: httpx.Response, partition: dict[str, Any]) -> None:
    """An explicit error: which partition, which file, and that others can be asked for."""
    assert answer.status_code == 500, answer.text[:300]
    assert answer.json()["code"] == "partition_unreadable", answer.text
    assert answer.json()["details"] == {"partitionId": partition["id"], "filePath": partition["file_path"]}
    assert partition["id"] in answer.json()["message"]


def assert_right_or_named(answer: httpx.Response, rows: list[dict[str, Any]], partition: dict[str, Any]) -> None:
    """A query that happens not to touch what is damaged may be answered, rightly."""
    if answer.status_code == 200:
        assert answer.json()["rows"] == rows
    else:
        assert_names(answer, partition)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def flip_a_bit_in_the_middle(path: Path) -> None:
    flip(path, path.stat().st_size // 2, 3)


def zero_the_head(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(bytes(12 * 1024))


def delete(path: Path) -> None:
    path.unlink()


def flip(path: Path, position: int, bit: int) -> None:
    """Flip one bit in place."""
    with path.open("r+b") as file:
        file.seek(position)
        (byte,) = file.read(1)
        file.seek(position)
        file.write(bytes([byte ^ (1 << bit)]))


DAMAGES = [truncate, empty, flip_a_bit_in_the_middle, zero_the_head, delete]
COUNT = {"downsample": {"intervalUnit": "day", "aggregations": [{"fn": "count"}]}}


DAY = {"timestamp": "2024-01-01T00:00:00.000Z"}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_query_that_needs_a_damaged_partition_names_it_and_others_are_answered(
    stand: Stand, damage: Callable[[Path], None]
) -> None:
    slug = f"three-{damage.__name__}"
    partitions = ingest_hours(stand, slug, 3)
    damage(stand.root / partitions[1]["file_path"])

    for _ in range(3):
        assert_names(ask(stand, slug, 1), partitions[1])
        assert_right_or_named(ask(stand, slug, 1, **COUNT), [DAY | {"count": ROWS}], partitions[1])
        assert_names(stand.service.query(slug, {"timeRange": ALL_TIME}), partitions[1])
        assert ask(stand, slug, 0).json()["rows"] == rows_of(0)
        assert ask(stand, slug, 2).json()["rows"] == rows_of(2)


def restorations() -> Iterator[Any]:
    """Each damage, met by the first query or after one, and its file written over or replaced by another."""
    for damage in DAMAGES:
        for asked_before in (False, True):
            for in_place in (True, False):
                name = f"{damage.__name__}-{'later' if asked_before else 'first'}-{'same' if in_place else 'new'}"
                yield pytest.param(damage, asked_before, in_place, id=name)


@pytest.mark.parametrize(("damage", "asked_before", "in_place"), list(restorations()))
def test_a_partition_answers_again_when_its_file_is_restored(
    stand: Stand, damage: Callable[[Path], None], asked_before: bool, in_place: bool
) -> None:
    slug = f"restored-{damage.__name__}-{asked_before}-{in_place}"
    (partition,) = ingest_hours(stand, slug, 1)
    path = stand.root / partition["file_path"]
    content = path.read_bytes()
    if asked_before:
        assert ask(stand, slug, 0).json()["rows"] == rows_of(0)
    damage(path)
    answer = ask(stand, slug, 0)
    # What was read before the damage may still be in memory.
    assert asked_before or answer.status_code == 500
    assert_right_or_named(answer, rows_of(0), partition)

    if in_place:
        path.write_bytes(content)
    else:
        copy = path.with_suffix(".copy")
        copy.write_bytes(content)
        copy.rename(path)

    restored = ask(stand, slug, 0)
    assert restored.json().get("rows") == rows_of(0), restored.text


def test_one_flipped_bit_anywhere_never_gives_a_wrong_value(stand: Stand) -> None:
    chance = random.Random(20240101)
    hours = 20
    outcomes = []
    for round_ in range(3):
        slug = f"flipped-{round_}"
        partitions = ingest_hours(stand, slug, hours)
        for hour, partition in enumerate(partitions):
            path = stand.root / partition["file_path"]
            position, bit = chance.randrange(path.stat().st_size), chance.randrange(8)
            flip(path, position, bit)
            answer = ask(stand, slug, hour)
            assert_right_or_named(answer, rows_of(hour), partition)
            outcomes.append(answer.status_code)
    assert outcomes.count(500) > len(outcomes) / 2
