"""Long answers in slices: every row in one of them, in order, and few enough in each."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Mapping

import pytest

from timestore_core.model import Field, Schema, TimeRange
from timestore_core.query.plan import PlannedPartition, QueryPlan
from timestore_core.query.slices import is_sliced, slice_rows, slices

YEAR_1_US, YEAR_9999_US = -62_135_596_800_000_000, 253_402_300_799_999_999
NOW_US = 1_704_067_200_000_000
COLUMNS = tuple(Field(f"c{number}", "double") for number in range(300))


def plan_of(files: list[list[int]], range_: TimeRange, *, known: bool = True) -> QueryPlan:
    partitions = tuple(
        PlannedPartition(
            id=str(number),
            target_id="st",
            location=str(number),
            file_path="",
            format="duckdb",
            table_name="records",
            schema=Schema(COLUMNS),
            size_bytes=1,
            rows=len(times),
            within_range=known and min(times) >= range_.start_us and max(times) <= range_.end_us,
            bounds=TimeRange(min(times), max(times)) if known else None,
        )
        for number, times in enumerate(files)
    )
    return QueryPlan(
        "ds", "d", 1, partitions, len(files), range_, "timestamp", COLUMNS, None, (), COLUMNS, 2**62, False, 1000
    )


def cut(files: list[list[int]], range_: TimeRange, *, known: bool = True) -> list[QueryPlan]:
    plan, times = plan_of(files, range_, known=known), [one for file in files for one in file]

    def counted(part: TimeRange, width_us: int) -> Mapping[int, int]:
        return Counter((one - part.start_us) // width_us for one in times if part.start_us <= one <= part.end_us)

    assert is_sliced(plan)
    return list(slices(plan, counted, slice_rows(plan)))


def shapes() -> dict[str, list[list[int]]]:
    chance = random.Random(5)
    even = [
        [NOW_US + second * 1_000_000 for second in range(start, start + 5_000)] for start in range(0, 40_000, 4_000)
    ]
    return {
        "even, in files that overlap": even,
        "one file": [[one for file in even for one in file]],
        "almost all at one moment": [[NOW_US] * 30_000 + [NOW_US + 1, NOW_US - 1, YEAR_1_US, YEAR_9999_US]],
        "dense here and there": [[int(chance.gauss(NOW_US, 10 ** chance.randint(1, 14))) for _ in range(30_000)]],
    }


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("shape", shapes())
def test_every_row_is_in_one_slice_and_they_follow_one_another(shape: str, known: bool) -> None:
    files = shapes()[shape]
    everything = TimeRange(YEAR_1_US, YEAR_9999_US)

    found = cut(files, everything, known=known)
    times = sorted(one for file in files for one in file)
    ranges = [part.time_range for part in found]
    assert all(one.end_us < other.start_us for one, other in itertools.pairwise(ranges))
    counts = [sum(one.start_us <= time <= one.end_us for time in times) for one in ranges]
    assert sum(counts) == len(times)
    most_at_once = max(Counter(times).values())
    assert max(counts) <= max(slice_rows(found[0]), most_at_once)


def test_a_slice_reads_only_the_files_that_reach_into_it_and_none_outside_the_range() -> None:
    files = shapes()["even, in files that overlap"]
    asked = TimeRange(NOW_US + 1_000_000_000, NOW_US + 30_000_000_000)

    for part in cut(files, asked):
        assert asked.start_us <= part.time_range.start_us <= part.time_range.end_us <= asked.end_us
        reached = {
            str(number)
            for number, times in enumerate(files)
            if min(times) <= part.time_range.end_us and max(times) >= part.time_range.start_us
        }
        assert {partition.id for partition in part.partitions} == reached
        for partition in part.partitions:
            times = files[int(partition.id)]
            inside = min(times) >= part.time_range.start_us and max(times) <= part.time_range.end_us
            assert partition.within_range == inside


def test_an_answer_that_a_limit_keeps_short_is_not_sliced() -> None:
    from dataclasses import replace

    plan = plan_of(shapes()["one file"], TimeRange(YEAR_1_US, YEAR_9999_US))
    assert not is_sliced(replace(plan, row_limit=100))
