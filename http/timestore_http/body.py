"""Reading a request's body: whole or refused, inflated within a limit."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import falcon
from gunicorn.http.errors import ParseException

from timestore_core.errors import InvalidRequest, TooLarge, UnsupportedMedia

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_CHUNK_BYTES = 256 * 1024
_MAX_CODINGS = 3
_MAX_MEMBERS = 10_000
# A zstd frame that asks for a window of more than 2^27 bytes is refused, whatever the limit on the body.
_ZSTD_WINDOW_LOG = 27


def read_body(req: falcon.Request, max_bytes: int, limit_name: str) -> bytes:
    """The complete body, decoded from its Content-Encoding.

    Raises InvalidRequest when fewer bytes came than were announced, TooLarge naming the limit before more than
    it was read or inflated, and UnsupportedMedia for an encoding that is not gzip, deflate or zstd.
    """
    limit = _Limit(max_bytes, limit_name)
    pieces = limit.counted(_received(req, limit))
    codings = [part.strip().lower() for part in (req.get_header("Content-Encoding") or "").split(",")]
    codings = [part for part in codings if part not in ("", "identity")]
    if len(codings) > _MAX_CODINGS:
        raise UnsupportedMedia(f"Content-Encoding: has more than {_MAX_CODINGS} codings")
    for coding in reversed(codings):
        if coding not in _INFLATERS:
            raise UnsupportedMedia(f"Content-Encoding: {coding[:40]!r} is not read; send gzip, deflate, zstd or none")
        pieces = limit.counted(_inflated(pieces, coding))
    return b"".join(pieces)


class _Limit:
    """Counts the bytes of each stage; one too many is an error that names the setting."""

    def __init__(self, max_bytes: int, name: str) -> None:
        self.max_bytes = max_bytes
        self._name = name

    def counted(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        total = 0
        for piece in pieces:
            total += len(piece)
            if total > self.max_bytes:
                raise self.error()
            yield piece

    def error(self) -> TooLarge:
        return TooLarge(
            f"body: is larger than {self.max_bytes} bytes ({self._name}); send it in smaller parts",
            code="body_too_large",
        )


def _received(req: falcon.Request, limit: _Limit) -> Iterator[bytes]:
    """What the client sent, compared with what it announced: a half-closed upload is not a short body.

    Chunked bodies are read to their last chunk, from the raw stream: Falcon's bounded one sees nothing of them.
    """
    announced = _announced(req)
    if announced is not None and announced > limit.max_bytes:
        raise limit.error()
    received = 0
    while announced is None or received < announced:
        try:
            piece = req.stream.read(_CHUNK_BYTES if announced is None else min(_CHUNK_BYTES, announced - received))
        except BlockingIOError:
            raise InvalidRequest.at("body", "stopped coming; the connection was idle for too long") from None
        except (OSError, ParseException):
            raise InvalidRequest.at("body", "the connection ended before the whole body came") from None
        if not piece:
            break
        received += len(piece)
        yield piece
    if announced is not None and received < announced:
        raise InvalidRequest.at("body", f"has {received} of the {announced} bytes that Content-Length announced")


def _announced(req: falcon.Request) -> int | None:
    """The length that the client announced, or None for a chunked body."""
    if "chunked" in (req.get_header("Transfer-Encoding") or "").lower():
        return None
    try:
        return req.content_length or 0
    except falcon.HTTPInvalidHeader:
        raise InvalidRequest.at("content-length", "must be a number of bytes") from None


class _Inflater(Protocol):
    """One compressed member, inflated piece by piece (the interface of the standard library's bz2 and zstd)."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Zlib:
    """zlib's object behind that interface."""

    def __init__(self, window_bits: int) -> None:
        self._inner = zlib.decompressobj(window_bits)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return not self._inner.eof and not self._inner.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, max_length)


_INFLATERS: dict[str, Callable[[], _Inflater]] = {
    "gzip": lambda: _Zlib(zlib.MAX_WBITS | 16),
    "x-gzip": lambda: _Zlib(zlib.MAX_WBITS | 16),
    "deflate": lambda: _Zlib(zlib.MAX_WBITS),
    "zstd": lambda: zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG}),
}


def _inflated(pieces: Iterable[bytes], coding: str) -> Iterator[bytes]:
    """The inflated bytes in pieces of bounded size; members that follow one another are one body."""
    inflater, members = _INFLATERS[coding](), 0
    begun = False
    try:
        for piece in pieces:
            data = piece
            while data or (begun and not inflater.needs_input):
                begun = True
                yield inflater.decompress(data, _CHUNK_BYTES)
                data = b""
                if inflater.eof:
                    data, inflater, begun = inflater.unused_data, _INFLATERS[coding](), False
                    members += 1
                    if members > _MAX_MEMBERS:
                        raise InvalidRequest.at("body", f"has more than {_MAX_MEMBERS} {coding} members")
    except (zlib.error, zstd.ZstdError) as error:
        raise InvalidRequest.at("body", f"is not valid {coding}: {error}") from None
    if begun:
        raise InvalidRequest.at("body", f"ends in the middle of its {coding} data")
