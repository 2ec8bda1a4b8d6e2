"""Files as the command line reads them."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from timestore_workers.files import BLOCK_BYTES, SAMPLE_ROWS, FileError, ReadOptions, read_tables
from timestore_workers.layout import Layout, infer_layout
from timestore_workers.sending import ingest_body
from timestore_workers.sources import open_source

SEATTLE = Path(__file__).parents[2] / "examples/data/seattle-weather.csv"
TAXI = "timestamp,value\n2014-07-01 00:00:00,10844\n2014-07-01 00:30:00,8127\n2014-07-01 01:00:00,6210\n"
MACHINE = "timestamp,value\n2013-12-02 21:15:00,73.96732207\n2013-12-02 21:20:00,74.93588199999998\n"


def written(tmp_path: Path, content: str | bytes, name: str = "data.csv") -> Path:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read(path: Path, batch_rows: int = 10_000, **options: Any) -> tuple[Layout, pa.Table]:
    chosen = ReadOptions(**options)
    source = open_source(path, chosen)
    layout = infer_layout(source, chosen)
    return layout, pa.concat_tables(read_tables(source, layout, chosen, batch_rows))


def refused(path: Path, **options: Any) -> str:
    with pytest.raises(FileError) as caught:
        read(path, **options)
    return caught.value.message


def types(layout: Layout) -> dict[str, str]:
    return {column.sent_as: column.type for column in layout.columns}


def utc(year: int, month: int, day: int, hour: int = 0, minute: int = 0, second: int = 0, us: int = 0) -> datetime:
    """Arrow gives times without a zone back, and they are UTC."""
    return datetime(year, month, day, hour, minute, second, us)


def test_the_columns_of_a_real_file_are_found_without_any_option() -> None:
    layout, table = read(SEATTLE)
    assert types(layout) == {
        "timestamp": "timestamp",
        "precipitation": "double",
        "temp_max": "double",
        "temp_min": "double",
        "wind": "double",
        "weather": "string",
    }
    assert (layout.time.name, layout.time.time_format) == ("date", "%Y/%m/%d")
    assert table.num_rows == 1461
    assert table["timestamp"][0].as_py() == utc(2012, 1, 1)
    assert table["timestamp"][-1].as_py() == utc(2015, 12, 31)


def test_whole_numbers_are_integers_and_fractions_keep_every_digit(tmp_path: Path) -> None:
    layout, table = read(written(tmp_path, TAXI))
    assert types(layout) == {"timestamp": "timestamp", "value": "integer"}
    assert table["value"].to_pylist() == [10844, 8127, 6210]
    layout, table = read(written(tmp_path, MACHINE))
    assert types(layout)["value"] == "double"
    assert table["value"].to_pylist() == [73.96732207, 74.93588199999998]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2014-07-01", utc(2014, 7, 1)),
        ("2014-07-01 06:30", utc(2014, 7, 1, 6, 30)),
        ("2014-07-01T06:30:00.123456", utc(2014, 7, 1, 6, 30, 0, 123456)),
        ("2014-07-01T06:30:00.123456000Z", utc(2014, 7, 1, 6, 30, 0, 123456)),
        ("2014-07-01T06:30:00+02:00", utc(2014, 7, 1, 4, 30)),
        ("2014-7-1 06:30:00", utc(2014, 7, 1, 6, 30)),
        ("2014/07/01 06:30", utc(2014, 7, 1, 6, 30)),
        ("20140701", utc(2014, 7, 1)),
        ("01.07.2014 06:30", utc(2014, 7, 1, 6, 30)),
        ("07/31/2014 06:30:00 PM", utc(2014, 7, 31, 18, 30)),
        ("31/07/2014 06:30:00.25", utc(2014, 7, 31, 6, 30, 0, 250000)),
        ("1404172800", utc(2014, 7, 1)),
        ("1404172800.25", utc(2014, 7, 1, 0, 0, 0, 250000)),
        ("1404172800123", utc(2014, 7, 1, 0, 0, 0, 123000)),
        ("1404172800123456", utc(2014, 7, 1, 0, 0, 0, 123456)),
        ("1404172800123456000", utc(2014, 7, 1, 0, 0, 0, 123456)),
    ],
)
def test_a_time_is_understood_as_it_is_usually_written(tmp_path: Path, text: str, expected: datetime) -> None:
    _, table = read(written(tmp_path, f"value,event_time\n1,{text}\n2,{text}\n"))
    assert table["timestamp"].to_pylist() == [expected, expected]


def test_times_with_and_without_a_zone_may_stand_in_one_column(tmp_path: Path) -> None:
    _, table = read(written(tmp_path, "time,v\n2024-01-01T00:00:00Z,1\n2024-01-01 01:00:00,2\n"))
    assert table["timestamp"].to_pylist() == [utc(2024, 1, 1), utc(2024, 1, 1, 1)]


def test_day_and_month_that_cannot_be_told_apart_are_asked_for(tmp_path: Path) -> None:
    path = written(tmp_path, "date,v\n01/02/2024,1\n03/04/2024,2\n")
    assert refused(path) == (
        'data.csv column "date": "01/02/2024" can be read as %m/%d/%Y and as %d/%m/%Y; say which with --time-format'
    )
    _, table = read(path, time_format="%d/%m/%Y")
    assert table["timestamp"].to_pylist() == [utc(2024, 2, 1), utc(2024, 4, 3)]


def test_a_day_that_does_not_exist_is_not_read_as_the_next_month(tmp_path: Path) -> None:
    path = written(tmp_path, "date,v\n2012/02/29,1\n2012/02/30,2\n")
    assert refused(path, time_format="%Y/%m/%d", time_column="date") == (
        'data.csv column "date": "2012/02/29" does not read as a time in the format %Y/%m/%d; '
        "give --time-format iso, s, ms, us, ns or a pattern such as '%d/%m/%Y %H:%M'"
    )


def test_numbers_are_times_only_when_the_column_says_so(tmp_path: Path) -> None:
    path = written(tmp_path, "n,v\n1404172800,1\n")
    assert "no column looks like a time" in refused(path)
    layout, _ = read(path, time_column="n")
    assert layout.time.time_format == "s"


def test_the_time_column_keeps_its_name_when_asked_or_when_the_other_is_taken(tmp_path: Path) -> None:
    path = written(tmp_path, "date,v\n2024-01-01,1\n")
    assert list(types(read(path)[0])) == ["timestamp", "v"]
    assert list(types(read(path, keep_time_name=True)[0])) == ["date", "v"]
    path = written(tmp_path, "date,timestamp\n2024-01-01,x\n")
    assert list(types(read(path, time_column="date")[0])) == ["date", "timestamp"]


def test_codes_with_leading_zeros_and_very_long_numbers_stay_text(tmp_path: Path) -> None:
    layout, table = read(written(tmp_path, "time,zip,id\n2024-01-01,00420,12345678901234567890\n"))
    assert types(layout) == {"timestamp": "timestamp", "zip": "string", "id": "string"}
    assert table["zip"][0].as_py() == "00420"


def test_an_empty_field_is_null_and_a_quoted_one_is_an_empty_string(tmp_path: Path) -> None:
    _, table = read(written(tmp_path, 'time,s,n\n2024-01-01,,NA\n2024-01-02,"",1\n2024-01-03,NA,\n'))
    assert table["s"].to_pylist() == [None, "", "NA"]
    assert table["n"].to_pylist() == [None, 1, None]


def test_a_text_that_stands_for_no_value_can_be_named(tmp_path: Path) -> None:
    layout, table = read(written(tmp_path, "time,n\n2024-01-01,-\n2024-01-02,7\n"), null_texts=("-",))
    assert types(layout)["n"] == "integer"
    assert table["n"].to_pylist() == [None, 7]


def test_a_later_value_that_does_not_fit_is_named_with_its_line_and_what_to_do(tmp_path: Path) -> None:
    rows = [f"2024-01-01T00:00:00Z,{n}" for n in range(SAMPLE_ROWS + 500)]
    rows[SAMPLE_ROWS + 100] = "2024-01-01T00:00:00Z,3.5"
    path = written(tmp_path, "time,n\n\n" + "\n".join(rows) + "\n")
    assert refused(path) == (
        'data.csv row 10,101 (line 10,103), column "n": "3.5" is not an integer, as the first 10,000 rows are; '
        "give --type n=double, or --null with that text if it stands for no value"
    )
    assert read(path, types={"n": "double"})[1]["n"][SAMPLE_ROWS + 100].as_py() == 3.5


def test_a_value_that_no_number_fits_is_told_to_become_a_string(tmp_path: Path) -> None:
    path = written(tmp_path, "time,n\n2024-01-01,1\n2024-01-02,warm\n")
    message = refused(path, types={"n": "double"})
    assert message.startswith('data.csv row 2 (line 3), column "n": "warm" is not a double, as --type says')
    assert "--type n=string" in message


def test_a_line_number_counts_the_lines_inside_quoted_values(tmp_path: Path) -> None:
    path = written(tmp_path, 'time,s,n\n2024-01-01,"a\nb\nc",1\n2024-01-02,d,x\n')
    assert "row 2 (line 5)" in refused(path, types={"n": "integer"})


def test_a_row_without_a_time_is_refused_by_its_line(tmp_path: Path) -> None:
    path = written(tmp_path, "time,v\n2024-01-01,1\n,2\n")
    assert refused(path) == 'data.csv row 2 (line 3), column "time": has no time; every row needs one'


def test_a_later_time_in_another_format_is_refused(tmp_path: Path) -> None:
    days = "".join(f"2024/01/{day:02}\n" for day in range(1, 29))
    path = written(tmp_path, "time\n" + days * 400 + "2024-01-29\n")
    message = refused(path)
    assert 'row 11,201 (line 11,202), column "time": "2024-01-29" is not a time of the format %Y/%m/%d' in message


def test_times_finer_than_a_microsecond_are_refused_instead_of_rounded(tmp_path: Path) -> None:
    path = written(tmp_path, "time,v\n1404172800123456789,1\n")
    assert 'row 1 (line 2), column "time": "1404172800123456789" is finer than a microsecond' in refused(path)
    path = tmp_path / "data.parquet"
    pq.write_table(pa.table({"time": pa.array([1_000, 1_001], pa.timestamp("ns"))}), path)
    assert refused(path) == (
        'data.parquet row 2, column "time": "1970-01-01 00:00:00.000001001" is finer than a microsecond, '
        "which would be rounded"
    )


@pytest.mark.parametrize("text", ["nan", "inf", "-Infinity", "1e999"])
def test_a_number_that_json_cannot_hold_is_refused_unless_it_may_become_null(tmp_path: Path, text: str) -> None:
    path = written(tmp_path, f"time,n\n2024-01-01,1.5\n2024-01-02,{text}\n")
    assert refused(path) == (
        f'data.csv row 2 (line 3), column "n": "{text}" is not a finite number, which JSON cannot hold; '
        "--nan-as-null sends such values as NULL"
    )
    assert read(path, nan_as_null=True)[1]["n"].to_pylist() == [1.5, None]


def test_a_row_with_too_many_values_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, "time,v\n2024-01-01,1\n2024-01-02,2,3\n")
    assert refused(path) == (
        'data.csv row 2 (line 3): has 3 values, but the first line names 2 columns: "2024-01-02,2,3"'
    )


def test_a_quote_that_is_never_closed_swallows_nothing(tmp_path: Path) -> None:
    path = written(tmp_path, 'time,s\n2024-01-01,"a\n2024-01-02,b\n2024-01-03,c\n')
    assert "opened and never closed" in refused(path)
    path = written(tmp_path, 'time,s\n2024-01-01,"a\n' + "2024-01-02,b\n" * (BLOCK_BYTES // 4))
    assert "is a quote never closed?" in refused(path)
    path = written(tmp_path, 'time,s\n2024-01-01,"a\nb"\n')
    assert read(path)[1]["s"].to_pylist() == ["a\nb"]


def test_other_delimiters_and_encodings_are_read_when_named(tmp_path: Path) -> None:
    path = written(tmp_path, "time;ort\n2024-01-01;Köln\n".encode("latin-1"))
    assert refused(path) == "data.csv: has one column only; give --delimiter ';'"
    assert "give its --encoding" in refused(path, delimiter=";")
    assert read(path, delimiter=";", encoding="latin-1")[1]["ort"].to_pylist() == ["Köln"]
    path = written(tmp_path, "time\tv\n2024-01-01\t1\n", "data.tsv")
    assert read(path)[1]["v"].to_pylist() == [1]


def test_a_column_named_twice_and_a_file_without_rows_are_refused(tmp_path: Path) -> None:
    assert "twice" in refused(written(tmp_path, "time,v,v\n2024-01-01,1,2\n"))
    assert refused(written(tmp_path, "time,v\n")) == "data.csv: has no rows"
    assert "Empty CSV file" in refused(written(tmp_path, ""))


def test_an_option_that_names_no_column_says_which_there_are(tmp_path: Path) -> None:
    path = written(tmp_path, "time,value\n2024-01-01,1\n")
    expected = 'data.csv: there is no column "valeu", which --type names; is it "value"?'
    assert refused(path, types={"valeu": "double"}) == expected
    assert "--time-column names" in refused(path, time_column="when")


def test_a_column_can_be_left_out(tmp_path: Path) -> None:
    layout, table = read(written(tmp_path, "time,a,b\n2024-01-01,1,2\n"), skip=frozenset({"a"}))
    assert list(types(layout)) == table.column_names == ["timestamp", "b"]


def test_a_column_without_values_so_far_is_remarked_on(tmp_path: Path) -> None:
    layout, _ = read(written(tmp_path, "time,a\n2024-01-01,\n"))
    assert types(layout)["a"] == "string"
    assert "give --type a=double" in layout.notes[0]


def test_further_columns_of_times_are_times(tmp_path: Path) -> None:
    layout, table = read(written(tmp_path, "time,made\n2024-01-01T00:00:00Z,2023/12/24\n"))
    assert types(layout) == {"timestamp": "timestamp", "made": "timestamp"}
    assert table["made"][0].as_py() == utc(2023, 12, 24)


def test_json_lines_keep_long_integers_mixed_columns_and_nested_values(tmp_path: Path) -> None:
    lines = [
        '{"time": "2024-01-01T00:00:00Z", "n": 9007199254740993, "m": 1, "o": {"x": 1}, "b": true}',
        "",
        '{"time": "2024-01-01T00:00:01Z", "n": -1, "m": "one", "b": false}',
    ]
    layout, table = read(written(tmp_path, "\n".join(lines), "data.ndjson"))
    assert types(layout) == {
        "timestamp": "timestamp",
        "n": "integer",
        "m": "string",
        "o": "string",
        "b": "boolean",
    }
    assert table.drop_columns("timestamp").to_pylist() == [
        {"n": 9007199254740993, "m": "1", "o": '{"x": 1}', "b": True},
        {"n": -1, "m": "one", "o": None, "b": False},
    ]


def test_text_in_json_stays_text_even_when_it_looks_like_a_number(tmp_path: Path) -> None:
    layout, _ = read(written(tmp_path, '{"time": 1404172800, "code": "12"}\n', "data.jsonl"))
    assert types(layout) == {"timestamp": "timestamp", "code": "string"}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("{oops", "data.ndjson line 2: is not JSON"),
        ("[1]", "data.ndjson line 2: is not a JSON object"),
        ('{"time": "2024-01-01", "time": "2024-01-02"}', "data.ndjson line 2: is not JSON: Detected duplicate key"),
    ],
)
def test_a_line_that_is_no_json_object_is_named(tmp_path: Path, line: str, expected: str) -> None:
    path = written(tmp_path, '{"time": "2024-01-01", "n": 1}\n' + line + "\n", "data.ndjson")
    assert refused(path).startswith(expected)


def test_a_field_that_only_later_lines_have_is_not_dropped_silently(tmp_path: Path) -> None:
    early = '{"time": "2024-01-01T00:00:00Z", "n": 1}\n' * SAMPLE_ROWS
    path = written(tmp_path, early + '{"time": "2024-01-02T00:00:00Z", "late": 2}\n', "data.ndjson")
    message = refused(path)
    assert message.startswith('data.ndjson row 10,001 (line 10,001), column "late"')
    assert "--type late=string" in message
    assert read(path, types={"late": "integer"})[1]["late"][-1].as_py() == 2
    assert "late" not in types(read(path, skip=frozenset({"late"}))[0])


def test_parquet_types_become_the_services_types(tmp_path: Path) -> None:
    path = tmp_path / "data.parquet"
    zoned = pa.array([datetime(2024, 1, 1, 12, tzinfo=UTC)], pa.timestamp("ms", "Europe/Paris"))
    table = pa.table(
        {
            "at": zoned,
            "day": pa.array([19_723], pa.date32()),
            "small": pa.array([1], pa.uint8()),
            "half": pa.array([1.5], pa.float32()),
            "name": pa.array(["x"]).dictionary_encode(),
            "ok": [True],
        }
    )
    pq.write_table(table, path)
    layout, table = read(path)
    assert types(layout) == {
        "timestamp": "timestamp",
        "day": "timestamp",
        "small": "integer",
        "half": "double",
        "name": "string",
        "ok": "boolean",
    }
    assert layout.time.name == "at"
    assert table["timestamp"].to_pylist() == [utc(2024, 1, 1, 12)]
    assert table["day"].to_pylist() == [utc(2024, 1, 1)]


def test_a_parquet_type_without_a_counterpart_is_named(tmp_path: Path) -> None:
    path = tmp_path / "data.parquet"
    pq.write_table(pa.table({"time": pa.array([0], pa.timestamp("us")), "tags": [["a"]]}), path)
    message = refused(path)
    assert 'column "tags": the service has no type for list' in message
    assert message.endswith("leave it out with --skip tags")


def test_compressed_files_are_read_to_their_last_member(tmp_path: Path) -> None:
    members = gzip.compress(b"time,v\n2024-01-01,1\n") + gzip.compress(b"2024-01-02,2\n")
    assert read(written(tmp_path, members, "data.csv.gz"))[1]["v"].to_pylist() == [1, 2]
    lines = gzip.compress(b'{"time": "2024-01-01", "v": 1}\n')
    assert read(written(tmp_path, lines, "data.ndjson.gz"))[1]["v"].to_pylist() == [1]
    cut = gzip.compress(b"time,v\n" + b"2024-01-01,1\n" * 1000)[:-8]
    assert "Truncated" in refused(written(tmp_path, cut, "data.csv.gz"))


def test_a_name_that_tells_no_format_needs_one_given(tmp_path: Path) -> None:
    path = written(tmp_path, "time,v\n2024-01-01,1\n", "data")
    assert refused(path) == "data: its name tells no format; give --format csv, ndjson or parquet"
    assert read(path, format="csv")[1].num_rows == 1


@pytest.mark.parametrize("batch_rows", [1, 7, 10_000, 10_001, 1_000_000])
def test_batches_have_the_rows_asked_for_and_lose_none(tmp_path: Path, batch_rows: int) -> None:
    count = 20_500 if batch_rows >= 1_000 else 25
    lines = "".join(f'{{"time": "2024-01-01T00:00:00Z", "n": {n}}}\n' for n in range(count))
    path = written(tmp_path, lines, "data.ndjson")
    source = open_source(path, ReadOptions())
    layout = infer_layout(source, ReadOptions())
    tables = list(read_tables(source, layout, ReadOptions(), batch_rows))
    assert [table.num_rows for table in tables[:-1]] == [batch_rows] * (len(tables) - 1)
    assert pa.concat_tables(tables)["n"].to_pylist() == list(range(count))
    assert source.position == source.size_bytes


def test_an_ingest_body_holds_the_contracts_fields_and_exact_values(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "date,n,x,ok,s\n2024-01-02T00:00:00.000001Z,9007199254740993,0.1,true,ä\n2024-01-01,,,,\n",
    )
    layout, table = read(path)
    body = ingest_body(table, layout, table_name="t", dataset_name=None, key={"site": "north"}, idempotency_key="k")
    assert json.loads(body) == {
        "tableName": "t",
        "schema": {
            "fields": [
                {"name": "timestamp", "type": "timestamp"},
                {"name": "n", "type": "integer"},
                {"name": "x", "type": "double"},
                {"name": "ok", "type": "boolean"},
                {"name": "s", "type": "string"},
            ]
        },
        "partition": {
            "key": {"site": "north"},
            "timeRange": {"start": "2024-01-01T00:00:00.000Z", "end": "2024-01-02T00:00:00.000001Z"},
        },
        "idempotencyKey": "k",
        "rows": [
            {"timestamp": "2024-01-02T00:00:00.000001Z", "n": 9007199254740993, "x": 0.1, "ok": True, "s": "ä"},
            {"timestamp": "2024-01-01T00:00:00.000000Z", "n": None, "x": None, "ok": None, "s": None},
        ],
    }
