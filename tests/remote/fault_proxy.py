"""An HTTP proxy in front of an S3: it checks who asks, counts what is asked, and spoils answers when told to."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import parse_qsl, quote, urlsplit

Operation = Literal["GET", "PUT", "HEAD", "DELETE", "LIST", "POST"]
Kind = Literal[
    "500",
    "503",
    "slow",
    "cut",
    "reset",
    "altered",
    "lagging",
    "longer",
    "swallowed",
    "forgotten",
    "501*",
    "400*",
    "200*",
]

_PAUSE_S, _PIECES = 0.15, 8
_NOT_FORWARDED = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length", "server", "date"})


@dataclass(frozen=True)
class Key:
    """An access key: who has it may use its buckets."""

    id: str
    secret: str
    buckets: frozenset[str]


@dataclass
class Fault:
    """What happens to these operations on paths with this text in them, the next `times` or until it is mended.

    `swallowed`: the store does it and its answer never comes. `forgotten`: the store answers and has done nothing.
    `longer`: what comes never ends. With a `*`: what a store answers that knows no conditions; 200, it overwrites.
    """

    kind: Kind
    operations: frozenset[Operation]
    within: str = ""
    times: int | None = None
    struck: int = 0


class FaultProxy(ThreadingHTTPServer):
    """Forwards what is signed with a known key to the store."""

    daemon_threads = True

    def __init__(self, store: tuple[str, int], keys: dict[str, Key]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.store = store
        self.keys = keys
        self.asked: Counter[tuple[str, Operation]] = Counter()
        self.refused = 0
        self.is_gone = False
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        threading.Thread(target=self.serve_forever, args=[0.05], daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def go(self) -> None:
        """Refuse every connection from now on, and end those that there are."""
        self.is_gone = True
        self.shutdown()
        self.server_close()

    @contextmanager
    def fault(self, kind: Kind, *operations: Operation, within: str = "", times: int | None = None) -> Iterator[Fault]:
        """The fault, for the time of the block."""
        one = Fault(kind, frozenset(operations), within, times)
        with self._lock:
            self._faults.append(one)
        try:
            yield one
        finally:
            with self._lock:
                self._faults.remove(one)

    def requests(self, operation: Operation, bucket: str) -> int:
        with self._lock:
            return self.asked[bucket, operation]

    def strike(self, operation: Operation, path: str) -> Kind | None:
        """What happens to this request."""
        with self._lock:
            for one in self._faults:
                fits = operation in one.operations and one.within in path
                if fits and (one.times is None or one.struck < one.times):
                    one.struck += 1
                    return one.kind
        return None

    def note(self, bucket: str, operation: Operation) -> None:
        with self._lock:
            self.asked[bucket, operation] += 1

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that go away are no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultProxy

    def do_GET(self) -> None:
        self._serve()

    do_PUT = do_HEAD = do_DELETE = do_POST = do_GET  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: tests read counters."""

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.server.is_gone:
            self._reset()
            return
        parts = urlsplit(self.path)
        bucket = parts.path.split("/")[1]
        operation = self._operation(parts.path, parts.query)
        self.server.note(bucket, operation)
        key = self.server.keys.get(self._credential())
        if key is None or bucket not in key.buckets or not self._is_signed(key):
            self.server.refused += 1
            # Stores may repeat what they were sent; so does this one, and what it should have been sent besides.
            secrets = " ".join(f"{one.id} {one.secret}" for one in self.server.keys.values())
            self._answer(403, {}, _error("SignatureDoesNotMatch", f"{self.headers.get('authorization')} {secrets}"))
            return
        kind = self.server.strike(operation, f"{parts.path}?{parts.query}")
        if kind in ("500", "503"):
            self._answer(int(kind), {}, _error("InternalError" if kind == "500" else "SlowDown", "a fault"))
        elif kind in ("501*", "400*") and "if-none-match" in self.headers:
            code = "NotImplemented" if kind == "501*" else "InvalidArgument"
            self._answer(int(kind[:3]), {}, _error(code, "If-None-Match"))
        elif kind == "forgotten":
            self._answer(200, {"ETag": f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'}, b"")
        elif kind == "reset" and operation == "PUT":
            self._reset()
        else:
            self._pass_on(body, kind)

    def _pass_on(self, body: bytes, kind: Kind | None) -> None:
        upstream = http.client.HTTPConnection(*self.server.store, timeout=60)
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                left_out = ("connection", "expect") + (("if-none-match",) if kind == "200*" else ())
                if name.lower() not in left_out:
                    upstream.putheader(name, value)
            upstream.endheaders(body)
            found = upstream.getresponse()
            content = found.read()
            headers = {name: value for name, value in found.getheaders() if name.lower() not in _NOT_FORWARDED}
            if self.command == "HEAD":
                headers["Content-Length"] = found.getheader("content-length") or "0"
        finally:
            upstream.close()
        if kind == "swallowed":
            self._reset()
            return
        if kind == "lagging":
            content = re.sub(rb"<Contents>.*?</Contents>", b"", content, flags=re.DOTALL)
        if kind == "altered" and content:
            half = len(content) // 2
            content = content[:half] + bytes([content[half] ^ 0xFF]) + content[half + 1 :]
        self._answer(found.status, headers, content, kind)

    def _answer(self, status: int, headers: Mapping[str, str], content: bytes, kind: Kind | None = None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if kind == "longer":
            self._never_end(content)
            return
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "HEAD":
            return
        half = content[: len(content) // 2]
        with suppress(ConnectionError):
            if kind == "cut":
                self.wfile.write(half)
                self.close_connection = True
            elif kind == "reset":
                self.wfile.write(half)
                self._reset()
            elif kind == "slow":
                size = len(content) // _PIECES + 1
                for start in range(0, len(content), size):
                    self.wfile.write(content[start : start + size])
                    time.sleep(_PAUSE_S)
            else:
                self.wfile.write(content)

    def _never_end(self, content: bytes) -> None:
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.close_connection = True
        with suppress(OSError):
            while True:
                self.wfile.write(b"%x\r\n%b\r\n" % (len(content), content))

    def _reset(self) -> None:
        """End the connection as a host does that forgot it."""
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        # Also closed by the file objects on top of it: only the last close sends the reset.
        self.wfile.close()
        self.rfile.close()
        self.connection.close()

    def _operation(self, path: str, query: str) -> Operation:
        is_bucket = path.strip("/").count("/") == 0
        listed = self.command == "GET" and (is_bucket or "list-type" in query)
        return "LIST" if listed else self.command  # type: ignore[return-value]

    def _credential(self) -> str:
        found = re.search(r"Credential=([^/]+)/", self.headers.get("authorization") or "")
        return found[1] if found else ""

    def _is_signed(self, key: Key) -> bool:
        """Whether the request is signed with the key's secret, as AWS describes its signature version 4."""
        given = dict(re.findall(r"(Credential|SignedHeaders|Signature)=([^,\s]+)", self.headers["authorization"]))
        names = given["SignedHeaders"].split(";")
        parts = urlsplit(self.path)
        asked = sorted(
            (quote(name, safe="-_.~"), quote(value, safe="-_.~"))
            for name, value in parse_qsl(parts.query, keep_blank_values=True)
        )
        canonical = "\n".join(
            [
                self.command,
                parts.path,
                "&".join(f"{name}={value}" for name, value in asked),
                *(f"{name}:{' '.join((self.headers[name] or '').split())}" for name in names),
                "",
                given["SignedHeaders"],
                self.headers["x-amz-content-sha256"],
            ]
        )
        _, scope = given["Credential"].split("/", 1)
        signed = "\n".join(
            ["AWS4-HMAC-SHA256", self.headers["x-amz-date"], scope, hashlib.sha256(canonical.encode()).hexdigest()]
        )
        derived = f"AWS4{key.secret}".encode()
        for part in (*scope.split("/"), signed):
            derived = hmac.digest(derived, part.encode(), "sha256")
        return hmac.compare_digest(derived.hex(), str(given["Signature"]))


def _error(code: str, message: str) -> bytes:
    return f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'.encode()
