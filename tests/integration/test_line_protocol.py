"""InfluxDB's write routes: Telegraf's bytes, bad lines in each version's shape, dedupe, access and overload."""

from __future__ import annotations

import gzip
import socket
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.service import ALL_TIME, Service

TELEGRAF = b"""\
cpu,cpu=cpu0,host=tele usage_idle=99.1,usage_user=0.5 1704110400000000000
cpu,cpu=cpu1,host=tele usage_idle=98.2,usage_user=1.5 1704110400000000000
mem,host=tele used_percent=12.5,total=16777216i 1704110400000000000
system,host=tele uptime_format="2 days, 3:04" 1704110400000000000
system,host=tele load1=0.5,n_cpus=2i 1704110400000000000
disk,device=sda1,fstype=ext4,host=tele,path=/ free=5i,inodes_total=7u 1704110400000000000
"""


def rows_of(service: Service, slug: str) -> list[dict[str, Any]]:
    answer = service.query(slug, {"timeRange": ALL_TIME})
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["rows"]
    return found


def write(service: Service, path: str, body: str | bytes, **headers: str) -> httpx.Response:
    return service.client.post(path, content=body, headers={"content-type": "text/plain; charset=utf-8", **headers})


@pytest.mark.parametrize("prefix", ["", "/influx"])
@pytest.mark.parametrize(
    "path", ["/write?db={0}", "/api/v2/write?bucket={0}&org=o", "/api/v3/write_lp?db={0}&precision=nanosecond"]
)
def test_what_telegraf_sends_in_chunks_and_gzip_is_204_and_nothing_else(
    service: Service, prefix: str, path: str
) -> None:
    database = f"tele{len(prefix)}{len(path)}"
    body = gzip.compress(TELEGRAF)
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:50], body[50:])) + b"0\r\n\r\n"
    request = (
        f"POST {prefix}{path.format(database)} HTTP/1.1\r\nHost: x\r\nUser-Agent: Telegraf/1.36.0\r\n"
        "Transfer-Encoding: chunked\r\nContent-Encoding: gzip\r\nContent-Type: text/plain; charset=utf-8\r\n"
        "Connection: close\r\n\r\n"
    ).encode()
    with socket.create_connection(("127.0.0.1", service.port)) as connection:
        connection.sendall(request + chunks)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))

    head, _, rest = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 204")
    assert rest == b""
    assert [row["cpu"] for row in rows_of(service, f"{database}.cpu")] == ["cpu0", "cpu1"]
    assert rows_of(service, f"{database}.system") == [
        {
            "timestamp": "2024-01-01T12:00:00.000Z",
            "host": "tele",
            "uptime_format": "2 days, 3:04",
            "load1": 0.5,
            "n_cpus": 2,
        }
    ]
    assert rows_of(service, f"{database}.disk")[0]["inodes_total"] == 7


BAD = "m,t=a f=1i 1000\nm,t=a f=warm 2000\nm,t=a f=1.5 3000\n\nm,t=a f=5i 5000\n"
WARM = "invalid value 'warm' of the field 'f'"
CONFLICT = "field 'f' is of type double and the column is of type integer"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/write?db=bad1", {"error": f"partial write: line 2: {WARM}; line 3: {CONFLICT} dropped=2"}),
        (
            "/api/v2/write?bucket=bad2",
            {"code": "invalid", "message": f"partial write: line 2: {WARM}; line 3: {CONFLICT} dropped=2", "line": 2},
        ),
        (
            "/api/v3/write_lp?db=bad3&precision=ns",
            {
                "error": "partial write of line protocol occurred",
                "data": [
                    {"error_message": WARM, "line_number": 2, "original_line": "m,t=a f=warm 2000"},
                    {"error_message": CONFLICT, "line_number": 3, "original_line": "m,t=a f=1.5 3000"},
                ],
            },
        ),
    ],
)
def test_bad_lines_are_named_in_the_version_s_own_way_and_the_good_ones_are_kept(
    service: Service, path: str, expected: Any
) -> None:
    answer = write(service, path, BAD)

    assert answer.status_code == 400
    assert answer.json() == expected
    slug = path.partition("=")[2].partition("&")[0] + ".m"
    assert [row["f"] for row in rows_of(service, slug)] == [1, 5]


