"""What a store's failure means: an OSError that repeats nothing that came, and whether trying again can help."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

_TOO_BUSY = frozenset({408, 409, 425, 429})
# Said with 400 or 403, and yet the same request may do better.
_PASSING_CODES = frozenset({"IncompleteBody", "RequestTimeout", "SlowDown", "XAmzContentSHA256Mismatch"})
# No answer of a store at all, and the same each time.
_LASTING_CODES = frozenset(
    {
        "CertificateError",
        "ClientConnectorCertificateError",
        "ClientConnectorSSLError",
        "NoCredentialsError",
        "ParamValidationError",
        "PartialCredentialsError",
        # How botocore ends when each region sends it to another one.
        "RecursionError",
        "SSLError",
    }
)


class RemoteError(OSError):
    """A store that failed; `transient` ones are worth another try.

    `code` is the kind of failure: a class, or a code of the store or of the system. `status` is that of HTTP.
    """

    def __init__(self, message: str, *, transient: bool, code: str | None = None, status: int | None = None) -> None:
        super().__init__(errno.EIO, message)
        self.transient = transient
        self.code = code
        self.status = status


def is_transient(error: Exception) -> bool:
    return isinstance(error, RemoteError) and error.transient


@contextmanager
def explained(kind: str, what: str) -> Iterator[None]:
    """Turn whatever the libraries raise into an OSError that says what failed and repeats nothing that came.

    FileNotFoundError, FileExistsError and, for reads, a full disk of this host stay what they are.
    """
    try:
        yield
    except RemoteError:
        raise
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, f"{kind}: there is no such file or bucket") from None
    except FileExistsError:
        raise FileExistsError(errno.EEXIST, f"{kind}: there is such a file already") from None
    except TimeoutError as error:
        raise RemoteError(f"{kind}: did not answer in time to {what}", transient=True, code="TimeoutError") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT) and what == "read":
            raise
        if isinstance(error.__cause__, ImportError):
            # The text is our own, and says which package.
            raise RemoteError(f"{kind}: {error}", transient=False, code="ImportError") from error
        raise _failed(kind, what, error) from error
    except Exception as error:
        raise _failed(kind, what, error) from error


def is_not_understood(error: RemoteError) -> bool:
    """Whether this is how a store answers to a condition that it does not know."""
    return error.status == 501 or (error.status == 400 and error.code not in _PASSING_CODES)


def _failed(kind: str, what: str, error: Exception) -> OSError:
    code, status = _code(error), _status(error)
    if status == 412:
        return FileExistsError(errno.EEXIST, f"{kind}: there is such a file already")
    if isinstance(error, PermissionError) or status == 403:
        return RemoteError(f"{kind}: no permission to {what} ({code})", transient=False, code=code, status=status)
    transient = code in _PASSING_CODES or (code not in _LASTING_CODES and _may_pass(status))
    return RemoteError(f"{kind}: cannot {what} ({code})", transient=transient, code=code, status=status)


def _may_pass(status: int | None) -> bool:
    return status is None or status < 300 or status in _TOO_BUSY or (status >= 500 and status != 501)


def _chain(error: BaseException) -> Iterator[BaseException]:
    yield from (one for one in (error, error.__cause__, error.__context__) if one is not None)


def _status(error: BaseException) -> int | None:
    for one in _chain(error):
        response = getattr(one, "response", None)
        found = response.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(response, dict) else None
        status = found if isinstance(found, int) else _status_of(one)
        if status is not None:
            return status
    # gcsfs gives an answer of 403 no status.
    return 403 if str(error).startswith("Forbidden: ") else None


def _status_of(error: BaseException) -> int | None:
    """The store's, as azure's and gcsfs's errors have it. aiohttp's say 400 for an answer that was cut short."""
    status = getattr(error, "status_code", None)
    if status is None and type(error).__name__ == "HttpError":
        status = getattr(error, "code", None)
    return status if isinstance(status, int) else None


def _code(error: BaseException) -> str:
    """What kind of failure it was: a class, a code of the store or of the system, never its text."""
    for one in _chain(error):
        response = getattr(one, "response", None)
        if isinstance(response, dict):
            code = response.get("Error", {}).get("Code")
            if isinstance(code, str) and code.isalnum():
                return code
        status = _status_of(one)
        if status is not None:
            return f"HTTP {status}"
    number = getattr(error, "errno", None)
    return os.strerror(number) if isinstance(number, int) and number else type(error).__name__
