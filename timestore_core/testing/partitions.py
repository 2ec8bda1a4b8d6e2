"""What every partition format is expected to do."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import duckdb
import pyarrow as pa
import pytest

from timestore_core.engine.instance import Engine, EngineLimits
from timestore_core.model import Field, FieldType, Schema
from timestore_core.names import quote_identifier
from timestore_core.partitions.duckdb_file import SQL_TYPES
from timestore_core.partitions.format import Layout, PartitionFormat, WrittenFile
from timestore_core.partitions.statistics import column_statistics

_ARROW: dict[FieldType, pa.DataType] = {
    "timestamp": pa.timestamp("us"),
    "string": pa.string(),
    "double": pa.float64(),
    "integer": pa.int64(),
    "boolean": pa.bool_(),
}
_NAMES = (
    "timestamp",
    'quo"te',
    "it's",
    "a b",
    "select",
    "a.b",
    "a;DROP TABLE records--",
    "ä漢😀",
    "key=value",
    "$start",
    "%s{}?",
    "\\n",
)
_TABLES = ("records", 'quo"te', "it's; DROP TABLE records--", "table", "ä漢😀", "a.b")

_HARD: dict[FieldType, list[Any]] = {
    "timestamp": [
        datetime(1, 1, 1),
        datetime(1969, 12, 31, 23, 59, 59, 999_999),
        datetime(1970, 1, 1),
        datetime(2024, 2, 29, 12, 0, 0, 1),
        datetime(9999, 12, 31, 23, 59, 59, 999_999),
        None,
    ],
    "string": ["", " ", "a", "A", "ä\u0301", "漢", "😀", "'\";--", "line\nbreak\ttab", "x" * 5000, "NULL", None],
    "double": [
        *(math.nan, math.inf, -math.inf, -0.0, 0.0, 0.1, -17.35),
        *(5e-324, 1.7976931348623157e308, 2.0**53 + 2, None),
    ],
    "integer": [2**53 + 1, -(2**53) - 1, 2**63 - 1, -(2**63), 0, -1, None],
    "boolean": [True, False, None],
}

Make = Callable[[Path, str, Schema, pa.Table], None]


class PartitionFormatContract:
    """Give the fixture `format_`."""

    notices_altered_bytes: ClassVar[bool] = True
    """Whether reading raises where any bytes of a file were altered. Where it does not, the service holds the file
    against its checksum first; a file that was cut short raises always."""

    keeps_the_sign_of_zero: ClassVar[bool] = True
    """Whether -0.0 comes back as -0.0 from a column that has 0.0 too. An answer shows both as 0.0."""

    @pytest.fixture
    def format_(self) -> PartitionFormat:
        raise NotImplementedError(f"{type(self).__name__} needs a fixture `format_`")

    @pytest.fixture
    def engine(self, tmp_path: Path) -> Iterator[Engine]:
        """A DuckDB as locked down as the service's."""
        engine = Engine("contract", EngineLimits(1, 500_000_000, 100_000_000, tmp_path / "spill"))
        yield engine
        engine.close()

    @pytest.fixture(params=["write", "copy"])
    def make(self, request: pytest.FixtureRequest, format_: PartitionFormat, engine: Engine) -> Make:
        """Both ways to make a file."""

        def write(path: Path, table: str, schema: Schema, rows: pa.Table) -> None:
            written = format_.write(engine, path, table, schema, rows)
            assert written == WrittenFile(rows.num_rows, column_statistics(schema, rows))

        def copy(path: Path, table: str, schema: Schema, rows: pa.Table) -> None:
            with engine.lease([str(path.parent)]) as instance, instance.cursor() as cursor:
                cursor.register("given", rows)
                columns = ", ".join(quote_identifier(name) for name in schema.names)
                select = f"SELECT {columns} FROM given"  # noqa: S608
                format_.copy(cursor, path, table, select, Layout(rows.num_rows, 2048))

        return write if request.param == "write" else copy

    @pytest.fixture
    def path(self, tmp_path: Path, format_: PartitionFormat) -> Path:
        # A folder as partitions have it, whose name must not be taken for a column.
        folder = tmp_path / "files" / "key=from the folder"
        folder.mkdir(parents=True)
        return folder / f"part-1.{format_.extension}"

    def test_the_extension_is_a_plain_word(self, format_: PartitionFormat) -> None:
        assert format_.extension.isascii()
        assert format_.extension.isalnum()
        assert format_.extension == format_.extension.lower()

    @pytest.mark.parametrize("type_", sorted(_HARD))
    def test_the_hardest_values_of_each_type_come_back(
        self, format_: PartitionFormat, engine: Engine, make: Make, path: Path, type_: FieldType
    ) -> None:
        schema = Schema((Field("timestamp", "timestamp"), Field("value", type_)))
        values = _HARD[type_]
        times = [datetime(2024, 1, 1) + timedelta(seconds=second) for second in range(len(values))]
        make(path, "records", schema, table(schema, [times, values]))

        found = read(format_, engine, path, "records", schema)

        assert [self._comparable(row[1]) for row in found] == [self._comparable(value) for value in values]
        assert [row[0] for row in found] == times

    def test_a_column_of_negative_zeros_keeps_them(
        self, format_: PartitionFormat, engine: Engine, make: Make, path: Path
    ) -> None:
        schema = Schema((Field("value", "double"),))
        make(path, "records", schema, table(schema, [[-0.0, -0.0, 1.0]]))

        found = read(format_, engine, path, "records", schema)

        assert [row[0] for row in found] == [0.0, 0.0, 1.0]
        if self.keeps_the_sign_of_zero:
            assert [math.copysign(1, row[0]) for row in found] == [-1, -1, 1]

    @pytest.mark.parametrize("rows", [0, 1, 3000])
    def test_columns_of_nothing_but_null_keep_their_type(
        self, format_: PartitionFormat, engine: Engine, make: Make, path: Path, rows: int
    ) -> None:
        schema = Schema(tuple(Field(f"only {type_}", type_) for type_ in sorted(_HARD)))
        make(path, "records", schema, table(schema, [[None] * rows for _ in schema.fields]))

        assert read(format_, engine, path, "records", schema) == [(None,) * len(schema.fields)] * rows

    @pytest.mark.parametrize("table_name", _TABLES)
    def test_hostile_names_of_tables_and_columns_come_back(
        self, format_: PartitionFormat, engine: Engine, make: Make, path: Path, table_name: str
    ) -> None:
        schema = Schema((Field("timestamp", "timestamp"), *(Field(name, "integer") for name in _NAMES[1:])))
        values: list[list[Any]] = [[datetime(2024, 1, 1)], *([number] for number in range(1, len(_NAMES)))]
        make(path, table_name, schema, table(schema, values))

        assert read(format_, engine, path, table_name, schema) == [tuple(value for (value,) in values)]

    def test_a_folder_of_key_and_value_does_not_stand_in_for_a_column(
        self, format_: PartitionFormat, engine: Engine, make: Make, path: Path
    ) -> None:
        schema = Schema((Field("timestamp", "timestamp"), Field("key", "string")))
        make(path, "records", schema, table(schema, [[datetime(2024, 1, 1)], ["from the file"]]))

        assert read(format_, engine, path, "records", schema)[0][1] == "from the file"

    def test_many_rows_come_back_counted_and_in_their_order(
        self, format_: PartitionFormat, engine: Engine, make: Make, path: Path
    ) -> None:
        count = 30_000
        schema = Schema((Field("n", "integer"), Field("text", "string"), Field("x", "double")))
        numbers = list(range(count))
        rows = table(schema, [numbers, [f"row {n % 100}" for n in numbers], [n / 7 for n in numbers]])
        make(path, "records", schema, rows)

        found = read(format_, engine, path, "records", schema)

        assert len(found) == count
        assert found == [(n, f"row {n % 100}", n / 7) for n in numbers]

    def test_nothing_is_left_beside_the_file(self, make: Make, path: Path) -> None:
        schema = Schema((Field("n", "integer"),))
        make(path, "records", schema, table(schema, [[1, 2, 3]]))

        assert [one.name for one in path.parent.iterdir()] == [path.name]

    def test_a_file_is_read_at_another_place(
        self, format_: PartitionFormat, engine: Engine, make: Make, path: Path, tmp_path: Path
    ) -> None:
        schema = Schema((Field("n", "integer"),))
        make(path, "records", schema, table(schema, [[1, 2, 3]]))
        (tmp_path / 'it\'s "elsewhere"').mkdir()
        moved = path.rename(tmp_path / 'it\'s "elsewhere"' / path.name)

        assert read(format_, engine, moved, "records", schema) == [(1,), (2,), (3,)]

    def test_two_files_are_read_in_one_query(
        self, format_: PartitionFormat, engine: Engine, make: Make, path: Path
    ) -> None:
        schema, other = Schema((Field("n", "integer"),)), path.with_name(f"part-2.{format_.extension}")
        make(path, "records", schema, table(schema, [[1, 2]]))
        make(other, "records", schema, table(schema, [[3]]))

        with engine.lease([str(path.parent)]) as instance, instance.cursor() as cursor:
            relations = []
            for one in (path, other):
                attach = format_.attach(str(one), str(one))
                if attach is not None:
                    cursor.execute(attach)
                relations.append(format_.relation(str(one), str(one), "records"))
            union = " UNION ALL ".join(f"SELECT n FROM {one}" for one in relations)  # noqa: S608
            found = cursor.execute(f"SELECT sum(n), count(*) FROM ({union})").fetchone()  # noqa: S608
            for one in (path, other):
                detach = format_.detach(str(one))
                if detach is not None:
                    cursor.execute(detach)

        assert found == (6, 3)

    @pytest.mark.parametrize("kept", [0.0, 0.3, 0.9], ids=["empty", "a third", "nearly whole"])
    def test_a_file_cut_short_raises(
        self, format_: PartitionFormat, engine: Engine, make: Make, path: Path, kept: float
    ) -> None:
        schema, rows = _many_rows()
        make(path, "records", schema, rows)
        whole = path.read_bytes()
        path.write_bytes(whole[: int(len(whole) * kept)])

        with pytest.raises((duckdb.Error, OSError)):
            read(format_, engine, path, "records", schema)

    def test_a_missing_file_raises(self, format_: PartitionFormat, engine: Engine, path: Path) -> None:
        schema, _ = _many_rows()

        with pytest.raises((duckdb.Error, OSError)):
            read(format_, engine, path, "records", schema)
        assert not path.exists()

    def test_altered_bytes_are_noticed(
        self, format_: PartitionFormat, engine: Engine, make: Make, path: Path, tmp_path: Path
    ) -> None:
        schema, rows = _many_rows()
        make(path, "records", schema, rows)
        expected, whole = read(format_, engine, path, "records", schema), path.read_bytes()
        unnoticed = []
        for number, at in enumerate(range(len(whole) // 40, len(whole), len(whole) // 20)):
            altered = tmp_path / "files" / f"altered-{number}.{format_.extension}"
            altered.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
            try:
                # Bytes that stand for nothing may be altered.
                if read(format_, engine, altered, "records", schema) != expected:
                    unnoticed.append(at)
            except (duckdb.Error, OSError):
                continue

        assert not (self.notices_altered_bytes and unnoticed), f"other rows came without an error: {unnoticed}"

    def test_a_write_that_fails_is_an_os_error(self, make: Make, path: Path) -> None:
        schema, rows = _many_rows()
        nowhere = path.parent / "missing folder" / path.name

        with pytest.raises(OSError):  # noqa: PT011
            make(nowhere, "records", schema, rows)

    def test_threads_write_and_read_at_once(self, format_: PartitionFormat, engine: Engine, path: Path) -> None:
        schema = Schema((Field("n", "integer"),))

        def work(number: int) -> list[Any]:
            one = path.with_name(f"part-{number}.{format_.extension}")
            format_.write(engine, one, "records", schema, table(schema, [[number] * 100]))
            return read(format_, engine, one, "records", schema)

        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(work, range(8)))

        assert found == [[(number,)] * 100 for number in range(8)]

    def _comparable(self, value: Any) -> Any:
        """The value with its very bits, so that NaN is itself and zero has its sign."""
        if isinstance(value, float):
            if math.isnan(value):
                return "NaN"
            return struct.pack("<d", value + 0.0 if value == 0 and not self.keeps_the_sign_of_zero else value)
        return value


def table(schema: Schema, columns: list[list[Any]]) -> pa.Table:
    """The columns as a batch brings them."""
    arrays = [pa.array(values, _ARROW[field.type]) for field, values in zip(schema.fields, columns, strict=True)]
    return pa.table(arrays, names=list(schema.names))


def read(format_: PartitionFormat, engine: Engine, path: Path, table_name: str, schema: Schema) -> list[Any]:
    """Every row of the file, whose columns have the schema's names and types."""
    alias = str(path)
    with engine.lease([str(path.parent)]) as instance, instance.cursor() as cursor:
        attach, detach = format_.attach(str(path), alias), format_.detach(alias)
        if attach is not None:
            cursor.execute(attach)
        try:
            names = ", ".join(quote_identifier(name) for name in schema.names)
            relation = format_.relation(str(path), alias, table_name)
            found = cursor.execute(f"SELECT {names} FROM {relation}")  # noqa: S608
            assert [str(type_) for _, type_, *_ in found.description] == [SQL_TYPES[one.type] for one in schema.fields]
            return found.fetchall()
        finally:
            if detach is not None:
                cursor.execute(detach)


def _many_rows() -> tuple[Schema, pa.Table]:
    """Rows that do not compress to nothing."""
    schema = Schema((Field("n", "integer"), Field("x", "double"), Field("text", "string")))
    numbers = [(n * 2_654_435_761) % 2**32 for n in range(5000)]
    return schema, table(schema, [numbers, [math.sqrt(n) for n in numbers], [f"{n:x}" for n in numbers]])
