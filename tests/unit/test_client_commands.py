"""`timestore ingest` and `timestore query` against an HTTP server that answers by the contract."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import typer
from timestore_workers.client import Client, ClientError, retries_told
from timestore_workers.ingest_command import ingest
from timestore_workers.query_command import aggregation, query, query_body
from typer.testing import CliRunner, Result

from timestore_core.errors import InvalidRequest

SEATTLE = Path(__file__).parents[2] / "examples/data/seattle-weather.csv"
ANSWER = (
    '{"rows":[{"timestamp":"2024-01-01T00:00:00.000Z","n":9007199254740993,"x":20.10,"s":"a,\\"b\\"","e":""},'
    '{"timestamp":"2024-01-02T00:00:00.000Z","n":null,"x":1e-7,"s":null,"e":null}],'
    '"columns":["timestamp","n","x","s","e"],"mode":"raw"}'
)


@dataclass
class Fault:
    """What the server answers instead; status None hangs up without an answer."""

    status: int | None
    body: bytes = b'{"statusCode":503,"error":"Service Unavailable","message":"busy"}'
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Service:
    """A stand-in for the service: takes batches by their keys, answers queries with `answer`."""

    url: str = ""
    requests: list[tuple[str, dict[str, str], dict[str, Any]]] = field(default_factory=list)
    batches: dict[str, dict[str, Any]] = field(default_factory=dict)
    faults: list[Fault | None] = field(default_factory=list)
    answer: str = ANSWER
    queued: bool = False
    ingest_delay_s: float = 0.0

    def take(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, str], str]:
        if path.endswith("/query"):
            return 200, {}, self.answer
        time.sleep(self.ingest_delay_s)
        if self.queued:
            return 202, {}, '{"mode":"queued","jobId":"j1"}'
        known = self.batches.setdefault(body["idempotencyKey"], body)
        if known is not body and known != body:
            refusal = {"statusCode": 409, "error": "Conflict", "message": "the key was used with other rows"}
            return 409, {}, json.dumps(refusal)
        version = list(self.batches).index(body["idempotencyKey"]) + 1
        headers = {"idempotent-replayed": "true"} if known is not body else {}
        return 201, headers, json.dumps({"mode": "inline", "manifest": {"version": version}})

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [body for _, _, body in self.requests]


@pytest.fixture
def service() -> Iterator[Service]:
    state = Service()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            headers = {name.lower(): value for name, value in self.headers.items()}
            state.requests.append((self.path, headers, body))
            fault = state.faults.pop(0) if state.faults else None
            if fault is None:
                status, extra, text = state.take(self.path, body)
                self.answer(status, extra, text.encode())
            elif fault.status is None:
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
            else:
                self.answer(fault.status, fault.headers, fault.body)

        def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in {"content-type": "application/json; charset=utf-8", **headers}.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """Clients that hang up are part of these tests."""

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}"
    yield state
    server.shutdown()
    thread.join()
    server.server_close()


def run(*arguments: str | Path, env: dict[str, str] | None = None) -> Result:
    app = typer.Typer()
    app.command()(ingest)
    app.command()(query)
    return CliRunner().invoke(app, [str(one) for one in arguments], env={"COLUMNS": "100", **(env or {})})


def sent(service: Service, *arguments: str | Path) -> Result:
    return run("ingest", "--url", service.url, *arguments)


def hourly(tmp_path: Path, rows: int = 100, name: str = "hourly.csv") -> Path:
    path = tmp_path / name
    lines = [f"2024-01-{1 + row // 24:02}T{row % 24:02}:00:00Z,{row}" for row in range(rows)]
    path.write_text("time,n\n" + "\n".join(lines) + "\n")
    return path


# ingest


def test_a_file_arrives_whole_in_one_batch_as_the_contract_writes_it(service: Service) -> None:
    result = sent(service, SEATTLE, "--dataset", "weather", "--name", "Weather", "--table", "days")
    assert result.exit_code == 0, result.output
    (path, headers, body), *rest = service.requests
    assert not rest
    assert path == "/datasets/weather/ingest"
    assert headers["content-type"] == "application/json; charset=utf-8"
    assert (body["datasetName"], body["tableName"], body["partition"]["key"]) == ("Weather", "days", {})
    assert body["partition"]["timeRange"] == {
        "start": "2012-01-01T00:00:00.000Z",
        "end": "2015-12-31T00:00:00.000Z",
    }
    assert len(body["rows"]) == 1461
    assert body["rows"][0] == {
        "timestamp": "2012-01-01T00:00:00.000000Z",
        "precipitation": 0.0,
        "temp_max": 12.8,
        "temp_min": 5.0,
        "wind": 4.7,
        "weather": "drizzle",
    }


def test_the_end_says_what_was_sent_and_what_to_try_next(service: Service) -> None:
    result = sent(service, SEATTLE, "--dataset", "weather")
    assert re.match(r"Sent 1,461 rows in .* s \(.* rows/s\) to dataset weather, version 1\.\n", result.stdout)
    command = f"Try: timestore query weather --every 1mo --agg avg:precipitation --url {service.url}\n"
    assert result.stdout.endswith(command)
    assert "Times: date, format %Y/%m/%d" in result.stderr
    assert "sent as timestamp (--keep-time-name keeps the name)" in result.stderr


def test_a_kept_time_name_is_in_the_command_to_try_next(service: Service, tmp_path: Path) -> None:
    result = sent(service, hourly(tmp_path), "-d", "d", "--keep-time-name")
    assert "--every 6h --agg avg:n --time-column time" in result.stdout
    assert "time" in service.bodies[0]["rows"][0]


def test_batches_have_keys_of_their_own_and_the_range_of_their_own_rows(service: Service, tmp_path: Path) -> None:
    result = sent(service, hourly(tmp_path), "-d", "d", "--batch-rows", "40", "--key", "site=north")
    assert result.exit_code == 0, result.output
    assert [len(body["rows"]) for body in service.bodies] == [40, 40, 20]
    assert len(service.batches) == 3
    assert service.bodies[1]["partition"] == {
        "key": {"site": "north"},
        "timeRange": {"start": "2024-01-02T16:00:00.000Z", "end": "2024-01-04T07:00:00.000Z"},
    }
    assert all(key.startswith("hourly.csv-") and len(key) <= 255 for key in service.batches)
    assert "version 3." in result.stdout


def test_running_it_again_doubles_nothing_and_says_so(service: Service, tmp_path: Path) -> None:
    path = hourly(tmp_path)
    sent(service, path, "-d", "d", "--batch-rows", "40")
    again = sent(service, path, "-d", "d", "--batch-rows", "40")
    assert again.exit_code == 0
    assert "3 of 3 batches were in before and were not added again." in again.stdout
    assert len(service.batches) == 3


def test_a_file_with_other_content_has_other_keys(service: Service, tmp_path: Path) -> None:
    sent(service, hourly(tmp_path, 10), "-d", "d")
    sent(service, hourly(tmp_path, 11), "-d", "d")
    assert len(service.batches) == 2


def test_other_options_for_a_file_that_is_in_are_explained(service: Service, tmp_path: Path) -> None:
    path = hourly(tmp_path)
    sent(service, path, "-d", "d")
    result = sent(service, path, "-d", "d", "--batch-rows", "10")
    assert result.exit_code == 1
    assert "error: batch 1: the key was used with other rows (409)" in result.stderr
    assert "with other options?" in result.stderr


@pytest.mark.parametrize(
    ("by", "windows"),
    [
        ("day", ["2024-01-01", "2024-01-02", "2024-01-03"]),
        ("month", ["2024-01"]),
        ("year", ["2024"]),
    ],
)
def test_partitions_by_time_have_a_window_key_and_their_own_rows(
    service: Service, tmp_path: Path, by: str, windows: list[str]
) -> None:
    sent(service, hourly(tmp_path, 60), "-d", "d", "--partition-by", by)
    partitions = [body["partition"] for body in service.bodies]
    assert [partition["key"] for partition in partitions] == [{"window": window} for window in windows]
    assert sorted(row["n"] for body in service.bodies for row in body["rows"]) == list(range(60))
    assert all(partition["timeRange"]["start"].startswith(partition["key"]["window"]) for partition in partitions)


def test_a_batch_too_large_for_one_request_is_halved(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("timestore_workers.sending.MAX_BODY_BYTES", 1500)
    result = sent(service, hourly(tmp_path), "-d", "d")
    assert result.exit_code == 0, result.output
    assert len(service.bodies) > 4
    assert len(service.batches) == len(service.bodies)
    assert [row["n"] for body in service.bodies for row in body["rows"]] == list(range(100))


def test_nothing_is_sent_of_a_file_with_a_bad_row(service: Service, tmp_path: Path) -> None:
    path = hourly(tmp_path)
    path.write_text(path.read_text() + "2024-01-06T00:00:00Z,warm\n")
    result = sent(service, path, "-d", "d", "--batch-rows", "10", "--type", "n=integer")
    assert result.exit_code == 1
    assert 'hourly.csv row 101 (line 102), column "n": "warm" is not an integer' in result.stderr
    assert "Nothing was sent." in result.stderr
    assert result.stdout == ""
    assert service.requests == []


def test_a_dry_run_sends_nothing(service: Service, tmp_path: Path) -> None:
    result = sent(service, hourly(tmp_path), "-d", "d", "--dry-run")
    assert result.exit_code == 0
    assert "All 100 rows fit. Nothing was sent." in result.stderr
    assert service.requests == []


def test_a_busy_service_is_asked_again_and_the_batch_is_in_once(service: Service, tmp_path: Path) -> None:
    hang_up, busy = Fault(None), Fault(503)
    service.faults = [busy, hang_up, Fault(429, headers={"retry-after": "0"})]
    result = sent(service, hourly(tmp_path), "-d", "d")
    assert result.exit_code == 0, result.output
    assert len(service.requests) == 4
    assert len({body["idempotencyKey"] for body in service.bodies}) == 1
    assert "busy (503); trying again in" in result.stderr
    assert "stamina" not in result.output


def test_a_file_that_was_half_sent_goes_on_where_it_stopped(service: Service, tmp_path: Path) -> None:
    path = hourly(tmp_path)
    service.faults = [None, Fault(503), Fault(503)]
    result = sent(service, path, "-d", "d", "--batch-rows", "60", "--attempts", "2")
    assert result.exit_code == 1
    assert len(service.requests) == 3
    assert result.stderr.endswith(
        "error: batch 2: busy (503)\n"
        "1 batches with 60 rows are in. Running the same command again resumes; nothing is doubled.\n"
    )
    result = sent(service, path, "-d", "d", "--batch-rows", "60")
    assert result.exit_code == 0
    assert "1 of 2 batches were in before" in result.stdout
    assert [len(body["rows"]) for body in service.batches.values()] == [60, 40]


def test_queued_batches_are_reported_as_queued(service: Service, tmp_path: Path) -> None:
    service.queued = True
    result = sent(service, hourly(tmp_path), "-d", "d")
    assert "to dataset d.\n1 of 1 batches are queued" in result.stdout


def test_a_refusal_shows_the_message_and_each_detail(service: Service, tmp_path: Path) -> None:
    details = [{"path": "schema.fields[0].name", "message": "is too long"}, {"path": "b", "message": "c"}]
    body = {"statusCode": 400, "error": "Bad Request", "message": "two faults", "details": details}
    service.faults = [Fault(400, json.dumps(body).encode())]
    result = sent(service, hourly(tmp_path), "-d", "d")
    assert result.exit_code == 1
    assert "two faults (400)\n  schema.fields[0].name: is too long\n  b: c\n" in result.stderr
    assert len(service.requests) == 1


def test_the_scope_headers_come_from_options_or_the_environment(service: Service, tmp_path: Path) -> None:
    env = {"TIMESTORE_IAM_USER": "Zoë", "TIMESTORE_IAM_SCOPES": "a:write, b", "TIMESTORE_URL": service.url}
    assert run("ingest", hourly(tmp_path), "-d", "d", env=env).exit_code == 0
    assert run("query", "d", "--user", "alice", env=env).exit_code == 0
    headers = [headers for _, headers, _ in service.requests]
    assert headers[0]["x-iam-user"].encode("latin-1").decode() == "Zoë"
    assert headers[0]["x-iam-scopes"] == "a:write, b"
    assert headers[1]["x-iam-user"] == "alice"


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("--key", "north", '--key: "north" is not of the form site=north'),
        ("--key", "window=1", "--key: window is the key that --partition-by makes"),
        ("--type", "n=number", '--type: "n=number" is not COLUMN=TYPE'),
    ],
)
def test_a_wrong_option_is_an_error_and_no_traceback(
    service: Service, tmp_path: Path, option: str, value: str, expected: str
) -> None:
    result = sent(service, hourly(tmp_path), "-d", "d", "--partition-by", "day", option, value)
    assert result.exit_code == 1
    assert expected in result.stderr
    assert "Traceback" not in result.output


def test_a_file_that_changes_meanwhile_is_not_sent_on(service: Service, tmp_path: Path) -> None:
    path = hourly(tmp_path)
    os.utime(path, ns=(0, 0))
    service.ingest_delay_s = 0.3

    def touch_after_the_first_batch() -> None:
        while not service.requests:
            time.sleep(0.005)
        os.utime(path)

    toucher = threading.Thread(target=touch_after_the_first_batch)
    toucher.start()
    result = sent(service, path, "-d", "d", "--batch-rows", "50")
    toucher.join()
    assert result.exit_code == 1
    assert "hourly.csv: was changed while it was read" in result.stderr
    assert "1 batches with 50 rows are in. Running the same command again resumes" in result.stderr


def test_control_c_ends_cleanly_and_says_how_to_resume(service: Service, tmp_path: Path) -> None:
    service.ingest_delay_s = 0.2
    code = "import typer; from timestore_workers.ingest_command import ingest; typer.run(ingest)"
    process = subprocess.Popen(
        [sys.executable, "-c", code, hourly(tmp_path), "-d", "d", "--batch-rows", "1", "--url", service.url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 30
    while len(service.requests) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "Stopped." in errors
    assert re.search(r"\d batches with \d rows are in\. Running the same command again resumes", errors)
    assert "Traceback" not in errors
    assert output == ""


# query


def test_a_query_without_options_asks_for_everything(service: Service) -> None:
    assert run("query", "a/b c", "--url", service.url).exit_code == 0
    path, _, body = service.requests[0]
    assert path == "/datasets/a%2Fb%20c/query"
    assert body == {
        "timeRange": {"start": "0001-01-01T00:00:00.000Z", "end": "9999-12-31T23:59:59.999999Z"},
        "timestampColumn": "timestamp",
    }


def test_all_options_of_a_query_reach_the_service(service: Service) -> None:
    options = (
        "--from 2024-01-01 --to 2024-01-31 --limit 5 --columns a,b --every 6h --agg mean=avg:t --agg count "
        "--where window=x,y --where site=n --where window=z --time-column at"
    )
    assert run("query", "d", "--url", service.url, *options.split()).exit_code == 0
    assert service.bodies[0] == {
        "timeRange": {"start": "2024-01-01T00:00:00.000Z", "end": "2024-01-31T23:59:59.999999Z"},
        "timestampColumn": "at",
        "columns": ["a", "b"],
        "limit": 5,
        "filters": {"partitionKey": {"window": ["x", "y", "z"], "site": ["n"]}},
        "downsample": {
            "intervalUnit": "hour",
            "intervalSize": 6,
            "aggregations": [{"fn": "avg", "column": "t", "alias": "mean"}, {"fn": "count"}],
        },
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("avg:temp", {"fn": "avg", "column": "temp"}),
        ("count", {"fn": "count"}),
        ("count:temp", {"fn": "count", "column": "temp"}),
        ("count_distinct:s", {"fn": "count_distinct", "column": "s"}),
        ("p95:latency", {"fn": "percentile", "percentile": 0.95, "column": "latency"}),
        ("p99.9:l", {"fn": "percentile", "percentile": 0.999, "column": "l", "alias": "p99.9_l"}),
        ("percentile:0.5:l", {"fn": "percentile", "percentile": 0.5, "column": "l"}),
        ("worst=p100:l", {"fn": "percentile", "percentile": 1.0, "column": "l", "alias": "worst"}),
        ("max:a:b=c", {"fn": "max", "column": "a:b=c"}),
    ],
)
def test_an_aggregation_is_written_as_function_and_column(text: str, expected: dict[str, Any]) -> None:
    assert aggregation(text) == expected


@pytest.mark.parametrize("text", ["mean:t", "avg", "p101:l", "p95", "percentile:x:l", "percentile:95:l", ""])
def test_a_wrong_aggregation_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="--agg"):
        aggregation(text)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--every", "0h"], '--every: "0h" is not a duration'),
        (["--every", "1y"], "is not a duration"),
        (["--last", "soon"], "--last"),
        (["--last", "99999mo"], "goes back before the year 1"),
        (["--last", "1d", "--from", "2024-01-01"], "cannot be given with --from"),
        (["--from", "yesterday"], '--from: "yesterday" is not an ISO-8601 time'),
        (["--agg", "count"], "give --every"),
        (["--where", "window"], "is not of the form"),
    ],
)
def test_a_wrong_query_option_is_named_before_anything_is_asked(
    service: Service, options: list[str], expected: str
) -> None:
    result = run("query", "d", "--url", service.url, *options)
    assert result.exit_code == 1
    assert expected in result.stderr
    assert service.requests == []


def test_buckets_without_an_aggregation_are_counted(service: Service) -> None:
    run("query", "d", "--url", service.url, "--every", "1mo")
    assert service.bodies[0]["downsample"] == {
        "intervalUnit": "month",
        "intervalSize": 1,
        "aggregations": [{"fn": "count"}],
    }


@pytest.mark.parametrize("last", ["45s", "7d", "2w", "1mo", "14mo"])
def test_the_last_days_end_now(last: str) -> None:
    options: dict[str, Any] = dict.fromkeys(["start", "end", "columns", "limit", "every"])
    body = query_body(**options, last=last, agg=[], where=[], time_column="timestamp")
    first, final = body["timeRange"]["start"], body["timeRange"]["end"]
    assert first < final
    if last == "14mo":
        years, months = int(final[:4]) - int(first[:4]), int(final[5:7]) - int(first[5:7])
        assert years * 12 + months == 14


def test_csv_is_complete_and_keeps_the_digits_of_the_service(service: Service) -> None:
    result = run("query", "d", "--url", service.url)
    assert result.stdout == (
        "timestamp,n,x,s,e\n"
        '2024-01-01T00:00:00.000Z,9007199254740993,20.10,"a,""b""",""\n'
        "2024-01-02T00:00:00.000Z,,1e-7,,\n"
    )


