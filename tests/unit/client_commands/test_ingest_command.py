"""`timestore ingest` against an HTTP server that answers by the contract."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.unit.client_commands.stand import SEATTLE, Fault, Service, hourly, run, sent


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
