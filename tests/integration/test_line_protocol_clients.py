"""The clients of InfluxDB 1, 2 and 3 and of QuestDB write here as they are, and are read back."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import influxdb
import influxdb_client
import pytest
from influxdb_client.client.write_api import SYNCHRONOUS
from influxdb_client.rest import ApiException
from influxdb_client_3 import InfluxDBClient3, WriteOptions, write_client_options
from influxdb_client_3 import Point as Point3
from influxdb_client_3.write_client.client.write_api import SYNCHRONOUS as SYNCHRONOUS_3
from questdb import Sender, TimestampNanos

from tests.service import ALL_TIME, Service

NASTY = 'a, b=c "q" \\x é\nthen'
AT = datetime(2024, 1, 1, 12, 0, 0, 123456, tzinfo=UTC)
SHOWN = "2024-01-01T12:00:00.123456Z"


def rows_of(service: Service, slug: str) -> list[dict[str, Any]]:
    answer = service.query(slug, {"timeRange": ALL_TIME})
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["rows"]
    return found


@pytest.fixture
def version_2(service: Service) -> Iterator[influxdb_client.InfluxDBClient]:
    with influxdb_client.InfluxDBClient(service.base, token="any", org="any", enable_gzip=True) as client:
        yield client


def test_influxdb_client_writes_every_type_and_escape(
    service: Service, version_2: influxdb_client.InfluxDBClient
) -> None:
    point = (
        influxdb_client.Point("weather")
        .tag("place, here", "a, b=c é")
        .field("text", NASTY)
        .field("double", 1.5)
        .field("integer", 2**53 + 1)
        .field("boolean", True)
        .time(AT)
    )
    version_2.write_api(write_options=SYNCHRONOUS).write("two", record=point)

    assert version_2.ping()
    assert rows_of(service, "two.weather") == [
        {
            "timestamp": SHOWN,
            "place, here": "a, b=c é",
            "text": NASTY,
            "double": 1.5,
            "integer": 2**53 + 1,
            "boolean": True,
        }
    ]


@pytest.mark.parametrize(("precision", "time"), [("ns", 10**18), ("us", 10**15), ("ms", 10**12), ("s", 10**9)])
def test_influxdb_client_writes_every_precision(
    service: Service, version_2: influxdb_client.InfluxDBClient, precision: Any, time: int
) -> None:
    record = f"m,t=a f=1 {time}"
    version_2.write_api(write_options=SYNCHRONOUS).write(f"two-{precision}", record=record, write_precision=precision)

    assert [row["timestamp"] for row in rows_of(service, f"two-{precision}.m")] == ["2001-09-09T01:46:40.000Z"]


def test_influxdb_client_is_told_of_bad_lines_and_of_a_type_conflict(
    service: Service, version_2: influxdb_client.InfluxDBClient
) -> None:
    api = version_2.write_api(write_options=SYNCHRONOUS)
    api.write("bad", record="m f=1i 1")
    with pytest.raises(ApiException) as refused:
        api.write("bad", record="m f=2i 1000\nm f=warm 2000\nm f=1.5 3000\nm f=4i 4000")

    assert refused.value.status == 400
    body = refused.value.body
    assert '"code":"invalid"' in body
    assert '"line":2' in body
    assert "line 3: field 'f' is of type double and the column is of type integer" in body
    assert [row["f"] for row in rows_of(service, "bad.m")] == [1, 2, 4]


@pytest.mark.parametrize("no_sync", [False, True])
def test_influxdb3_python_writes(service: Service, no_sync: bool) -> None:
    write_type = SYNCHRONOUS_3.write_type
    options = write_client_options(
        write_options=WriteOptions(write_type=write_type, no_sync=no_sync, use_v2_api=not no_sync)
    )
    database = f"three-{no_sync}"
    with InfluxDBClient3(host=service.base, token="any", database=database, write_client_options=options) as client:
        client.write(Point3("m").tag("t", "a b").field("text", NASTY).field("n", 3).time(AT))
        client.write(["m,t=c n=4i 1704110400000000000", "m,t=d n=5i 1704110400000000000"])

    slug = f"{database}.m"
    assert [(row["t"], row["n"]) for row in rows_of(service, slug)] == [("c", 4), ("d", 5), ("a b", 3)]
    assert rows_of(service, slug)[2] == {"timestamp": SHOWN, "t": "a b", "text": NASTY, "n": 3}


def test_influxdb_of_version_1_writes_and_lists_its_databases(service: Service) -> None:
    client = influxdb.InfluxDBClient("127.0.0.1", service.port, "someone", "secret", "one", gzip=True)
    client.create_database("one")
    fields = {"text": 'a, b="c"', "double": 1.5, "integer": 2, "boolean": False}
    points = [{"measurement": "m x", "tags": {"t": "a,b"}, "fields": fields, "time": AT}]

    assert client.ping().startswith("1.8")
    assert client.write_points(points)
    for precision, time in (("n", 10**18), ("u", 10**15), ("ms", 10**12), ("s", 10**9), ("m", 10**7), ("h", 10**5)):
        assert client.write([f"{precision} f=1 {time}"], {"db": "one", "precision": precision}, 204, "line")

    assert {"name": "one"} in client.get_list_database()
    slug = next(
        one["slug"]
        for one in service.client.get("/admin/datasets?search=one").json()["datasets"]
        if one["name"] == "one.m x"
    )
    assert rows_of(service, slug) == [{"timestamp": SHOWN, "t": "a,b", **fields}]
    assert {rows_of(service, f"one.{name}")[0]["timestamp"][:4] for name in ("n", "u", "ms", "s")} == {"2001"}
    assert rows_of(service, "one.m")[0]["timestamp"] == "1989-01-05T10:40:00.000Z"
    with pytest.raises(influxdb.exceptions.InfluxDBClientError, match=r"partial write: line 1: .* dropped=1"):
        client.write(["m f=warm"], {"db": "one"}, 204, "line")


def test_questdb_writes(service: Service) -> None:
    with Sender.from_conf(f"http::addr=127.0.0.1:{service.port};") as sender:
        sender.row(
            "trades",
            symbols={"pair": "ETH, USD"},
            columns={"price": 2615.5, "size": 7, "text": NASTY, "buy": True},
            at=TimestampNanos(1704110400123456000),
        )
        sender.flush()

    assert rows_of(service, "default.trades") == [
        {"timestamp": SHOWN, "pair": "ETH, USD", "price": 2615.5, "size": 7, "text": NASTY, "buy": True}
    ]