def test_with_accept_partial_off_nothing_is_written(service: Service) -> None:
    answer = write(service, "/api/v3/write_lp?db=whole&accept_partial=false", BAD)

    assert answer.status_code == 400
    assert answer.json()["error"] == "parsing failed for write_lp endpoint"
    assert len(answer.json()["data"]) == 2
    assert service.query("whole.m", {"timeRange": ALL_TIME}).status_code == 404


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/write?db=x&precision=fortnight", {"error"}),
        ("/api/v2/write?bucket=x&precision=m", {"code", "message"}),
        ("/api/v3/write_lp?db=x&precision=h", {"error"}),
        ("/write?db=%00", {"error"}),
        ("/write?db=%ff", {"error"}),
    ],
)
def test_a_bad_parameter_is_answered_in_the_version_s_own_way(service: Service, path: str, body: set[str]) -> None:
    answer = write(service, path, "m f=1")

    assert answer.status_code == 400
    assert set(answer.json()) == body


def test_a_dataset_born_here_keeps_one_row_for_each_series_and_time(service: Service) -> None:
    write(service, "/write?db=born", "m,t=a f=1 1000")
    write(service, "/write?db=born", "m,t=a,u=b f=1 1000\nm,t=a,u=b g=2 1000\nm,v=c,t=a f=1 1000")
    dataset = service.client.get("/admin/datasets/born.m").json()["dataset"]

    assert (dataset["name"], dataset["writeFormat"]) == ("born.m", "auto")
    assert dataset["metadata"]["lineProtocol"] == {"database": "born", "measurement": "m"}
    assert dataset["metadata"]["dedupe"] == {
        "columns": ["t", "u", "v"],
        "timeColumn": "timestamp",
        "merge": "fields",
    }
    assert [row for row in rows_of(service, "born.m") if row["u"]] == [
        {"timestamp": "1970-01-01T00:00:00.000001Z", "t": "a", "f": 1.0, "u": "b", "g": 2.0, "v": None}
    ]


def test_what_is_sent_again_also_regrouped_is_there_once(service: Service) -> None:
    write(service, "/write?db=again", TELEGRAF)
    before = {name: rows_of(service, f"again.{name}") for name in ("cpu", "mem", "system", "disk")}
    write(service, "/write?db=again", b"".join(reversed(TELEGRAF.splitlines(keepends=True))))
    write(service, "/write?db=again", TELEGRAF.splitlines()[0])

    assert len(before["cpu"]) == 2
    assert {name: rows_of(service, f"again.{name}") for name in before} == before


def test_lines_into_a_dataset_that_was_there_before_leave_it_as_it_is(service: Service) -> None:
    service.client.post("/admin/datasets", json={"slug": "old.m", "name": "Mine"})

    assert write(service, "/write?db=old", "m,t=a f=1 1000").status_code == 204
    dataset = service.client.get("/admin/datasets/old.m").json()["dataset"]
    assert dataset["name"] == "Mine"
    assert "dedupe" not in dataset["metadata"]


def test_ping_health_and_the_two_statements(service: Service) -> None:
    for prefix in ("", "/influx"):
        for answer in (service.client.get(f"{prefix}/ping"), service.client.head(f"{prefix}/ping")):
            assert answer.status_code == 204
            assert answer.headers["x-influxdb-version"]
            assert answer.headers["x-influxdb-build"]
        made = service.client.post(f"{prefix}/query", data={"q": 'CREATE DATABASE "any"'})
        shown = service.client.get(f"{prefix}/query", params={"q": "show databases"})
        other = service.client.get(f"{prefix}/query", params={"q": "select * from cpu"})
        assert made.json() == {"results": [{"statement_id": 0}]}
        assert shown.json()["results"][0]["series"][0]["columns"] == ["name"]
        assert (other.status_code, set(other.json())) == (400, {"error"})
    assert service.client.get("/influx/health").json()["status"] == "pass"


