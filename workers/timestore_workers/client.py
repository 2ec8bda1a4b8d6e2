"""The service's public HTTP API, for programs on the other side of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx
import msgspec
import stamina
from stamina.instrumentation import RetryDetails, get_on_retry_hooks, set_on_retry_hooks

from timestore_core.errors import TimestoreError

RETRIED_STATUSES = (429, 503)
MAX_WAIT_S = 30.0
MAX_DETAILS = 20
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class ClientError(TimestoreError):
    """The service refused, or could not be reached.

    The text is the service's message and a line for each entry of its `details`. `status` is None when there
    was no answer; `retry_after_s` is what the answer asked for.
    """

    default_code = "client"

    def __init__(self, message: str, *, status: int | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class IngestAnswer:
    """What became of a batch: published as `version`, or queued (then None); `replayed`: it was in before."""

    replayed: bool
    queued: bool
    version: int | None


class Client:
    """Sends batches and queries, again when the service is away or busy.

    Trying again is safe: a query changes nothing, and every batch carries its idempotency key.
    `attempts` counts the first one. Raises ClientError for everything that goes wrong.
    """

    def __init__(
        self, url: str, *, user: str | None = None, scopes: str | None = None, timeout_s: float, attempts: int
    ) -> None:
        named = {"x-iam-user": user, "x-iam-scopes": scopes}
        headers = {name: value for name, value in named.items() if value}
        self._url = url.rstrip("/")
        self._attempts = attempts
        try:
            # A proxy that the environment names cannot reach this machine's own loopback.
            address = httpx.URL(url)
            through_proxy = address.host not in LOOPBACK
            if address.scheme not in ("http", "https") or not address.host:
                raise ValueError("it must begin with http:// or https://")
            self._http = httpx.Client(
                headers=httpx.Headers(headers, encoding="utf-8"),
                timeout=httpx.Timeout(timeout_s, connect=min(5.0, timeout_s)),
                trust_env=through_proxy,
            )
        except (httpx.InvalidURL, ValueError) as error:
            raise ClientError(f"{url}: is not an address such as http://127.0.0.1:4100: {error}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def ingest(self, slug: str, body: bytes) -> IngestAnswer:
        """Sends one batch: the JSON of the contract's ingest body."""
        response = self._post(slug, "ingest", body)
        answer = _json(response)
        manifest = answer.get("manifest") or {}
        return IngestAnswer(
            replayed=response.headers.get("idempotent-replayed", "").lower() == "true",
            queued=answer.get("mode") == "queued",
            version=manifest.get("version"),
        )

    def query(self, slug: str, body: Mapping[str, Any]) -> bytes:
        """The JSON of the answer, exactly as the service wrote it."""
        response = self._post(slug, "query", msgspec.json.encode(body))
        if not response.content.startswith(b"{"):
            raise _not_json(response)
        return response.content

    def _post(self, slug: str, action: str, body: bytes) -> httpx.Response:
        url = f"{self._url}/datasets/{quote(slug, safe='')}/{action}"
        try:
            for attempt in stamina.retry_context(
                on=_worth_another_try,
                attempts=self._attempts,
                timeout=None,
                wait_initial=0.25,
                wait_max=MAX_WAIT_S,
                wait_jitter=0.25,
            ):
                with attempt:
                    response = self._http.post(
                        url, content=body, headers={"content-type": "application/json; charset=utf-8"}
                    )
                    if not response.is_success:
                        raise _refusal(response)
        except httpx.TransportError as error:
            raise ClientError(
                f"{self._url} cannot be reached: {_reason(error)}. Is the service running, and is it there (--url)?"
            ) from None
        return response


@contextmanager
def retries_told(tell: Callable[[str], None]) -> Iterator[None]:
    """While it lasts, each wait before another attempt is told as a sentence instead of logged."""

    def told(details: RetryDetails) -> None:
        error = details.caused_by
        reason = error.message.splitlines()[0] if isinstance(error, ClientError) else _reason(error)
        tell(f"{reason}; trying again in {details.wait_for:.1f} s")

    before = get_on_retry_hooks()
    set_on_retry_hooks((told,))
    try:
        yield
    finally:
        set_on_retry_hooks(before)


def _worth_another_try(error: Exception) -> bool | float:
    """Whether, or after how many seconds."""
    if isinstance(error, ClientError):
        if error.status not in RETRIED_STATUSES:
            return False
        return True if error.retry_after_s is None else min(error.retry_after_s, MAX_WAIT_S)
    return isinstance(error, httpx.TransportError) and not isinstance(error, httpx.LocalProtocolError)


def _refusal(response: httpx.Response) -> ClientError:
    try:
        answer = response.json()
        lines = [f"{answer['message']} ({response.status_code})", *_detail_lines(answer.get("details"))]
    except (ValueError, TypeError, KeyError):
        shown = response.text.strip()[:200]
        lines = [f"{response.url} answered {response.status_code} {response.reason_phrase}: {shown}"]
    return ClientError("\n".join(lines), status=response.status_code, retry_after_s=_retry_after_s(response))


def _detail_lines(details: Any) -> Iterator[str]:
    if isinstance(details, Mapping):
        details = [{"path": name, "message": value} for name, value in details.items()]
    for number, detail in enumerate(details or []):
        if number == MAX_DETAILS:
            yield f"  … and {len(details) - number} more"
            return
        fault = isinstance(detail, Mapping) and "message" in detail
        yield f"  {detail.get('path', '')}: {detail['message']}" if fault else f"  {detail}"


def _retry_after_s(response: httpx.Response) -> float | None:
    """Seconds, given as such or as a date; None when there is no such header or it makes no sense."""
    text = response.headers.get("retry-after", "")
    try:
        if text.isdigit():
            return float(text)
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None


def _json(response: httpx.Response) -> dict[str, Any]:
    try:
        answer = msgspec.json.decode(response.content)
    except (msgspec.DecodeError, UnicodeDecodeError):
        answer = None
    if not isinstance(answer, dict):
        raise _not_json(response)
    return answer


def _not_json(response: httpx.Response) -> ClientError:
    return ClientError(f"{response.url} answered {response.status_code} without JSON: is it a Timestore?")


def _reason(error: BaseException) -> str:
    if isinstance(error, httpx.TimeoutException):
        return f"no answer in time ({type(error).__name__})"
    return str(error) or type(error).__name__
