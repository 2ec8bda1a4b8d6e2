"""Statements that come again are planned once, and hold no file open that is to go."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from timestore_core.engine.attached import AttachedFiles, Attachment
from timestore_core.engine.prepared import RUN, PreparedStatements


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(":memory:") as connection:
        for number in range(3):
            connection.execute(f"ATTACH '{tmp_path}/{number}.duckdb' AS made")
            connection.execute(f"CREATE TABLE made.records AS SELECT {number} AS n")
            connection.execute("DETACH made")
        yield connection


def attachment(root: Path, number: int) -> Attachment:
    path = f"{root}/{number}.duckdb"
    return Attachment(path, f"ATTACH '{path}' AS \"{path}\" (READ_ONLY)", f'DETACH "{path}"')


def test_the_second_time_a_statement_is_kept_and_then_only_run(connection: duckdb.DuckDBPyConnection) -> None:
    prepared = PreparedStatements(connection)
    found = []
    for _ in range(3):
        with prepared.taken("SELECT 42", []) as one:
            found.append(None if one is None else one.cursor.execute(RUN).fetchall())

    assert found == [None, [(42,)], [(42,)]]
    assert len(prepared) == 1


def test_who_comes_while_it_runs_runs_it_without(connection: duckdb.DuckDBPyConnection) -> None:
    prepared = PreparedStatements(connection)
    with prepared.taken("SELECT 1", []):
        pass
    with prepared.taken("SELECT 1", []) as first, prepared.taken("SELECT 1", []) as second:
        assert first is not None
        assert second is None


def test_a_statement_that_cannot_be_planned_is_not_kept(connection: duckdb.DuckDBPyConnection) -> None:
    prepared = PreparedStatements(connection)
    for _ in range(3):
        with prepared.taken("SELECT * FROM nothing", []) as one:
            assert one is None
    assert len(prepared) == 0


def test_a_file_that_is_detached_is_held_by_no_statement(connection: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    prepared = PreparedStatements(connection)
    files = AttachedFiles(connection, 2, 0, prepared.forget)
    for _ in range(2):
        for number in range(3):
            one = attachment(tmp_path, number)
            with files.pinned([one], lambda _, error: error):
                for _ in range(3):
                    with prepared.taken(f'SELECT n FROM "{one.alias}".records', [one.alias]) as statement:
                        if statement is not None:
                            assert statement.cursor.execute(RUN).fetchall() == [(number,)]

    opened = {str(fd.readlink()) for fd in Path("/proc/self/fd").iterdir() if fd.exists()}
    assert len(prepared) == 2
    assert {path for path in opened if path.startswith(str(tmp_path))} == {
        f"{tmp_path}/1.duckdb",
        f"{tmp_path}/2.duckdb",
    }


def test_only_so_many_are_kept(connection: duckdb.DuckDBPyConnection) -> None:
    prepared = PreparedStatements(connection)
    for number in range(100):
        for _ in range(2):
            with prepared.taken(f"SELECT {number}", []):
                pass
    assert len(prepared) == 64
