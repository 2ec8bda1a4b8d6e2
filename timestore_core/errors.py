"""What can go wrong, as one small tree. The HTTP layer maps it to answers in one place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault in what a client sent: where it is (`rows[17].temperature_c`) and what is wrong there."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class TimestoreError(Exception):
    """Root of the tree.

    `code` is a stable name for programs, `message` a sentence for people: what was wrong, where, and what
    would be right. `details` must be JSON-serializable and never holds a secret or the client's raw input.
    """

    default_code = "error"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        details: Sequence[Mapping[str, Any]] | Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.details = details


class InvalidRequest(TimestoreError):
    """The request is malformed; `details` lists each fault with its path."""

    default_code = "invalid_request"

    @classmethod
    def of(cls, problems: Sequence[Problem]) -> InvalidRequest:
        """One error for all the faults found; its message is the first, and says how many more there are."""
        more = f" (and {len(problems) - 1} more, see details)" if len(problems) > 1 else ""
        return cls(
            f"{problems[0]}{more}",
            details=[{"path": problem.path, "message": problem.message} for problem in problems],
        )

    @classmethod
    def at(cls, path: str, message: str) -> InvalidRequest:
        """An error with a single fault."""
        return cls.of([Problem(path, message)])


class Unauthenticated(TimestoreError):
    """Credentials are missing or bad."""

    default_code = "unauthenticated"


class Forbidden(TimestoreError):
    """Who asks is known and may not."""

    default_code = "forbidden"


class NotFound(TimestoreError):
    """The thing named does not exist."""

    default_code = "not_found"


class Conflict(TimestoreError):
    """The request contradicts what is stored: a reused idempotency key, an incompatible schema."""

    default_code = "conflict"


class Gone(TimestoreError):
    """The thing was there, and its time is over: an earlier version whose files are deleted."""

    default_code = "gone"


class PreconditionFailed(TimestoreError):
    """The thing was changed since the client read it (`If-Match`)."""

    default_code = "precondition_failed"


class TooLarge(TimestoreError):
    """A limit was exceeded; the message names the limit, its value and how to stay below it."""

    default_code = "too_large"


class NotAcceptable(TimestoreError):
    """Nothing that the client accepts can be sent; `details` lists what can."""

    default_code = "not_acceptable"


class UnsupportedMedia(TimestoreError):
    """The body is in a type or an encoding that this route does not read."""

    default_code = "unsupported_media"


class QueryTimeout(TimestoreError):
    """The query ran longer than its time limit and was interrupted."""

    default_code = "query_timeout"


class QueryCancelled(TimestoreError):
    """The client went away; nobody reads this answer."""

    default_code = "query_cancelled"


class Unavailable(TimestoreError):
    """A dependency is away for now; the same request may succeed after `retry_after_s` seconds."""

    default_code = "unavailable"

    def __init__(self, message: str, *, retry_after_s: int = 1, **rest: Any) -> None:
        super().__init__(message, **rest)
        self.retry_after_s = retry_after_s


class TooManyRequests(Unavailable):
    """More work waits than may wait; the same request may be taken after `retry_after_s` seconds."""

    default_code = "too_many_requests"


class InsufficientStorage(TimestoreError):
    """A disk is full; nothing was published."""

    default_code = "insufficient_storage"


class PartitionUnreadable(TimestoreError):
    """A partition's file is missing, short or damaged; the query needs it, so it gets no answer at all."""

    default_code = "partition_unreadable"


class ConfigurationError(TimestoreError):
    """The service cannot start, or lacks a part, as it is configured."""

    default_code = "configuration"
