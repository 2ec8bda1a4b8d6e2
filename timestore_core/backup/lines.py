"""Files of many lines, one JSON value each, zstd: written and read as a stream, however many there are."""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import msgspec

from timestore_core.backup.documents import Part
from timestore_core.backup.problems import DamagedError
from timestore_core.partitions.checksum import sha1_of
from timestore_core.partitions.duckdb_file import sync_file

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

T = TypeVar("T")

_LEVEL = 3
_BUFFER_BYTES = 1024 * 1024
# Far below the age at which a sweep takes a temporary file for a dead process's.
_TOUCH_EVERY_S = 60.0


class LinesWriter:
    """Writes lines into a new local file. `finish` makes it durable; used as a context it is closed in any case."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines = 0
        self._encoder = msgspec.json.Encoder()
        self._touched_s = time.monotonic()
        self._file = zstd.open(path, "wb", level=_LEVEL)
        self._buffer = io.BufferedWriter(self._file, _BUFFER_BYTES)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def add(self, line: msgspec.Struct) -> None:
        """Write one more line."""
        self._buffer.write(self._encoder.encode(line) + b"\n")
        self._lines += 1
        if time.monotonic() - self._touched_s > _TOUCH_EVERY_S:
            # Lines may come slowly, and the compressor holds back what it has not filled a block with.
            os.utime(self.path)
            self._touched_s = time.monotonic()

    def finish(self) -> Part:
        """The finished file's lines, size and checksum."""
        self._close()
        sync_file(self.path)
        return Part(self._lines, self.path.stat().st_size, sha1_of(self.path))

    def _close(self) -> None:
        if not self._buffer.closed:
            self._buffer.close()
            self._file.close()


def read_lines(path: Path, kind: type[T], name: str) -> Iterator[T]:
    """The file's lines, of one kind, in order. Raises DamagedError, by that name, where one cannot be read."""
    if path.stat().st_size == 0:
        # The compressor writes nothing at all where it was given nothing.
        return
    decoder = msgspec.json.Decoder(kind)
    with zstd.open(path, "rb") as file, io.BufferedReader(file, _BUFFER_BYTES) as buffered:
        try:
            for line in buffered:
                yield decoder.decode(line)
        except (zstd.ZstdError, EOFError, msgspec.MsgspecError) as error:
            raise DamagedError(f"{name} cannot be read: {error}") from error