def test_json_is_what_the_service_answered(service: Service) -> None:
    assert run("query", "d", "--url", service.url, "--format", "json").stdout == ANSWER + "\n"


def test_a_table_leaves_out_what_does_not_fit_and_says_so(service: Service) -> None:
    names = ["timestamp", *(f"column_{number}" for number in range(20))]
    rows = [{name: f"[{name}] {number}" for name in names} for number in range(100)]
    service.answer = json.dumps({"rows": rows, "columns": names, "mode": "raw"})
    result = run("query", "d", "--url", service.url, "--format", "table")
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 100
    assert "[timestamp] 0" in result.stdout
    assert "[timestamp] 99" in result.stdout
    assert "[timestamp] 50" not in result.stdout
    assert "⋮" in result.stdout
    assert result.stderr.startswith("100 rows; the first and last 20 shown; columns not shown: column_")
    assert "--format csv or json gives everything" in result.stderr


def test_an_unknown_dataset_is_the_services_own_message(service: Service) -> None:
    service.faults = [Fault(404, b'{"statusCode":404,"error":"Not Found","message":"Dataset d not found"}')]
    result = run("query", "d", "--url", service.url)
    assert (result.exit_code, result.stderr) == (1, "error: Dataset d not found (404)\n")


# client


def test_a_service_that_is_not_there_is_said_plainly() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        result = run("query", "d", "--url", url, "--attempts", "2")
    assert result.exit_code == 1
    assert f"error: {url} cannot be reached: " in result.stderr
    assert result.stderr.count("trying again") == 1


