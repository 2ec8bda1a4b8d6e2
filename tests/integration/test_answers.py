"""How answers leave: their forms, their compression, and streams that are whole, in order, or broken."""

from __future__ import annotations

import csv
import gzip
import io
import json
import socket
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import httpx
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

from tests.service import ALL_TIME, Service, wait_until
from timestore_core.query.formats import ARROW, FORMS, NDJSON

MANY = 400_000
HEADER_BYTES = 12_288
BASE_US = 1_704_067_200_000_000
FIELDS = [
    {"name": "timestamp", "type": "timestamp"},
    {"name": "host", "type": "string"},
    {"name": "load", "type": "double"},
    {"name": "n", "type": "integer"},
    {"name": "up", "type": "boolean"},
]
ARROW_TYPES = [pa.timestamp("us", "UTC"), pa.string(), pa.float64(), pa.int64(), pa.bool_()]
ODD: list[dict[str, Any]] = [
    {"timestamp": "2024-01-01T00:00:00.000Z", "host": 'a "b", c', "load": 1.5, "n": 2**63 - 1, "up": True},
    {"timestamp": "2024-01-01T00:00:00.000001Z", "host": "two\nlines", "load": -0.0, "n": -(2**63), "up": False},
    {"timestamp": "2024-01-01T00:00:01.000Z", "host": "", "load": 1e300, "n": 0, "up": None},
    {"timestamp": "2024-01-01T00:00:02.000Z", "host": None, "load": None, "n": None, "up": None},
    {"timestamp": "2024-01-01T00:00:03.000Z", "host": "ünïcödé ☃", "load": 0.1, "n": 7, "up": True},
]


def publish(service: Service, slug: str, rows: list[dict[str, Any]], key: str = "") -> None:
    body = {
        "schema": {"fields": FIELDS},
        "partition": {
            "key": {"window": "w"},
            "timeRange": {"start": "2024-01-01T00:00:00Z", "end": "2024-12-31T00:00:00Z"},
        },
        "rows": rows,
        **({"idempotencyKey": key} if key else {}),
    }
    answer = service.client.post(
        f"/datasets/{slug}/ingest", content=msgspec.json.encode(body), headers={"content-type": "application/json"}
    )
    assert answer.status_code == 201, answer.text


def many_rows(begin: int, end: int) -> list[dict[str, Any]]:
    """A row a number; a quarter of all at one and the same moment, the others a second apart."""
    found = []
    for number in range(begin, end):
        second = 0 if number % 4 == 0 else number
        stamp = f"2024-01-{1 + second // 86_400:02}T{second // 3600 % 24:02}:{second // 60 % 60:02}:{second % 60:02}Z"
        found.append({"timestamp": stamp, "host": f"host-{number % 10}", "load": number / 8, "n": number, "up": None})
    return found


