"""A body is complete or refused, whatever the client does in the middle of it."""

from __future__ import annotations

import gzip
import json
import socket
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from timestore_http.body import zstd

from tests.faults.stand import Stand, make_stand
from tests.service import ALL_TIME, Service, batch, numbers_of, wait_until

MIB = 1024 * 1024
LIMIT_BYTES = MIB
SETTING = "TIMESTORE_INGEST_MAX_BODY_BYTES"
CODERS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress, "zstd": zstd.compress}


@pytest.fixture(scope="module")
def limited(
    make_service: Callable[..., Service], postgres_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stand]:
    """A stand that takes bodies of at most 1 MiB."""
    root = tmp_path_factory.mktemp("limited") / "storage"
    stand = make_stand(make_service, postgres_url, root, TIMESTORE_INGEST_MAX_BODY_BYTES=str(LIMIT_BYTES))
    stand.service.start()
    yield stand
    stand.service.kill()


def head(slug: str, *headers: str, key: str = "key") -> bytes:
    """The head of an ingest over a raw socket."""
    lines = [
        f"POST /datasets/{slug}/ingest HTTP/1.1",
        "Host: timestore",
        "Content-Type: application/json",
        f"Idempotency-Key: {key}",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def send_half_closed(service: Service, *pieces: bytes) -> tuple[int | None, dict[str, Any]]:
    """Send the bytes, close our side, and read to the end: the status (None without an answer) and the JSON."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=60) as connection:
        for piece in pieces:
            connection.sendall(piece)
        connection.shutdown(socket.SHUT_WR)
        return read_answer(connection)


def read_answer(connection: socket.socket) -> tuple[int | None, dict[str, Any]]:
    received = bytearray()
    with suppress(ConnectionResetError):
        while piece := connection.recv(65536):
            received += piece
    if not received:
        return None, {}
    start, _, body = bytes(received).partition(b"\r\n\r\n")
    try:
        return int(start.split()[1]), json.loads(body)
    except ValueError:
        return int(start.split()[1]), {}


def chunked(body: bytes, size: int = 50) -> bytes:
    """The body in chunks, without the last, empty one."""
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)


def assert_nothing_came_of_it(stand: Stand, slug: str) -> None:
    """No dataset, no file, and the key is free for the whole batch."""
    assert stand.service.query(slug, {"timeRange": ALL_TIME}).status_code == 404
    assert not [path for path in stand.files() if path.is_relative_to(stand.root / slug)]
    assert stand.staged() == []
    whole = stand.service.ingest(slug, batch([8, 9]), "key")
    assert (whole.status_code, "idempotent-replayed" in whole.headers) == (201, False)
    assert numbers_of(stand.service, slug) == [8, 9]


def encoded(body: Any) -> bytes:
    return json.dumps(body).encode()


def send_encoded(service: Service, slug: str, content: bytes, encoding: str) -> httpx.Response:
    return service.client.post(
        f"/datasets/{slug}/ingest",
        content=content,
        headers={"content-type": "application/json", "content-encoding": encoding, "idempotency-key": "key"},
    )


# Bodies with a length


def test_a_half_closed_upload_of_16_of_1000_bytes_is_refused(limited: Stand) -> None:
    status, answer = send_half_closed(limited.service, head("short", "Content-Length: 1000"), b'{"schema": {"fie')

    assert status == 400
    assert "16 of the 1000 bytes" in answer["message"]
    assert_nothing_came_of_it(limited, "short")


def test_a_half_closed_upload_that_is_whole_json_so_far_is_refused(limited: Stand) -> None:
    body = encoded(batch([1, 2]))

    status, _ = send_half_closed(limited.service, head("whole-so-far", f"Content-Length: {len(body) + 100}"), body)

    assert status == 400
    assert_nothing_came_of_it(limited, "whole-so-far")


def test_an_upload_that_is_reset_in_the_middle_is_refused_and_others_go_on(limited: Stand) -> None:
    body = encoded(batch([1, 2]))
    with socket.create_connection(("127.0.0.1", limited.service.port), timeout=60) as connection:
        connection.sendall(head("reset", f"Content-Length: {len(body) + 100}") + body)
        # With no time to linger, closing sends a reset.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")

    assert_nothing_came_of_it(limited, "reset")


def test_a_half_closed_upload_that_is_complete_is_taken(limited: Stand) -> None:
    body = encoded(batch([1, 2]))

    status, _ = send_half_closed(limited.service, head("complete", f"Content-Length: {len(body)}"), body)

    assert status == 201
    assert numbers_of(limited.service, "complete") == [1, 2]


def test_a_body_that_is_announced_above_the_limit_is_refused_before_it_is_read(limited: Stand) -> None:
    with socket.create_connection(("127.0.0.1", limited.service.port), timeout=60) as connection:
        connection.sendall(head("announced", f"Content-Length: {LIMIT_BYTES + 1}"))
        connection.shutdown(socket.SHUT_WR)
        status, answer = read_answer(connection)

    assert status == 413
    assert SETTING in answer["message"]
    assert_nothing_came_of_it(limited, "announced")


# Chunked bodies


def test_a_chunked_upload_is_read_to_its_last_chunk(limited: Stand) -> None:
    pieces = chunked(encoded(batch([1, 2, 3]))) + b"0\r\n\r\n"

    status, _ = send_half_closed(limited.service, head("chunked", "Transfer-Encoding: chunked"), pieces)

    assert status == 201
    assert numbers_of(limited.service, "chunked") == [1, 2, 3]


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("no-last-chunk", b""),
        ("cut-in-the-last-chunk", b"0\r\n"),
        ("cut-in-a-size", b"f"),
        ("cut-in-a-chunk", b"ff\r\n   "),
        ("a-size-that-is-no-number", b"zz\r\n\r\n0\r\n\r\n"),
        ("a-negative-size", b"-1\r\n\r\n0\r\n\r\n"),
        ("an-empty-size", b"\r\n\r\n0\r\n\r\n"),
        ("a-size-beyond-64-bits", b"fffffffffffffffffffff\r\n   \r\n0\r\n\r\n"),
        ("a-chunk-longer-than-its-size", b"1\r\n     \r\n0\r\n\r\n"),
    ],
)
def test_a_chunked_upload_that_does_not_end_as_it_should_is_refused(limited: Stand, name: str, end: bytes) -> None:
    whole = chunked(encoded(batch([1, 2])))

    status, _ = send_half_closed(limited.service, head(name, "Transfer-Encoding: chunked"), whole, end)

    assert status == 400
    assert_nothing_came_of_it(limited, name)


def test_a_chunked_upload_above_the_limit_is_refused(limited: Stand) -> None:
    def endless() -> Iterator[bytes]:
        yield encoded(batch([1]))
        for _ in range(64):
            yield b" " * 65536

    # The answer comes, and the connection is closed, while the client is still sending.
    with ExitStack() as expected, httpx.Client(base_url=limited.service.base, timeout=60) as client:
        expected.enter_context(suppress(httpx.WriteError))
        answer = client.post(
            "/datasets/endless/ingest", content=endless(), headers={"content-type": "application/json"}
        )
        assert answer.status_code == 413
        assert SETTING in answer.json()["message"]

    assert_nothing_came_of_it(limited, "endless")


def test_a_length_and_chunks_at_once_are_refused(limited: Stand) -> None:
    pieces = chunked(encoded(batch([1]))) + b"0\r\n\r\n"

    status, _ = send_half_closed(
        limited.service, head("both", "Transfer-Encoding: chunked", "Content-Length: 5"), pieces
    )

    assert status == 400
    assert_nothing_came_of_it(limited, "both")


# Compressed bodies


def bomb(coding: str) -> bytes:
    """Half a GiB of spaces in less than the limit."""
    one = CODERS[coding](b" " * (64 * MIB))
    return one * 8 if coding != "deflate" else one


BOMBS = {
    "gzip": lambda: bomb("gzip"),
    "deflate": lambda: bomb("deflate"),
    "zstd": lambda: bomb("zstd"),
    "gzip, gzip": lambda: gzip.compress(bomb("gzip")),
    "zstd, gzip": lambda: gzip.compress(bomb("zstd") * 20),
    "gzip, gzip, zstd": lambda: zstd.compress(gzip.compress(bomb("gzip") * 100)),
}


@pytest.mark.parametrize("encoding", BOMBS)
def test_a_bomb_is_refused_without_being_inflated(limited: Stand, encoding: str) -> None:
    content = BOMBS[encoding]()
    (worker,) = limited.workers()
    assert len(content) < LIMIT_BYTES
    reset_peak(worker.pid)
    before = worker.memory_info().rss

    answer = send_encoded(limited.service, "bomb", content, encoding)

    assert answer.status_code == 413
    assert SETTING in answer.json()["message"]
    assert peak_bytes(worker.pid) - before < 64 * MIB
    assert limited.workers() == [worker]


def reset_peak(pid: int) -> None:
    """Begin a new measurement of the process's peak memory (proc(5), clear_refs)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_concatenated_members_are_one_body(limited: Stand, encoding: str) -> None:
    body = encoded(batch([1, 2]))
    content = CODERS[encoding](body[:40]) + CODERS[encoding](b"") + CODERS[encoding](body[40:])

    answer = send_encoded(limited.service, f"members-{encoding}", content, encoding)

    assert answer.status_code == 201
    assert numbers_of(limited.service, f"members-{encoding}") == [1, 2]


@pytest.mark.parametrize("coding", CODERS)
@pytest.mark.parametrize("cut", [1, 5, 20])
def test_truncated_compression_is_refused(limited: Stand, coding: str, cut: int) -> None:
    content = CODERS[coding](encoded(batch([1, 2])))[:-cut]
    slug = f"truncated-{coding}-{cut}"

    answer = send_encoded(limited.service, slug, content, coding)

    assert answer.status_code == 400
    assert_nothing_came_of_it(limited, slug)


@pytest.mark.parametrize("coding", CODERS)
@pytest.mark.parametrize("garbage", [b"\0", b"garbage", b"{}"])
def test_garbage_after_compression_is_refused(limited: Stand, coding: str, garbage: bytes) -> None:
    slug = f"garbage-{coding}-{garbage.hex()}"

    answer = send_encoded(limited.service, slug, CODERS[coding](encoded(batch([1, 2]))) + garbage, coding)

    assert answer.status_code == 400
    assert_nothing_came_of_it(limited, slug)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_a_flipped_bit_in_compression_is_refused(limited: Stand, coding: str) -> None:
    content = bytearray(CODERS[coding](encoded(batch([1, 2]))))
    content[-3] ^= 1

    answer = send_encoded(limited.service, f"flipped-{coding}", bytes(content), coding)

    assert answer.status_code == 400
    assert_nothing_came_of_it(limited, f"flipped-{coding}")


@pytest.mark.parametrize(
    ("encoding", "status"), [("gzip, gzip, gzip", 201), ("identity, gzip", 201), ("gzip, gzip, gzip, gzip", 415)]
)
def test_nested_encodings_are_read_to_a_limit(limited: Stand, encoding: str, status: int) -> None:
    content = encoded(batch([1]))
    for _ in range(encoding.count("gzip")):
        content = gzip.compress(content)

    answer = send_encoded(limited.service, f"nested-{status}-{encoding[0]}", content, encoding)

    assert answer.status_code == status


def test_an_encoding_that_is_not_read_is_refused_naming_those_that_are(limited: Stand) -> None:
    answer = send_encoded(limited.service, "brotli", encoded(batch([1])), "br")

    assert answer.status_code == 415
    assert "gzip, deflate, zstd" in answer.json()["message"]
    assert_nothing_came_of_it(limited, "brotli")


# Clients that stall


@pytest.fixture(scope="module")
def patient(
    make_service: Callable[..., Service], postgres_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stand]:
    """A stand with two threads that waits half a second for a client."""
    root = tmp_path_factory.mktemp("patient") / "storage"
    settings = {"TIMESTORE_HTTP_IDLE_TIMEOUT_MS": "500", "TIMESTORE_HTTP_THREADS": "2"}
    stand = make_stand(make_service, postgres_url, root, **settings)
    stand.service.start()
    yield stand
    stand.service.kill()


STALLS = {
    "in-the-body": head("stalled", "Content-Length: 1000") + b'{"schema',
    "before-the-body": head("stalled", "Content-Length: 1000"),
    "in-a-chunk": head("stalled", "Transfer-Encoding: chunked") + b"ff\r\nabc",
    "before-the-last-chunk": head("stalled", "Transfer-Encoding: chunked") + chunked(encoded(batch([1]))),
    "in-the-head": b"POST /datasets/stalled/ingest HT",
}


@pytest.mark.parametrize("where", STALLS)
def test_clients_that_stall_do_not_keep_the_others_waiting(patient: Stand, where: str) -> None:
    stalled = [socket.create_connection(("127.0.0.1", patient.service.port), timeout=60) for _ in range(4)]
    for one in stalled:
        one.sendall(STALLS[where])

    created = patient.service.ingest(f"beside-{where}", batch([1]))

    assert created.status_code == 201
    for one in stalled:
        with one:
            assert read_answer(one)[0] in (400, None)
    assert patient.service.query("stalled", {"timeRange": ALL_TIME}).status_code == 404


def test_clients_that_never_read_their_answers_do_not_keep_the_others_waiting(patient: Stand) -> None:
    rows = 60_000
    assert patient.service.ingest("long", batch(list(range(rows)))).status_code == 201
    question = encoded({"timeRange": ALL_TIME})
    request = b"POST /datasets/long/query HTTP/1.1\r\nHost: t\r\nContent-Length: %d\r\n\r\n" % len(question)
    with ExitStack() as stalled:
        for _ in range(4):
            one = stalled.enter_context(socket.socket())
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            one.connect(("127.0.0.1", patient.service.port))
            one.sendall(request + question)

        # They may be refused while those are made, and are not once these wait for their readers.
        wait_until(
            lambda: patient.service.query("long", {"timeRange": ALL_TIME, "limit": 1}).status_code == 200, "a turn", 20
        )
        assert numbers_of(patient.service, "long") == list(range(rows))


def test_connections_that_send_nothing_hold_no_thread(patient: Stand) -> None:
    with ExitStack() as silent:
        for _ in range(16):
            silent.enter_context(socket.create_connection(("127.0.0.1", patient.service.port), timeout=60))

        # Held one after the other, two threads are busy with them for 40 seconds.
        assert httpx.get(f"{patient.service.base}/health", timeout=6).status_code == 200


def test_refused_clients_that_do_not_close_their_connections_hold_nobody_up(patient: Stand) -> None:
    with ExitStack() as refused:
        clients = [
            refused.enter_context(socket.create_connection(("127.0.0.1", patient.service.port), timeout=60))
            for _ in range(20)
        ]
        for one in clients:
            one.sendall(STALLS["in-the-body"])
        for one in clients:
            assert one.recv(12) == b"HTTP/1.1 400"

        # Waited for one after the other, the main loop is busy with them for 40 seconds.
        assert httpx.get(f"{patient.service.base}/health", timeout=6).status_code == 200