def test_what_may_pass_is_503_with_retry_after(make_service: Callable[..., Service], tmp_path: Any) -> None:
    root = tmp_path / "root"
    service = make_service(TIMESTORE_STORAGE_ROOT=str(root)).start()
    service.client.post("/admin/datasets", json={"slug": "away.m", "writeFormat": "duckdb"})
    write(service, "/write?db=away", "m f=1 1000")
    for path in sorted(root.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    root.rmdir()
    root.write_text("not a directory")

    answer = write(service, "/write?db=away", "m f=2 2000")

    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0
    assert set(answer.json()) == {"error"}


def test_limits_name_their_setting(make_service: Callable[..., Service]) -> None:
    service = make_service(
        TIMESTORE_INGEST_MAX_BODY_BYTES="20000", TIMESTORE_INGEST_MAX_ROWS="100", TIMESTORE_INGEST_MAX_COLUMNS="10"
    ).start()
    lines = "".join(f"m f={n}\n" for n in range(101))
    measurements = "\n".join(f"m{n} f=1" for n in range(50))
    wide = "m " + ",".join(f"f{n}=1" for n in range(20))

    assert write(service, "/write?db=a", b"x" * 20001).status_code == 413
    assert "TIMESTORE_INGEST_MAX_ROWS" in write(service, "/write?db=a", lines).json()["error"]
    assert "TIMESTORE_INGEST_MAX_COLUMNS" in write(service, "/write?db=a", wide).json()["error"]
    assert write(service, "/write?db=a", measurements).status_code == 204


@pytest.mark.parametrize("path", ["/write?db=d", "/api/v2/write?bucket=d", "/api/v3/write_lp?db=d"])
def test_bytes_of_any_kind_are_never_the_service_s_fault(service: Service, path: str) -> None:
    for body in (b"\0", b"\xff\xfe", b"m f=1 1\0", b'"', b"\\", b"m,\0=1 f=1", b"," * 1000, b"\n" * 1000, b'm f="' * 9):
        assert write(service, path, body).status_code in (204, 400), body


def test_a_column_that_only_a_bad_line_has_is_not_known(service: Service) -> None:
    write(service, "/write?db=lp1", "p b=1.0 1000")
    answer = write(service, "/write?db=lp1", 'p a="x",b="bad" 2000\np a=1,b=2 3000\n')

    assert (answer.status_code, "line 1" in answer.text, "dropped=1" in answer.text) == (400, True, True)
    assert [(row.get("a"), row["b"]) for row in rows_of(service, "lp1.p")] == [(None, 1.0), (1.0, 2.0)]


@pytest.mark.parametrize("bad", ["m,Host=a x=7 2000", "m,timestamp=3,host=a x=7 2000", "m,host=a timestamp=1 2000"])
def test_names_that_cannot_be_beside_others_are_bad_lines(service: Service, bad: str) -> None:
    database = f"lp2-{len(bad)}"
    answer = write(service, f"/write?db={database}", f"m,host=a x=1 1000\n{bad}\nm,host=b x=2 1000\n")

    assert (answer.status_code, "line 2" in answer.text) == (400, True)
    assert [row["x"] for row in rows_of(service, f"{database}.m")] == [1.0, 2.0]


def test_a_dataset_without_a_rule_keeps_every_line(service: Service) -> None:
    body = {
        "schema": {"fields": [{"name": "timestamp", "type": "timestamp"}, {"name": "host", "type": "string"}]},
        "partition": {"key": {}, "timeRange": ALL_TIME},
        "rows": [{"timestamp": "2024-01-01T00:00:00Z", "host": "first"}],
    }
    assert service.ingest("lp3.m", body).status_code == 201
    lines = "".join(f"m,host={host} x={x} 1000\n" for x, host in enumerate("abca"))

    assert write(service, "/write?db=lp3", lines).status_code == 204
    found = [row["host"] for row in rows_of(service, "lp3.m")]
    assert sorted(found) == ["a", "a", "b", "c", "first"]


def test_lines_for_a_dataset_that_takes_none_leave_the_others_alone(service: Service) -> None:
    assert write(service, "/write?db=lp4", "two x=1 1000").status_code == 204
    patched = service.client.patch("/admin/datasets/lp4.two", json={"status": "inactive"})
    assert patched.status_code == 200, patched.text
    answer = write(service, "/write?db=lp4", "one x=1 1000\ntwo x=2 2000\nthree x=3 1000\n")

    assert (answer.status_code, "line 2" in answer.text) == (400, True)
    assert [row["x"] for row in rows_of(service, "lp4.three")] == [3.0]


def test_a_string_without_an_end_costs_little(service: Service) -> None:
    line = '\\"' + "a" * 255
    answer = write(service, "/write?db=lp5", ('m f="' + "\n".join([line] * 999) + "\n") * 8 + "m f=1 1000\n")

    assert answer.status_code == 400
    assert [row["f"] for row in rows_of(service, "lp5.m")] == [1.0]


def test_a_bucket_may_be_named_after_database_and_policy(service: Service) -> None:
    for bucket in ("lp6", "lp6/autogen", "lp6/"):
        assert write(service, f"/api/v2/write?bucket={bucket}", f"m,b={bucket} x=1 1000").status_code == 204

    assert len(rows_of(service, "lp6.m")) == 3
