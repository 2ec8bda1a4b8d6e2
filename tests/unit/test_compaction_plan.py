"""What compaction gathers: nothing twice, nothing across borders, and over a day few partitions for little work."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from timestore_core.lifecycle.compaction import Group, plan_groups
from timestore_core.lifecycle.live import LivePartition
from timestore_core.settings import MIB, Settings, load_settings
from timestore_core.times import EPOCH

KIB = 1024
DEFAULTS = load_settings()


def partition(number: int, start_s: float, rows: int = 100, **changes: object) -> LivePartition:
    """A fresh partition of one second, as large as DuckDB makes one of two columns."""
    start = EPOCH + timedelta(seconds=start_s)
    one = LivePartition(
        id=f"part-{number:08}",
        partition_key={"window": "w"},
        storage_target_id="st-1",
        file_format="duckdb",
        table_name="records",
        bytes=file_bytes(rows),
        rows=rows,
        start_time=start,
        end_time=start + timedelta(seconds=1),
        level=0,
        last_us=None,
    )
    return replace(one, **changes)  # type: ignore[arg-type]


def file_bytes(rows: int) -> int:
    return 512 * KIB + 8 * rows


def gathered(group: Group) -> LivePartition:
    """What compaction makes of the group."""
    rows = sum(one.rows for one in group)
    return replace(
        group[0],
        id=f"{group[0].id}+{len(group)}",
        bytes=file_bytes(rows),
        rows=rows,
        end_time=max(one.end_time for one in group),
        level=1 + max(one.level for one in group),
    )


def border_of(one: LivePartition) -> tuple[object, ...]:
    return (tuple(sorted(one.partition_key.items())), one.table_name, one.storage_target_id)


SETTINGS = st.builds(
    lambda small, target, most, fan_out: DEFAULTS.model_copy(
        update={
            "lifecycle_compaction_small_bytes": small,
            "lifecycle_compaction_target_bytes": target,
            "lifecycle_compaction_max_partitions": most,
            "lifecycle_compaction_fan_out": fan_out,
        }
    ),
    st.integers(1, 40 * MIB),
    st.integers(1, 400 * MIB),
    st.integers(2, 32),
    st.integers(2, 10),
)

PARTITIONS = st.lists(
    st.builds(
        lambda start, key, table, target, size, rows, level: partition(
            0,
            start,
            rows,
            bytes=size,
            level=level,
            partition_key={} if key is None else {"host": key},
            table_name=table,
            storage_target_id=target,
        ),
        st.integers(0, 50),
        st.sampled_from([None, "a", "b"]),
        st.sampled_from(["records", "events"]),
        st.sampled_from(["st-1", "st-2"]),
        st.one_of(st.just(0), st.integers(1, 30 * MIB)),
        st.one_of(st.just(0), st.integers(1, 2_000_000)),
        st.integers(0, 6),
    ),
    max_size=80,
).map(lambda found: [replace(one, id=f"part-{number:08}") for number, one in enumerate(found)])


@given(PARTITIONS, SETTINGS)
@settings(max_examples=300, deadline=None)
def test_no_partition_is_gathered_twice_and_only_neighbours_of_one_kind_within_the_limits(
    live: list[LivePartition], given_settings: Settings
) -> None:
    groups = plan_groups(live, given_settings)

    members = [one.id for group in groups for one in group]
    assert len(members) == len(set(members))
    assert set(members) <= {one.id for one in live}
    for group in groups:
        assert 2 <= len(group) <= given_settings.lifecycle_compaction_max_partitions
        assert len({border_of(one) for one in group}) == 1
        assert sum(one.bytes for one in group) <= given_settings.lifecycle_compaction_target_bytes
        assert all(one.bytes < given_settings.lifecycle_compaction_small_bytes for one in group)
        assert [*group] == sorted(group, key=lambda one: (one.start_time, one.id))


@given(PARTITIONS, SETTINGS)
@settings(max_examples=300, deadline=None)
def test_what_was_gathered_is_rewritten_only_into_the_fan_outs_multiple_of_its_rows(
    live: list[LivePartition], given_settings: Settings
) -> None:
    for group in plan_groups(live, given_settings):
        largest = max((one.rows for one in group if one.level > 0), default=0)
        assert sum(one.rows for one in group) >= given_settings.lifecycle_compaction_fan_out * largest


@given(PARTITIONS, SETTINGS, st.randoms(use_true_random=False))
@settings(max_examples=200, deadline=None)
def test_the_plan_does_not_depend_on_the_order_in_which_partitions_are_listed(
    live: list[LivePartition], given_settings: Settings, chance: random.Random
) -> None:
    shuffled = list(live)
    chance.shuffle(shuffled)

    assert {tuple(one.id for one in group) for group in plan_groups(live, given_settings)} == {
        tuple(one.id for one in group) for group in plan_groups(shuffled, given_settings)
    }


@given(PARTITIONS, SETTINGS)
@settings(max_examples=300, deadline=None)
def test_gathering_ends_and_keeps_every_row(live: list[LivePartition], given_settings: Settings) -> None:
    day = Day(given_settings, live={one.id: one for one in live})

    # Each group makes one partition out of two or more.
    day.compact(at_most_rounds=len(live))

    assert plan_groups(day.live.values(), given_settings) == []
    assert sum(one.rows for one in day.live.values()) == sum(one.rows for one in live)


@dataclass
class Day:
    """A dataset without its files: what comes in, and what a compaction every five minutes makes of it."""

    settings: Settings
    live: dict[str, LivePartition]
    ingested_rows: int = 0
    rewritten_rows: int = 0
    most_live: int = 0

    def arrive(self, one: LivePartition) -> None:
        self.live[one.id] = one
        self.ingested_rows += one.rows

    def compact(self, at_most_rounds: int = 1000) -> None:
        for _ in range(at_most_rounds + 1):
            groups = plan_groups(self.live.values(), self.settings)
            if not groups:
                return
            for group in groups:
                for one in group:
                    del self.live[one.id]
                made = gathered(group)
                self.live[made.id] = made
                self.rewritten_rows += made.rows
        raise AssertionError("compaction never ends")


def in_order(number: int, chance: random.Random) -> LivePartition:
    return partition(number, number)


def a_tenth_up_to_six_hours_late(number: int, chance: random.Random) -> LivePartition:
    late_s = chance.uniform(0, 6 * 3600) if chance.random() < 0.1 else 0
    return partition(number, number - late_s)


def all_at_random_times_of_the_day(number: int, chance: random.Random) -> LivePartition:
    return partition(number, chance.uniform(0, 86_400))


def of_ten_keys(number: int, chance: random.Random) -> LivePartition:
    return partition(number, number, partition_key={"host": f"host-{number % 10}"})


def of_one_to_ten_thousand_rows(number: int, chance: random.Random) -> LivePartition:
    return partition(number, number, rows=int(10 ** chance.uniform(0, 4)))


ARRIVALS: list[Callable[[int, random.Random], LivePartition]] = [
    in_order,
    a_tenth_up_to_six_hours_late,
    all_at_random_times_of_the_day,
    of_ten_keys,
    of_one_to_ten_thousand_rows,
]
# Left after any compaction of the day (one key in order: 16, ten keys: 130), and rows written for each that came (5.8).
MOST_PARTITIONS = 150
MOST_AMPLIFICATION = 12


@pytest.mark.parametrize("arrival", ARRIVALS)
def test_a_day_of_a_batch_a_second_ends_as_few_partitions_each_row_written_few_times(
    arrival: Callable[[int, random.Random], LivePartition],
) -> None:
    chance = random.Random(20240101)
    day = Day(DEFAULTS, live={})
    for second in range(86_400):
        day.arrive(arrival(second, chance))
        if second % 300 == 299:
            day.compact()
            day.most_live = max(day.most_live, len(day.live))

    assert sum(one.rows for one in day.live.values()) == day.ingested_rows
    assert day.most_live <= MOST_PARTITIONS
    assert day.rewritten_rows / day.ingested_rows <= MOST_AMPLIFICATION
