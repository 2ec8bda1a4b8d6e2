"""Compressing what is sent, piece by piece."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

# Fast ones: what leaves is mostly read once, on the way to a client that waits.
_GZIP_LEVEL = 1
_ZSTD_LEVEL = 1
_PIECE_BYTES = 1 << 20


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


_COMPRESSORS: dict[str, Callable[[], _Compressor]] = {
    "gzip": lambda: zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, zlib.MAX_WBITS | 16),
    "zstd": lambda: zstd.ZstdCompressor(level=_ZSTD_LEVEL),
}


def compressed(pieces: Iterable[bytes], coding: str) -> Iterator[bytes]:
    """The pieces as one gzip member or zstd frame."""
    compressor = _COMPRESSORS[coding]()
    for piece in pieces:
        for at in range(0, len(piece), _PIECE_BYTES):
            yield compressor.compress(piece[at : at + _PIECE_BYTES])
    yield compressor.flush()