@pytest.fixture(scope="module")
def filled(service: Service) -> Service:
    publish(service, "odd", ODD)
    for begin in range(0, MANY, MANY // 4):
        publish(service, "many", many_rows(begin, begin + MANY // 4))
    return service


def ask(service: Service, slug: str, accept: str, **question: Any) -> httpx.Response:
    return service.client.post(
        f"/datasets/{slug}/query",
        json={"timeRange": ALL_TIME, **question},
        headers={"accept": accept, "accept-encoding": "identity"},
    )


def test_every_form_has_the_same_rows(filled: Service) -> None:
    asked = {form.name: ask(filled, "odd", form.media_type) for form in FORMS}
    rows = asked["json"].json()["rows"]

    assert [answer.status_code for answer in asked.values()] == [200] * 5
    assert [{**row, "load": row["load"] and abs(row["load"])} for row in rows] == [
        {**row, "load": row["load"] and abs(row["load"])} for row in ODD
    ]
    assert [json.loads(line) for line in asked["ndjson"].text.splitlines()] == rows
    assert b"".join(line + b"," for line in asked["ndjson"].content.split(b"\n")[:-1])[:-1] in asked["json"].content
    read = list(csv.reader(io.StringIO(asked["csv"].text, newline="")))
    assert read[0] == [field["name"] for field in FIELDS]
    assert [line[:2] for line in read[1:]] == [[row["timestamp"], row["host"] or ""] for row in rows]
    assert [line[3:] for line in read[1:]] == [[text_of(row["n"]), text_of(row["up"])] for row in rows]
    assert [line[2] and float(line[2]) for line in read[1:]] == [
        row["load"] if row["load"] is not None else "" for row in rows
    ]
    arrow = pa.ipc.open_stream(asked["arrow"].content).read_all()
    parquet = pq.read_table(io.BytesIO(asked["parquet"].content))
    assert arrow.schema.types == ARROW_TYPES
    assert arrow.to_pylist() == parquet.to_pylist()
    assert [{**row, "timestamp": None} for row in arrow.to_pylist()] == [{**row, "timestamp": None} for row in rows]
    assert arrow["timestamp"].cast(pa.int64()).to_pylist() == [
        BASE_US + at for at in (0, 1, 1_000_000, 2_000_000, 3_000_000)
    ]


def text_of(value: Any) -> str:
    return "" if value is None else str(value).lower()


def test_an_empty_text_is_not_null_in_csv(filled: Service) -> None:
    lines = ask(filled, "odd", "text/csv", columns=["host"]).text.split("\n")

    assert lines[0] == "host"
    assert ask(filled, "odd", "text/csv", columns=["n", "host"]).text.split("\n")[-3:] == [",", "7,ünïcödé ☃", ""]
    assert "" not in lines[:-1]


@pytest.mark.parametrize("form", FORMS, ids=[form.name for form in FORMS])
def test_buckets_and_nothing_at_all_come_in_every_form(filled: Service, form: Any) -> None:
    buckets = {
        "downsample": {"intervalUnit": "second", "aggregations": [{"fn": "sum", "column": "n"}, {"fn": "count"}]}
    }
    nothing = {"timeRange": {"start": "1999-01-01T00:00:00Z", "end": "1999-01-02T00:00:00Z"}}
    filled.client.post("/admin/datasets", json={"slug": "bare"})

    assert len(rows_of(ask(filled, "odd", form.media_type, **buckets))) == 4
    assert rows_of(ask(filled, "odd", form.media_type, **nothing)) == []
    assert rows_of(ask(filled, "bare", form.media_type)) == []
    assert rows_of(ask(filled, "bare", form.media_type, columns=["a", "b"])) == []


def rows_of(answer: httpx.Response) -> list[Any]:
    """The answer's rows, whatever its form."""
    assert answer.status_code == 200, answer.text
    match answer.headers["content-type"].partition(";")[0]:
        case "application/json":
            return list(answer.json()["rows"])
        case "application/x-ndjson":
            return [json.loads(line) for line in answer.text.splitlines()]
        case "text/csv":
            return list(csv.reader(io.StringIO(answer.text)))[1:]
        case _:
            return list(table_of(answer).to_pylist())


def table_of(answer: httpx.Response) -> pa.Table:
    """The answer in Arrow or Parquet as a table."""
    if answer.headers["content-type"] == ARROW.media_type:
        return pa.ipc.open_stream(answer.content).read_all()
    return pq.read_table(io.BytesIO(answer.content))


@pytest.mark.parametrize(
    ("accept", "found"),
    [
        ("*/*", "application/json"),
        ("", "application/json"),
        ("application/*", "application/json"),
        ("text/*", "text/csv"),
        ("application/x-ndjson;q=0.5, text/csv;q=0.7", "text/csv"),
        ("application/ndjson", "application/x-ndjson"),
        ("application/json;q=0.1, */*", "application/x-ndjson"),
        ("application/json;q=0, application/*;q=0.2", "application/x-ndjson"),
        ("text/html, application/xhtml+xml, */*;q=0.8", "application/json"),
        ("APPLICATION/VND.APACHE.PARQUET", "application/vnd.apache.parquet"),
        (";;q=x, ,/", "application/json"),
    ],
)
def test_the_client_s_weights_choose_the_form(filled: Service, accept: str, found: str) -> None:
    answer = ask(filled, "odd", accept)

    assert answer.headers["content-type"].partition(";")[0] == found
    assert answer.headers["vary"] == "Accept, Accept-Encoding"
    assert answer.headers["x-timestore-version"] == "1"


@pytest.mark.parametrize("accept", ["text/html", "application/json;q=0", "image/*, */*;q=0"])
def test_what_cannot_be_sent_is_406_with_the_list(filled: Service, accept: str) -> None:
    answer = ask(filled, "odd", accept)

    assert answer.status_code == 406
    assert answer.json()["details"]["mediaTypes"] == [form.media_type for form in FORMS]


@pytest.mark.parametrize("form", FORMS, ids=[form.name for form in FORMS])
def test_each_form_has_a_tag_of_its_own_and_is_not_sent_twice(filled: Service, form: Any) -> None:
    tag = ask(filled, "odd", form.media_type).headers["etag"]
    headers = {"accept": form.media_type, "accept-encoding": "identity", "if-none-match": tag}

    again = filled.client.post("/datasets/odd/query", json={"timeRange": ALL_TIME}, headers=headers)
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    others = {ask(filled, "odd", other.media_type).headers["etag"] for other in FORMS}
    assert len(others) == len(FORMS)


@pytest.mark.parametrize("form", FORMS, ids=[form.name for form in FORMS])
@pytest.mark.parametrize("coding", ["gzip", "zstd"])
def test_large_answers_are_compressed_when_asked(filled: Service, form: Any, coding: str) -> None:
    question = {"timeRange": ALL_TIME, "limit": 5_000}
    headers = {"accept": form.media_type, "accept-encoding": coding}
    plain = ask(filled, "many", form.media_type, limit=5_000)

    with filled.client.stream("POST", "/datasets/many/query", json=question, headers=headers) as answer:
        raw = b"".join(answer.iter_raw())
    if form.name == "parquet":
        assert "content-encoding" not in answer.headers
        return
    assert answer.headers["content-encoding"] == coding
    assert len(raw) < len(plain.content) / 2
    assert inflated(raw, coding) == plain.content
    assert answer.headers["etag"] != plain.headers["etag"]


def inflated(raw: bytes, coding: str) -> bytes:
    return gzip.decompress(raw) if coding == "gzip" else bytes(zstd.decompress(raw))


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        ("gzip, deflate, br, zstd", "zstd"),
        ("gzip;q=1.0, zstd;q=0.5", "gzip"),
        ("*", "zstd"),
        ("br", None),
        ("gzip;q=0", None),
        ("identity, gzip;q=0.5", None),
        ("identity;q=0", None),
    ],
)
def test_the_client_s_weights_choose_the_compression(filled: Service, accepted: str, coding: str | None) -> None:
    headers = {"accept-encoding": accepted}
    question = {"timeRange": ALL_TIME, "limit": 100}

    answer = filled.client.post("/datasets/many/query", json=question, headers=headers)
    assert answer.headers.get("content-encoding") == coding
    small = filled.client.post("/datasets/odd/query", json={"timeRange": ALL_TIME, "limit": 1}, headers=headers)
    assert "content-encoding" not in small.headers


@pytest.mark.parametrize("name", ["ndjson", "csv", "arrow", "parquet", "json"])
def test_an_answer_in_many_slices_is_whole_and_in_order(filled: Service, name: str) -> None:
    form = next(form for form in FORMS if form.name == name)
    answer = ask(filled, "many", form.media_type, columns=["timestamp", "n"])
    found: list[tuple[Any, int]]
    if name == "csv":
        found = [(line.split(",")[0], int(line.split(",")[1])) for line in answer.text.splitlines()[1:]]
    elif name in ("arrow", "parquet"):
        table = table_of(answer)
        found = list(zip(table["timestamp"].cast(pa.int64()).to_pylist(), table["n"].to_pylist(), strict=True))
    else:
        found = [(row["timestamp"], row["n"]) for row in rows_of(answer)]

    assert len(found) == MANY
    assert sorted(found) == found
    assert sorted(number for _, number in found) == list(range(MANY))
    assert ("transfer-encoding" in answer.headers) == (name != "json")


@pytest.mark.parametrize("accept", ["application/x-ndjson", "text/csv", "application/vnd.apache.arrow.stream"])
def test_rows_of_any_width_are_streamed(service: Service, accept: str) -> None:
    slug, count, width = f"wide-{accept.rsplit('.', 1)[-1].rsplit('/', 1)[-1]}", 120_000, 1_000
    texts = pa.array([f"{number:06}" * (width // 6) for number in range(count)])
    for begin in (0, count // 2):
        times = pa.array(range(begin, begin + count // 2), pa.int64()).cast(pa.timestamp("us", "UTC"))
        sink = pa.BufferOutputStream()
        table = pa.table({"timestamp": times, "text": texts.slice(begin, count // 2)})
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
        sent = service.client.post(
            f"/datasets/{slug}/ingest",
            content=sink.getvalue().to_pybytes(),
            headers={"content-type": "application/vnd.apache.arrow.stream"},
        )
        assert sent.status_code == 201, sent.text
    for question in ({}, {"limit": 110_000}):
        answer = ask(service, slug, accept, timeRange=ALL_TIME, **question)
        assert answer.status_code == 200, answer.text
        if accept.endswith("stream"):
            found = table_of(answer)["text"].to_pylist()
        elif accept == "text/csv":
            found = [line.partition(",")[2] for line in answer.text.splitlines()[1:]]
        else:
            found = [json.loads(line)["text"] for line in answer.text.splitlines()]
        assert found == texts.to_pylist()[: question.get("limit", count)]


def test_a_limit_ends_a_stream_where_it_ends_json(filled: Service) -> None:
    begin = {"start": "2024-01-01T00:00:01Z", "end": "2025-01-01T00:00:00Z"}

    streamed = rows_of(ask(filled, "many", "application/x-ndjson", timeRange=begin, limit=9_999))
    assert streamed == rows_of(ask(filled, "many", "application/json", timeRange=begin, limit=9_999))
    assert len(streamed) == 9_999


def test_an_error_before_the_first_byte_is_a_status(filled: Service) -> None:
    answer = ask(filled, "odd", "application/x-ndjson", columns=["nope"])

    assert answer.status_code == 400
    assert "nope" in answer.json()["message"]


@pytest.fixture(scope="module")
def tight(make_service: Callable[..., Service]) -> Iterator[Service]:
    """A service with hardly any room and patience."""
    service = make_service(
        TIMESTORE_QUERY_MAX_ROWS="3",
        TIMESTORE_QUERY_MAX_ANSWER_BYTES="200",
        TIMESTORE_HTTP_IDLE_TIMEOUT_MS="500",
        TIMESTORE_QUERY_CONCURRENCY="1",
        TIMESTORE_QUERY_QUEUE="0",
    ).start()
    publish(service, "odd", ODD)
    publish(service, "many", many_rows(0, MANY // 4))
    yield service
    assert service.stop() == 0


def test_limits_of_size_hold_for_what_is_built_whole_and_not_for_streams(tight: Service) -> None:
    statuses = {form.name: ask(tight, "odd", form.media_type).status_code for form in FORMS}
    assert statuses == {"json": 413, "parquet": 413, "ndjson": 200, "csv": 200, "arrow": 200}
    two = ask(tight, "odd", "application/vnd.apache.parquet", limit=2)
    assert two.status_code == 413
    assert "TIMESTORE_QUERY_MAX_ANSWER_BYTES" in two.json()["message"]


def raw_request(
    service: Service, version: str, slug: str, accept: str = NDJSON.media_type, **question: Any
) -> socket.socket:
    body = json.dumps({"timeRange": ALL_TIME, **question}).encode()
    head = (
        f"POST /datasets/{slug}/query HTTP/{version}\r\nHost: x\r\nAccept: {accept}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    connection = socket.create_connection(("127.0.0.1", service.port), timeout=60)
    connection.sendall(head.encode() + body)
    return connection


def test_a_client_of_http_1_0_gets_a_stream_without_chunks(filled: Service) -> None:
    with raw_request(filled, "1.0", "many") as connection, connection.makefile("rb") as file:
        head, _, body = file.read().partition(b"\r\n\r\n")

    assert b"chunked" not in head.lower()
    assert body.count(b"\n") == MANY
    assert json.loads(body.splitlines()[-1])["n"] == MANY - 1


def test_a_client_that_goes_away_or_takes_nothing_is_left(tight: Service) -> None:
    def left() -> int:
        return tight.log.read_text().count('"outcome": "left"')

    with raw_request(tight, "1.1", "many") as leaving:
        leaving.recv(1)
    wait_until(lambda: left() == 1, "the stream to end")
    stalled = raw_request(tight, "1.1", "many")
    wait_until(lambda: left() == 2, "the stream to end")
    stalled.close()
    # What they held is free again.
    assert ask(tight, "many", NDJSON.media_type, limit=1).status_code == 200


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_stream_that_fails_half_way_is_broken_and_not_ended(filled: Service, version: str) -> None:
    june = [{**row, "timestamp": row["timestamp"].replace("-01-", "-06-", 1)} for row in many_rows(1, 20_000)]
    publish(filled, "many", june, key="june")
    root = filled.storage
    newest = max(
        (path for path in root.rglob("*.duckdb") if "many" in str(path)), key=lambda path: path.stat().st_mtime
    )
    whole = newest.read_bytes()

    received = bytearray()
    with raw_request(filled, version, "many") as connection, suppress(ConnectionResetError):
        received += connection.recv(1)
        # The stream waits for its reader, and has not come to June yet.
        with newest.open("r+b") as file:
            file.seek(HEADER_BYTES)
            file.write(bytes(len(whole) - HEADER_BYTES))
        while piece := connection.recv(1 << 20):
            received += piece
        assert version == "1.1", "without chunks only a reset tells that it is not whole"
    newest.write_bytes(whole)
    assert received.startswith(f"HTTP/{version} 200".encode())
    assert len(received) > 20_000_000
    assert not received.endswith(b"0\r\n\r\n")
    wait_until(lambda: "answer.broken" in filled.log.read_text(), "the log to say so")


def test_many_clients_at_once_get_an_answer_or_are_told_to_come_again(filled: Service) -> None:
    question = {"timeRange": ALL_TIME, "downsample": {"intervalUnit": "hour", "aggregations": [{"fn": "count"}]}}

    def client(number: int) -> list[int]:
        with httpx.Client(base_url=filled.base, timeout=60) as own:
            if number % 8 == 0:
                return [own.get("/health").status_code, own.post("/datasets/odd/ingest", json={}).status_code]
            answers = [own.post("/datasets/many/query", json=question) for _ in range(3)]
            assert all(int(one.headers["retry-after"]) >= 1 for one in answers if one.status_code == 429)
            return [one.status_code for one in answers]

    with ThreadPoolExecutor(64) as pool:
        found = [status for statuses in pool.map(client, range(64)) for status in statuses]
    assert set(found) <= {200, 400, 429}
    assert found.count(200) > 8


def test_the_schema_tells_columns_rows_and_times(filled: Service) -> None:
    filled.client.post("/admin/datasets", json={"slug": "bare"})
    told, bare = filled.client.get("/datasets/odd/schema"), filled.client.get("/datasets/bare/schema")

    assert told.json() == {
        "datasetId": told.json()["datasetId"],
        "slug": "odd",
        "version": 1,
        "fields": FIELDS,
        "rows": len(ODD),
        "timeRange": {"start": "2024-01-01T00:00:00.000Z", "end": "2024-01-01T00:00:03.000Z"},
    }
    assert told.headers["x-timestore-version"] == "1"
    assert bare.json() == {**bare.json(), "version": 0, "fields": [], "rows": 0, "timeRange": None}
    assert filled.client.get("/datasets/nope/schema").status_code == 404
