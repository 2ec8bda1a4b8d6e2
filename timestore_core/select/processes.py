"""The processes in which SELECTs run, from the service's side: started when needed, kept while they are well."""

from __future__ import annotations

import os
import queue
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import duckdb
import msgspec
import pyarrow as pa
import structlog

from timestore_core.errors import InvalidRequest, QueryCancelled, QueryTimeout, TooLarge, Unavailable
from timestore_core.settings import Settings

log = structlog.get_logger(__name__)

_START_S = 60.0
_LOOK_S = 0.05
_READ_BYTES = 1 << 20
# After so many statements a process is replaced: what the allocator has gathered goes with it.
_MAX_STATEMENTS = 500


class EndedError(Exception):
    """The process is gone, or has to go."""


class Process:
    """One process, for one statement at a time."""

    def __init__(self, settings: Settings) -> None:
        self.statements = 0
        self._max_frame_bytes = settings.query_max_answer_bytes
        self._timeout_ms = settings.query_timeout_ms
        self._left_s = 0.0
        self._is_gone: Callable[[], bool] | None = None
        self._buffer = bytearray()
        self._asked = 0
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-m", "timestore_core.select.child", str(settings.query_memory_bytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin, self._process.stdout
        # Not `select`, which takes no descriptors beyond 1024.
        self._poll = select.poll()
        self._poll.register(self._out, select.POLLIN)
        self._left_s, self._asked = _START_S, 1
        try:
            self._outcome(self._frame())
        except (EndedError, QueryTimeout) as error:
            self.kill()
            raise Unavailable("no process for SQL statements can be started") from error

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    @property
    def is_idle(self) -> bool:
        """Whether everything that was asked has been answered."""
        return self._asked == 0 and self.is_alive

    def begin(self, is_gone: Callable[[], bool] | None) -> None:
        """The time limit starts; it counts only what the process takes, not what its reader does."""
        self.statements += 1
        self._left_s = self._timeout_ms / 1000
        self._is_gone = is_gone

    def ask(self, do: str, **what: Any) -> Any:
        """The answer to a request that gives no rows. Raises as `rows` does."""
        self._send(do, what)
        return self._outcome(self._frame())

    def rows(self, sql: str) -> Iterator[pa.RecordBatch]:
        """The statement's rows.

        Raises the engine's own errors, QueryTimeout, QueryCancelled, TooLarge for a batch beyond the limit, and
        EndedError where the process did not survive the statement.
        """
        self._send("fetch", {"sql": sql})
        schema: pa.Schema | None = None
        while True:
            frame = self._frame()
            match frame[:1]:
                case b"s":
                    schema = pa.ipc.read_schema(pa.py_buffer(frame[1:]))
                case b"b":
                    yield pa.ipc.read_record_batch(pa.py_buffer(frame[1:]), schema)
                case _:
                    self._outcome(frame)
                    return

    def kill(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.wait()
        with suppress(OSError):
            self._in.close()
        self._out.close()

    def _send(self, do: str, what: dict[str, Any]) -> None:
        data = msgspec.msgpack.encode({"do": do, **what})
        self._asked += 1
        try:
            self._in.write(len(data).to_bytes(4, "big") + data)
            self._in.flush()
        except OSError as error:
            raise EndedError("it is gone") from error

    def _outcome(self, frame: bytes) -> Any:
        answer = msgspec.msgpack.decode(frame[1:])
        self._asked -= 1
        if "error" not in answer:
            return answer["ok"]
        name, message = answer["error"], answer["message"]
        if name == "MemoryError":
            raise duckdb.OutOfMemoryException(message)
        kind = getattr(duckdb, name, None)
        if isinstance(kind, type) and issubclass(kind, duckdb.Error):
            raise kind(message)
        raise duckdb.InvalidInputException(message)

    def _frame(self) -> bytes:
        length = int.from_bytes(self._read(4), "big")
        if length > self._max_frame_bytes:
            raise TooLarge(
                f"a part of the answer has more than {self._max_frame_bytes} bytes (TIMESTORE_QUERY_MAX_ANSWER_BYTES)",
                code="query_bytes",
            )
        return bytes(self._read(length))

    def _read(self, size: int) -> bytearray:
        started = time.monotonic()
        while len(self._buffer) < size:
            waited = time.monotonic() - started
            if waited > self._left_s:
                raise QueryTimeout(
                    f"the statement took longer than {self._timeout_ms} ms (TIMESTORE_QUERY_TIMEOUT_MS) and was "
                    "stopped; ask for a shorter time range, or for less"
                )
            if self._poll.poll(1000 * min(_LOOK_S, self._left_s - waited)):
                piece = os.read(self._out.fileno(), _READ_BYTES)
                if not piece:
                    raise EndedError("it is gone")
                self._buffer += piece
            elif self._is_gone is not None and self._is_gone():
                raise QueryCancelled("the client went away")
        self._left_s -= time.monotonic() - started
        found = self._buffer[:size]
        del self._buffer[:size]
        return found


class Processes:
    """The processes of one service process: as many as statements run at once. Thread-safe."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._idle = queue.SimpleQueue[Process]()

    @contextmanager
    def one(self, is_gone: Callable[[], bool] | None) -> Iterator[Process]:
        """A process for one statement; it is not used again where the statement did not end well."""
        process = self._take()
        process.begin(is_gone)
        try:
            yield process
        except InvalidRequest:
            # Refused, and answered as it should: the process is well.
            self._give_back(process)
            raise
        except BaseException:
            process.kill()
            raise
        self._give_back(process)

    def close(self) -> None:
        """End those that wait."""
        while True:
            try:
                self._idle.get_nowait().kill()
            except queue.Empty:
                return

    def _take(self) -> Process:
        while True:
            try:
                process = self._idle.get_nowait()
            except queue.Empty:
                return Process(self._settings)
            if process.is_alive:
                return process
            process.kill()

    def _give_back(self, process: Process) -> None:
        if process.statements < _MAX_STATEMENTS and process.is_idle:
            try:
                process.ask("close")
            except Exception:
                log.exception("select.process_broken")
            else:
                self._idle.put(process)
                return
        process.kill()
