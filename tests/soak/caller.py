"""Requests of one moving part: lost answers are weather, a failing service is a problem."""

from __future__ import annotations

import socket
import time
from collections.abc import Collection, Mapping
from types import TracebackType
from typing import Any
from urllib.parse import quote

import httpx

from tests.soak.watch import Watch, log

_TIMEOUT_S = 120.0
_PAUSE_S = 0.1


class Caller:
    """A client with a connection of its own."""

    def __init__(self, base: str, watch: Watch) -> None:
        self.watch = watch
        self._base = base
        self._client = httpx.Client(base_url=base, timeout=httpx.Timeout(_TIMEOUT_S, connect=5))

    def __enter__(self) -> Caller:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._client.close()

    def send(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        expected: Collection[int] = (200,),
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response | None:
        """The answer, or None where it was lost or the service had to refuse. Any other status is a problem."""
        try:
            answer = self._client.request(method, path, json=body, headers=headers)
        except httpx.ReadTimeout:
            self.watch.problem(f"{method} {path} {body!r:.300} was not answered within {_TIMEOUT_S} s")
            return None
        except httpx.TransportError:
            self.watch.count("answers lost")
            time.sleep(_PAUSE_S)
            return None
        if answer.status_code in expected:
            return answer
        # The catalog or a connection may be out of reach for a moment; a file never is.
        if answer.status_code == 503 and "storage" not in answer.text:
            self.watch.count("answers 503")
            log.info("503 from %s %s: %s", method, path, answer.text[:300])
            time.sleep(_PAUSE_S)
            return None
        self.watch.problem(f"{method} {path} {body!r:.500} was answered {answer.status_code}: {answer.text[:500]}")
        return None

    def begin(self, path: str, body: bytes, headers: Mapping[str, str], share: float, wait_s: float) -> None:
        """Send this share of a request and go away without waiting for the answer."""
        host, _, port = self._base.removeprefix("http://").partition(":")
        head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        head += f"Content-Length: {len(body)}\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        request = f"{head}\r\n".encode() + body
        try:
            with socket.create_connection((host, int(port)), timeout=5) as connection:
                connection.sendall(request[: max(1, int(len(request) * share))])
                time.sleep(wait_s)
        except OSError:
            self.watch.count("answers lost")


def dataset_path(slug: str, rest: str) -> str:
    """`/datasets/<slug>/<rest>`, or that of the administration."""
    return f"/datasets/{quote(slug, safe='')}/{rest}"


def admin_path(slug: str, rest: str) -> str:
    return f"/admin{dataset_path(slug, rest)}"
