"""The tables that small partitions stand in together, and what is known of them together."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import duckdb
import pyarrow as pa
import pytest

from timestore_core.catalog.joined import joined
from timestore_core.engine.inline_tables import ROW_COLUMN, VERSION_COLUMN, InlineRows, InlineTables, Loaded
from timestore_core.model import Field, Partition, Schema
from timestore_core.partitions.inline import arrow_schema, decoded, encoded
from timestore_core.partitions.statistics import column_statistics

SCHEMA = Schema((Field("timestamp", "timestamp"), Field("n", "integer"), Field("x", "double"), Field("s", "string")))
NOW = datetime(2024, 1, 1, tzinfo=UTC)


class Catalog:
    """Gives ten rows for each partition: `p7` has 70 to 79. Notes what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def load(self, schema: Schema, partition_ids: Sequence[str]) -> Iterator[Loaded]:
        self.asked.append(list(partition_ids))
        for id_ in reversed(partition_ids):
            number = int(id_[1:])
            numbers = list(range(number * 10, number * 10 + 10))
            columns = [numbers, numbers, [float(one) for one in numbers], [str(one) for one in numbers]]
            yield Loaded(id_, number, pa.table([*columns], schema=arrow_schema(schema)))


@pytest.fixture
def tables() -> Iterator[tuple[duckdb.DuckDBPyConnection, InlineTables, Catalog]]:
    connection = duckdb.connect()
    yield connection, InlineTables(connection, 10**9), Catalog()
    connection.close()


def wanted(*numbers: int) -> InlineRows:
    return InlineRows("ds-1", SCHEMA, tuple(f"p{number}" for number in numbers))


def read(connection: duckdb.DuckDBPyConnection, tables: InlineTables, catalog: Catalog, rows: InlineRows) -> list[int]:
    with tables.held(rows, catalog.load) as relation, connection.cursor() as cursor:
        return [row[0] for row in cursor.execute(f"SELECT n FROM {relation} ORDER BY n").fetchall()]


def count_of_tables(connection: duckdb.DuckDBPyConnection) -> int:
    found = connection.execute("SELECT count(*) FROM duckdb_tables()").fetchone()
    assert found is not None
    return int(found[0])


def test_each_snapshot_reads_its_own_partitions_and_each_is_loaded_once(
    tables: tuple[duckdb.DuckDBPyConnection, InlineTables, Catalog],
) -> None:
    connection, inline, catalog = tables
    assert read(connection, inline, catalog, wanted(1, 2)) == [*range(10, 30)]
    assert read(connection, inline, catalog, wanted(1, 2, 3, 5)) == [*range(10, 40), *range(50, 60)]
    assert read(connection, inline, catalog, wanted(1, 2)) == [*range(10, 30)]
    assert read(connection, inline, catalog, wanted(*range(1, 40, 2))) == [
        n for number in range(1, 40, 2) for n in range(number * 10, number * 10 + 10)
    ]
    assert sorted(id_ for ids in catalog.asked for id_ in ids) == sorted({id_ for ids in catalog.asked for id_ in ids})
    assert count_of_tables(connection) == 1


def test_rows_are_told_by_their_version_and_stand_in_their_order(
    tables: tuple[duckdb.DuckDBPyConnection, InlineTables, Catalog],
) -> None:
    connection, inline, catalog = tables
    with inline.held(wanted(4, 9, 2), catalog.load) as relation:
        order = f'"{VERSION_COLUMN}", "{ROW_COLUMN}"'
        rows = connection.execute(f'SELECT "{VERSION_COLUMN}", n FROM {relation} ORDER BY {order}').fetchall()
    assert rows == [(number, n) for number in (2, 4, 9) for n in range(number * 10, number * 10 + 10)]


def test_what_left_its_snapshot_is_dropped_when_nobody_reads_it(
    tables: tuple[duckdb.DuckDBPyConnection, InlineTables, Catalog],
) -> None:
    connection, inline, catalog = tables
    with inline.held(wanted(1, 2, 3), catalog.load) as relation:
        inline.forget(["p1", "p2"])
        assert connection.execute(f"SELECT count(*) FROM {relation}").fetchone() == (30,)
        assert count_of_tables(connection) == 1
        # A newer snapshot has what is left, in a table of its own.
        assert read(connection, inline, catalog, wanted(3, 4)) == [*range(30, 50)]
    assert count_of_tables(connection) == 1
    assert read(connection, inline, catalog, wanted(1, 3)) == [*range(10, 20), *range(30, 40)]


def test_above_the_capacity_the_least_recently_used_go(
    tables: tuple[duckdb.DuckDBPyConnection, InlineTables, Catalog],
) -> None:
    connection, _, catalog = tables
    inline = InlineTables(connection, 2000)
    for number in range(20):
        rows = InlineRows(f"ds-{number}", SCHEMA, ("p1",))
        assert read(connection, inline, catalog, rows) == [*range(10, 20)]
    assert 1 <= len(inline) < 10
    assert count_of_tables(connection) == len(inline)


def test_what_is_known_of_partitions_together_is_what_is_known_of_their_rows_together() -> None:
    rng = random.Random(3)
    for _ in range(60):
        parts = [_rows(rng) for _ in range(rng.randrange(1, 6))]
        partitions = [_partition(f"p{number}", rows) for number, rows in enumerate(parts)]
        cut = rng.randrange(len(partitions) + 1)
        (together,) = joined(partitions[cut:], joined(partitions[:cut])).partitions
        whole = column_statistics(SCHEMA, pa.concat_tables(parts))

        assert together.members == tuple(one.id for one in partitions)
        assert together.row_count == sum(rows.num_rows for rows in parts)
        for name, expected in whole.items():
            found = together.statistics[name]
            assert found.nulls == expected.nulls
            if found.exact:
                assert (found.minimum, found.maximum) == (expected.minimum, expected.maximum)
            elif found.minimum is not None and expected.minimum is not None:
                assert found.minimum <= expected.minimum  # type: ignore[operator]


def test_what_is_encoded_comes_back() -> None:
    rng = random.Random(4)
    for _ in range(20):
        rows = _rows(rng)
        assert decoded(SCHEMA, encoded(SCHEMA, rows)).equals(rows.combine_chunks()) or math.isnan(
            sum(one or 0 for one in rows.column("x").to_pylist())
        )


def _rows(rng: random.Random) -> pa.Table:
    count = rng.randrange(0, 5)
    columns: list[list[object]] = [
        [rng.randrange(10**12) for _ in range(count)],
        [rng.choice([None, rng.randrange(-5, 5)]) for _ in range(count)],
        [rng.choice([None, rng.random(), math.nan if rng.random() < 0.1 else 1.0]) for _ in range(count)],
        [rng.choice([None, "a", "z" * 80 if rng.random() < 0.1 else "m"]) for _ in range(count)],
    ]
    return pa.table(columns, schema=arrow_schema(SCHEMA))


def _partition(id_: str, rows: pa.Table) -> Partition:
    made = Partition(
        id=id_,
        dataset_id="ds-1",
        manifest_id="dm-1",
        partition_key={},
        storage_target_id="st-1",
        file_format="inline",
        file_path=f"inline:{id_}",
        file_size_bytes=100,
        row_count=rows.num_rows,
        start_time=NOW,
        end_time=NOW,
        checksum=None,
        metadata={},
        created_at=NOW,
        schema=SCHEMA,
    )
    return replace(made, statistics=column_statistics(SCHEMA, rows))
