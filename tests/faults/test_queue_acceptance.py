"""What an acceptance leaves in the journal: once whatever happens to its answer, and in nobody's way."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.faults.postgres_proxy import PostgresProxy, _exactly
from tests.faults.queue_stand import QueueStand, queue_stand
from tests.service import Service, batch, wait_until


@pytest.fixture(scope="module")
def running(
    make_service: Callable[..., Service], postgres_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[QueueStand]:
    with queue_stand(make_service, postgres_url, tmp_path_factory.mktemp("acceptance")) as made:
        made.service.start()
        yield made


@pytest.fixture
def stand(running: QueueStand) -> Iterator[QueueStand]:
    """A stand without a worker; those of the test are gone when it is over."""
    yield running
    for worker in running.workers_made:
        worker.kill()


def test_sending_a_waiting_batch_again_does_not_forget_its_crashes(stand: QueueStand) -> None:
    job_id = stand.accept("again", [1], "key")
    with stand.catalog() as catalog:
        catalog.execute("UPDATE ingest_journal SET attempts = 7 WHERE id = %s", [job_id])

    assert stand.accept("again", [1], "key") == job_id
    assert stand.service.ingest("again", batch([2]), "key").status_code == 409

    with stand.catalog() as catalog:
        found = catalog.execute("SELECT attempts FROM ingest_journal WHERE id = %s", [job_id]).fetchall()
    assert found == [{"attempts": 7}]


def test_a_batch_that_failed_for_good_leaves_its_key_to_corrected_rows(stand: QueueStand) -> None:
    stand.worker().start()
    stand.finished("corrected", stand.accept("corrected", [1]))
    wrong = batch([], schema={"fields": [{"name": "n", "type": "string"}]})
    job_id = stand.service.ingest("corrected", wrong, "key").json()["jobId"]
    assert stand.finished("corrected", job_id)["status"] == "failed"

    assert stand.accept("corrected", [2], "key") == job_id

    stand.wait_for("corrected", [1, 2])
    assert stand.status("corrected", job_id)["status"] == "completed"


def test_a_batch_that_redis_does_not_take_keeps_no_other_from_it(stand: QueueStand) -> None:
    stand.redis().config_set("proto-max-bulk-len", 1024 * 1024)
    stand.accept("large", list(range(40_000)))
    stand.accept("small", [1])
    stand.redis().flushall()

    stand.worker().start()

    stand.wait_for("small", [1])
    assert stand.visible("large") == []
    stand.redis().config_set("proto-max-bulk-len", 512 * 1024 * 1024)
    wait_until(lambda: len(stand.visible("large")) == 40_000, "the large batch")


class _JournalProxy(PostgresProxy):
    """Cuts the connection whose client writes into the journal, once, when the server has done it."""

    def __init__(self, server: Path) -> None:
        super().__init__(server)
        self.is_armed = True

    def _ask(self, client: socket.socket, server: socket.socket, withheld: threading.Event) -> None:
        (length,) = struct.unpack("!i", start := _exactly(client, 4))
        server.sendall(start + _exactly(client, length - 4))
        while True:
            kind = _exactly(client, 1)
            (length,) = struct.unpack("!i", size := _exactly(client, 4))
            body = _exactly(client, length - 4)
            if self.is_armed and kind == b"P" and b"INSERT INTO ingest_journal" in body:
                self.is_armed = False
                withheld.set()
            server.sendall(kind + size + body)
            if withheld.is_set() and kind == b"S":
                # It takes the next message only when it has answered this one: its end is then the statement's.
                server.sendall(b"X" + struct.pack("!i", 4))
                while server.recv(65536):
                    pass
                return


@contextmanager
def journal_proxy(url: str) -> Iterator[tuple[_JournalProxy, str]]:
    """A running proxy to the server of this URL, and the URL that leads through it."""
    proxy = _JournalProxy(Path(parse_qs(urlsplit(url).query)["host"][0]) / ".s.PGSQL.5432")
    accepting = threading.Thread(target=proxy.accept, daemon=True)
    accepting.start()
    try:
        yield proxy, f"postgresql://postgres@127.0.0.1:{proxy.port}/postgres?sslmode=disable&gssencmode=disable"
    finally:
        proxy.close()
        accepting.join()


def test_a_batch_without_a_key_whose_journalling_lost_its_answer_is_accepted_once(
    make_service: Callable[..., Service], postgres_url: str, tmp_path: Path
) -> None:
    with journal_proxy(postgres_url) as (proxy, url), queue_stand(make_service, url, tmp_path) as stand:
        stand.service.start()

        stand.accept("unsure", [1])

        assert not proxy.is_armed
        assert stand.count("ingest_journal") == 1
        stand.worker().start()
        stand.wait_for("unsure", [1])
        assert stand.count("ingest_journal") == 0
