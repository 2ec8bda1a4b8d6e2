"""The client of the HTTP API, when the service is away, busy, or none."""

from __future__ import annotations

import socket
import time

import pytest
from timestore_workers.client import Client, ClientError, retries_told

from tests.unit.client_commands.stand import Fault, Service, run


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