@pytest.mark.parametrize("url", ["127.0.0.1:4100", "ftp://host", "http://", "http://host:port"])
def test_an_address_that_is_none_is_refused_at_once(url: str) -> None:
    with pytest.raises(ClientError, match="is not an address"):
        Client(url, timeout_s=1, attempts=1)


def test_a_page_that_is_no_answer_of_the_service_is_said_plainly(service: Service) -> None:
    with Client(service.url, timeout_s=5, attempts=1) as client:
        service.faults = [Fault(200, b"<html>"), Fault(502, b"<html>bad gateway"), Fault(200, b"[]")]
        with pytest.raises(ClientError, match="is it a Timestore"):
            client.query("d", {})
        with pytest.raises(ClientError, match="502 Bad Gateway: <html>bad gateway"):
            client.query("d", {})
        with pytest.raises(ClientError, match="is it a Timestore"):
            client.ingest("d", b"{}")


def test_a_wait_that_the_service_asks_for_is_kept(service: Service) -> None:
    told: list[str] = []
    service.faults = [Fault(503, headers={"retry-after": "1"})]
    started = time.monotonic()
    with retries_told(told.append), Client(service.url, timeout_s=5, attempts=2) as client:
        client.query("d", {})
    assert time.monotonic() - started >= 1
    assert told == ["busy (503); trying again in 1.0 s"]


def test_a_service_that_does_not_answer_in_time_is_given_up(service: Service) -> None:
    service.ingest_delay_s = 1
    with (
        Client(service.url, timeout_s=0.1, attempts=1) as client,
        pytest.raises(ClientError, match="no answer in time"),
    ):
        client.ingest("d", b'{"idempotencyKey": "k"}')
