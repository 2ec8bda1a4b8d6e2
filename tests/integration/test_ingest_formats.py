"""Batches by their Content-Type: NDJSON, CSV, Arrow and Parquet hold the same rows, are read alike and as strictly."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Callable, Mapping
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.service import ALL_TIME, Service

NDJSON = "application/x-ndjson"
CSV = "text/csv"
ARROW = "application/vnd.apache.arrow.stream"
PARQUET = "application/vnd.apache.parquet"
TYPES = (NDJSON, CSV, ARROW, PARQUET)

ROWS: list[dict[str, Any]] = [
    {"timestamp": "2024-01-01T00:00:00.000Z", "host": "a, b", "load": 0.5, "count": 2**53 + 1, "ok": True},
    {"timestamp": "2024-01-01T00:00:01.000Z", "host": 'say "x"\nthen', "load": None, "count": None, "ok": False},
    {"timestamp": "2024-01-01T00:00:02.123456Z", "host": None, "load": -1e300, "count": -3, "ok": None},
]
SCHEMA = "timestamp:timestamp,host:string,load:double,count:integer,ok:boolean"


def table(**columns: Any) -> pa.Table:
    return pa.table(columns)


def as_arrow(rows: pa.Table, options: pa.ipc.IpcWriteOptions | None = None) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, rows.schema, options=options) as writer:
        writer.write_table(rows)
    return sink.getvalue()


def as_parquet(rows: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(rows, sink, **options)
    return sink.getvalue()


def as_body(media_type: str) -> bytes:
    """ROWS in the media type."""
    if media_type == NDJSON:
        return "\n".join(json.dumps(row) for row in ROWS).encode()
    if media_type == CSV:
        lines = [",".join(ROWS[0])]
        for row in ROWS:
            cells = ("" if value is None else json.dumps(value) for value in row.values())
            lines.append(",".join(cell.replace('\\"', '""').replace("\\n", "\n") for cell in cells))
        return "\r\n".join(lines).encode()
    times = pa.array([datetime.fromisoformat(row["timestamp"]) for row in ROWS], pa.timestamp("us", "Europe/Berlin"))
    rows = pa.Table.from_pylist([{**row, "timestamp": None} for row in ROWS]).set_column(0, "timestamp", times)
    return as_arrow(rows) if media_type == ARROW else as_parquet(rows)


def send(
    service: Service, slug: str, media_type: str, body: bytes, query: Any = None, **headers: str
) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return service.client.post(
        f"/datasets/{slug}/ingest", params=query, content=body, headers={"content-type": media_type, **named}
    )


def rows_of(service: Service, slug: str) -> list[dict[str, Any]]:
    answer = service.query(slug, {"timeRange": ALL_TIME})
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["rows"]
    return found


@pytest.mark.parametrize("query", [None, {"schema": SCHEMA}], ids=["inferred", "declared"])
@pytest.mark.parametrize("media_type", TYPES)
def test_the_same_rows_come_back_whatever_they_came_in(service: Service, media_type: str, query: Any) -> None:
    slug = f"same-{media_type.rpartition('.')[2].replace('/', '-')}-{query is None}"
    answer = send(service, slug, media_type, as_body(media_type), query)

    assert answer.status_code == 201, answer.text
    assert rows_of(service, slug) == ROWS
    assert answer.json()["manifest"]["statistics"]["startTime"] == ROWS[0]["timestamp"]
    assert answer.json()["manifest"]["statistics"]["endTime"] == ROWS[2]["timestamp"]


def test_what_stands_around_the_rows_is_in_the_query_string(service: Service) -> None:
    query = [
        ("schema", "n:double"),
        ("schema", '{"fields": [{"name": "a,b", "type": "string"}]}'),
        ("partitionKey", "window:2024-01-01"),
        ("partitionKey", "url:http://x"),
        ("start", "2024-01-01T00:00:00Z"),
        ("end", "2024-01-02T00:00:00Z"),
        ("tableName", "readings"),
        ("datasetName", "The name"),
    ]
    answer = send(service, "around", CSV, b"timestamp,n\n2024-01-01,1\n", query)

    assert answer.status_code == 201, answer.text
    found = answer.json()
    partition = found["manifest"]["partitions"][0]
    assert found["dataset"]["name"] == "The name"
    assert partition["partitionKey"] == {"window": "2024-01-01", "url": "http://x"}
    assert (partition["startTime"], partition["endTime"]) == ("2024-01-01T00:00:00.000Z", "2024-01-02T00:00:00.000Z")
    assert rows_of(service, "around") == [{"timestamp": "2024-01-01T00:00:00.000Z", "n": 1.0, "a,b": None}]


def test_a_known_column_keeps_its_type(service: Service) -> None:
    send(service, "kept", CSV, b"timestamp,code,load\n2024-01-01,007,1\n", {"schema": "code:string,load:double"})
    again = send(service, "kept", CSV, b"timestamp,code,load\n2024-01-02,008,2\n")
    wrong = send(service, "kept", CSV, b"timestamp,code,load\n2024-01-02,008,2\n2024-01-03,9,warm\n")

    assert again.status_code == 201, again.text
    assert [row["code"] for row in rows_of(service, "kept")] == ["007", "008"]
    assert wrong.status_code == 400
    assert wrong.json()["message"] == 'rows[1].load: "warm" is not a double'


@pytest.mark.parametrize("coding", ["gzip", "zlib"])
def test_bodies_may_be_compressed_and_repeated_under_a_key(service: Service, coding: str) -> None:
    body = as_body(CSV)
    packed = gzip.compress(body) if coding == "gzip" else zlib.compress(body)
    headers = {"content_encoding": "gzip" if coding == "gzip" else "deflate", "idempotency_key": "once"}
    slug = f"packed-{coding}"
    first = send(service, slug, CSV, packed, **headers)
    second = send(service, slug, CSV, packed, **headers)
    other = send(service, slug, CSV, b"timestamp,n\n2024-01-01,1\n", idempotency_key="once")

    assert (first.status_code, second.status_code, other.status_code) == (201, 201, 409), second.text
    assert second.headers["idempotent-replayed"] == "true"
    assert len(rows_of(service, slug)) == 3


def test_the_time_range_comes_from_the_only_column_of_times(service: Service) -> None:
    assert send(service, "only", CSV, b"at,n\n2024-01-01T00:00:00Z,1\n").status_code == 201
    two = send(service, "two", CSV, b"at,to,n\n2024-01-01T00:00:00Z,2024-01-01T00:00:00Z,1\n")
    none = send(service, "none", CSV, b"n\n1\n")
    empty = send(service, "empty", CSV, b"timestamp,n\n")
    named = send(service, "two", CSV, b"at,to,n\n2024-01-01,2024-01-02,1\n", {"timestampColumn": "to"})

    assert [answer.status_code for answer in (two, none, empty, named)] == [400, 400, 400, 201]
    assert "timestampColumn" in two.json()["message"]
    assert "timestampColumn" in none.json()["message"]


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ({"colour": "red"}, "colour"),
        ({"schema": "n"}, "schema"),
        ({"schema": "n:float"}, "schema"),
        ({"schema": "n:double,N:double"}, "schema"),
        ({"schema": '{"fields": [{"name": "n", "type": "float"}]}'}, "fields[0].type"),
        ({"start": "2024-01-01"}, "end"),
        ({"start": "2024-01-02", "end": "2024-01-01"}, "end"),
        ({"start": "noon", "end": "2024-01-01"}, "start"),
        ({"partitionKey": "x"}, "partitionKey"),
        ([("partitionKey", "x:1"), ("partitionKey", "x:2")], "partitionKey"),
        ({"tableName": ""}, "tableName"),
        ({"idempotencyKey": "k" * 256}, "idempotency-key"),
        ({"timestampColumn": "n"}, "rows[0].n"),
        ([("start", "a"), ("start", "b")], "start"),
        ({"storageTargetId": "st-nope"}, ""),
    ],
)
def test_a_bad_parameter_is_named(service: Service, query: Any, named: str) -> None:
    answer = send(service, "refused", CSV, b"timestamp,n\n2024-01-01,1\n", query)

    assert answer.status_code == (400 if named else 404), answer.text
    assert not named or named in [problem["path"] for problem in answer.json()["details"]]


@pytest.mark.parametrize(
    ("media_type", "body", "path"),
    [
        (CSV, b"timestamp,n\n2024-01-01T00:00:60Z,1\n", "rows[0].timestamp"),
        (CSV, b"timestamp,n\n2024-01-01T00:00:00.000000001Z,1\n", "rows[0].timestamp"),
        (CSV, b"timestamp,n\n0000-01-01,1\n", "rows[0].timestamp"),
        (CSV, b"timestamp,n\ninfinity,1\n", "rows[0].timestamp"),
        (CSV, b"timestamp,n\n2024-01-01,9223372036854775808\n", "rows[0].n"),
        (CSV, b"timestamp,n\n2024-01-01,0x10\n", "rows[0].n"),
        (CSV, b"timestamp,x\n2024-01-01,nan\n", "rows[0].x"),
        (CSV, b"timestamp,x\n2024-01-01,1e400\n", "rows[0].x"),
        (CSV, b"timestamp,N,n\n2024-01-01,1,2\n", "columns"),
        (CSV, b"timestamp,n,n\n2024-01-01,1,2\n", "columns"),
        (CSV, b"timestamp,\n2024-01-01,1\n", "columns[1].name"),
        (CSV, b"timestamp,n\n2024-01-01,1,2\n", "rows"),
        (CSV, b'timestamp,s\n2024-01-01,"open\n', "rows"),
        (CSV, b"timestamp,s\n2024-01-01,\xff\n", "rows"),
        (CSV, b"", "header"),
        (NDJSON, b'{"timestamp": "2024-01-01", "n": 1}\n{"timestamp": "2024-01-01", "n": "warm"}', "rows[1].n"),
        (NDJSON, b'{"timestamp": "2024-01-01", "x": NaN}', "rows"),
        (NDJSON, b'{"timestamp": "2024-01-01", "n": 1, "n": 2}', "rows"),
        (NDJSON, b'{"timestamp": "2024-01-01", "n": [1]}', "rows[0].n"),
        (NDJSON, b'{"timestamp": "2024-01-01", "n": {"a": 1}}', "rows[0].n"),
        (NDJSON, b'{"timestamp": 5, "n": 1}', "rows[0].timestamp"),
        (NDJSON, b"[1]\n", "rows[0]"),
        (NDJSON, b'{"timestamp": "2024-01-01"\n"n": 1}\n', "rows"),
        (NDJSON, b'{"a":' + b"[" * 200_000, "rows"),
        (NDJSON, b'{"a":' * 200_000, "rows"),
        (NDJSON, b'{"timestamp": "2024-01-01", "n": 1, "\\u0000": 2}', "columns[2].name"),
    ],
)
def test_a_text_that_does_not_fit_is_named(service: Service, media_type: str, body: bytes, path: str) -> None:
    declared = {"schema": "n:integer,x:double"} if path not in ("columns", "rows", "header") else None
    answer = send(service, "strict", media_type, body, declared)

    assert answer.status_code == 400, answer.text
    assert path in [problem["path"] for problem in answer.json()["details"]], answer.text


AT = pa.array([datetime(2024, 1, 1)], pa.timestamp("us"))
HOURS = timezone(timedelta(hours=2))


@pytest.mark.parametrize("encode", [as_arrow, as_parquet])
@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([1], pa.int8()), 1),
        (pa.array([1], pa.uint64()), 1),
        (pa.array([1.5], pa.float32()), 1.5),
        (pa.array([float("nan")]), None),
        (pa.array([float("-inf")]), None),
        (pa.array(["x"]).dictionary_encode(), "x"),
        (pa.array(["x"], pa.large_string()), "x"),
        (pa.array([date(2024, 1, 1)]), "2024-01-01T00:00:00.000Z"),
        (pa.array([0], pa.timestamp("s")), "1970-01-01T00:00:00.000Z"),
        (pa.array([-1_000], pa.timestamp("ns")), "1969-12-31T23:59:59.999999Z"),
        (pa.array([datetime(2024, 1, 1, tzinfo=HOURS)]), "2023-12-31T22:00:00.000Z"),
    ],
    ids=lambda value: str(getattr(value, "type", value)),
)
def test_types_that_hold_the_same_values_are_taken(service: Service, encode: Any, column: Any, expected: Any) -> None:
    slug = f"taken-{encode.__name__}-{column.type}-{column[0]}"[:200].replace("/", "").replace("\n", "")
    media_type = ARROW if encode is as_arrow else PARQUET
    answer = send(service, slug, media_type, encode(table(timestamp=AT, value=column)))

    assert answer.status_code == 201, answer.text
    assert [row["value"] for row in rows_of(service, slug)] == [expected]


@pytest.mark.parametrize("encode", [as_arrow, as_parquet])
@pytest.mark.parametrize(
    "column",
    [
        pa.array([Decimal("1.5")]),
        pa.array([[1]]),
        pa.array([{"a": 1}]),
        pa.array([b"x"]),
        pa.array([2**63], pa.uint64()),
        pa.array([1], pa.timestamp("ns")),
        pa.array([10**15], pa.timestamp("ms")),
        pa.array([-(10**15)], pa.timestamp("ms")),
        pa.array([1], pa.time32("s")),
    ],
    ids=lambda column: str(column.type),
)
def test_types_and_values_without_a_place_are_refused_by_name(service: Service, encode: Any, column: Any) -> None:
    media_type = ARROW if encode is as_arrow else PARQUET
    answer = send(service, "refused-types", media_type, encode(table(timestamp=AT, value=column)))

    assert answer.status_code == 400, answer.text
    assert "value" in answer.json()["details"][0]["path"]


def test_a_column_without_a_value_is_left_out_unless_its_type_is_known(service: Service) -> None:
    rows = table(timestamp=AT, x=pa.nulls(1), y=pa.nulls(1))

    assert send(service, "nothing", ARROW, as_arrow(rows), {"schema": "y:double"}).status_code == 201
    assert rows_of(service, "nothing") == [{"timestamp": "2024-01-01T00:00:00.000Z", "y": None}]


@pytest.fixture(scope="module")
def small(make_service: Callable[..., Service]) -> Service:
    """A service that takes little."""
    return make_service(
        TIMESTORE_INGEST_MAX_BODY_BYTES="65536",
        TIMESTORE_INGEST_MAX_ROWS="50000",
        TIMESTORE_INGEST_MAX_COLUMNS="20",
    ).start()


def _views() -> pa.Array:
    """As much text, in twenty thousand views of the same forty thousand bytes."""
    lengths = np.zeros((20_000, 4), np.int32)
    lengths[:, 0] = 30_000
    lengths[:, 1] = int.from_bytes(b"xxxx", "little")
    return pa.Array.from_buffers(
        pa.string_view(), 20_000, [None, pa.py_buffer(lengths.tobytes()), pa.py_buffer(b"x" * 30_000)]
    )


def _dictionary() -> pa.Array:
    """Six hundred megabytes of text in fifty kilobytes."""
    return pa.DictionaryArray.from_arrays(pa.array([0] * 20_000, pa.int8()), pa.array(["x" * 30_000]))


def _part() -> pa.Array:
    """Two hundred kilobytes, of which three are too many together."""
    return pa.DictionaryArray.from_arrays(pa.array([0] * 700, pa.int8()), pa.array(["x" * 300]))


BOMBS: Mapping[str, tuple[str, Callable[[], bytes], int]] = {
    "rows of CSV": (CSV, lambda: b"a\n" + b"\n" * 60_000, 400),
    "columns of CSV": (CSV, lambda: b"a," * 30_000, 400),
    "rows of Arrow": (ARROW, lambda: as_arrow(table(a=pa.nulls(60_000))), 400),
    "columns of Arrow": (ARROW, lambda: as_arrow(table(**{f"c{n}": AT for n in range(21)})), 400),
    "compressed Arrow": (
        ARROW,
        lambda: as_arrow(table(a=pa.array(["x" * 10_000_000])), pa.ipc.IpcWriteOptions(compression="zstd")),
        413,
    ),
    "an Arrow dictionary": (
        ARROW,
        lambda: as_arrow(table(a=_dictionary())),
        413,
    ),
    "views of one text": (ARROW, lambda: as_arrow(table(a=_views()), pa.ipc.IpcWriteOptions(compression="zstd")), 413),
    "many dictionaries": (ARROW, lambda: as_arrow(table(a=_part(), b=_part(), c=_part())), 413),
    "rows of Parquet": (PARQUET, lambda: as_parquet(table(a=pa.array([1] * 60_000))), 400),
    "a Parquet page": (PARQUET, lambda: as_parquet(table(a=pa.array(["x" * 10_000_000])), compression="zstd"), 413),
    "a Parquet dictionary": (PARQUET, lambda: as_parquet(table(a=_dictionary())), 413),
}


@pytest.mark.parametrize("name", BOMBS)
def test_what_would_grow_beyond_its_limits_is_refused(small: Service, name: str) -> None:
    media_type, body, status = BOMBS[name]
    answer = send(small, "bomb", media_type, body())

    assert answer.status_code == status, answer.text[:300]


def test_other_media_types_are_refused_by_name(service: Service) -> None:
    kinds = ("text/plain", "text/csv; charset=utf-16", 'text/csv; header="absent"')
    answers = [send(service, "media", kind, b"x") for kind in kinds]

    assert [answer.status_code for answer in answers] == [415, 415, 415]
    assert "text/csv" in answers[0].json()["message"]


@given(data=st.data(), media_type=st.sampled_from([ARROW, PARQUET]))
@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_damaged_file_is_never_the_service_s_fault(service: Service, data: st.DataObject, media_type: str) -> None:
    body = bytearray(as_body(media_type))
    for place in data.draw(st.lists(st.integers(0, len(body) - 1), min_size=1, max_size=4)):
        body[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(body)) | st.just(len(body)))

    answer = send(service, "damaged", media_type, bytes(body[:cut]))

    assert answer.status_code < 500, answer.text


@pytest.mark.parametrize(
    "body",
    [b"null", b"\nnull\n", b'null\n{"timestamp":"2024-01-01T00:00:00Z"}', b'{"timestamp":"2024-01-01"}\n null\n'],
)
def test_a_line_that_is_no_object_is_named(service: Service, body: bytes) -> None:
    answer = send(service, "null-lines", NDJSON, body)

    assert answer.status_code == 400, answer.text
    assert "rows" in answer.json()["message"]


def test_texts_encoded_as_differences_are_refused_with_advice(service: Service) -> None:
    rows = table(timestamp=pa.array([datetime(2024, 1, 1)], pa.timestamp("us")), s=["x"])
    body = as_parquet(rows, use_dictionary=False, column_encoding={"s": "DELTA_BYTE_ARRAY"})

    answer = send(service, "differences", PARQUET, body)
    assert (answer.status_code, "dictionary" in answer.json()["message"]) == (400, True), answer.text


def test_what_is_no_number_is_above_all_of_them_in_parquet_files_too(service: Service) -> None:
    times = pa.array([datetime(2024, 1, 1, hour) for hour in range(2)], pa.timestamp("us"))
    for write_format in ("duckdb", "parquet", "auto"):
        slug = f"nan-{write_format}"
        service.client.post("/admin/datasets", json={"slug": slug, "writeFormat": write_format})
        assert send(service, slug, ARROW, as_arrow(table(timestamp=times, d=[1.0, float("nan")]))).status_code == 201
        for condition, count in (({"gt": 5}, 1), ({"ne": 1}, 1), ({"lte": 5}, 1)):
            body = {"timeRange": ALL_TIME, "filters": {"columns": {"d": condition}}}
            assert len(service.query(slug, body).json()["rows"]) == count, (write_format, condition)
