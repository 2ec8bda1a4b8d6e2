"""The process in which a client's SELECT runs: `python -m timestore_core.select.child`.

It knows nothing but what it is told over its standard input: it has no environment, no connection and no credentials,
may have so much memory and no more, and its DuckDB can open the files of this one statement alone. Whatever a statement
does to it, the service only starts another.

Frames on both pipes: 4 bytes of length, then the bytes. A request is MessagePack `{"do": …}`. Its answer is one frame
behind an `m`, `{"ok": …}` or `{"error": …, "message": …}`; rows come before it, their schema behind an `s`, each batch
behind a `b`. The first answer comes unasked: the process is ready.
"""

from __future__ import annotations

import os
import resource
import sys
import threading
import time
from collections.abc import Iterator
from typing import IO, Any

import duckdb
import msgspec
import pyarrow as pa

BATCH_ROWS = 8_192
# What Python, the libraries and the threads' stacks take before the first row.
_OVERHEAD_BYTES = 1 << 30


class Child:
    """Does what it is asked, one request after the other."""

    def __init__(self) -> None:
        self._reader = duckdb.connect(":memory:")
        _lock(self._reader, [])
        self._connection = self._reader

    def parse(self, sql: str) -> str:
        """The tree of the statement, where it is exactly one SELECT."""
        kinds = [statement.type for statement in self._reader.extract_statements(sql)]
        if kinds != [duckdb.StatementType.SELECT]:
            raise duckdb.ParserException("it must be one SELECT")
        found = self._reader.execute("SELECT json_serialize_sql($1::VARCHAR)", [sql]).fetchone()
        assert found is not None
        tree = msgspec.json.decode(found[0])
        if tree["error"]:
            raise duckdb.ParserException("it must be one SELECT")
        return str(found[0])

    def open(
        self, setup: list[str], allowed_paths: list[str], tables: list[tuple[str, bytes]], views: list[str]
    ) -> None:
        """A database of its own for one statement: its files, its views, and no way to anything else."""
        self._connection = duckdb.connect(":memory:")
        for statement in setup:
            self._connection.execute(statement)
        for name, rows in tables:
            self._connection.register("given", pa.ipc.open_stream(rows).read_all())
            self._connection.execute(f"CREATE TABLE {name} AS SELECT * FROM given")
            self._connection.unregister("given")
        _lock(self._connection, allowed_paths)
        for view in views:
            self._connection.execute(view)

    def describe(self, sql: str) -> list[tuple[str, str]]:
        """The names and types of the statement's columns."""
        return [(row[0], row[1]) for row in self._connection.execute(f"DESCRIBE {sql}").fetchall()]

    def fetch(self, sql: str) -> Iterator[pa.RecordBatch]:
        """The statement's rows."""
        yield from self._connection.execute(sql).to_arrow_reader(BATCH_ROWS)

    def close(self) -> None:
        """End what `open` began."""
        if self._connection is not self._reader:
            self._connection.close()
            self._connection = self._reader


def _lock(connection: duckdb.DuckDBPyConnection, allowed_paths: list[str]) -> None:
    paths = ", ".join("'" + path.replace("'", "''") + "'" for path in allowed_paths)
    for statement in (
        "SET GLOBAL TimeZone = 'UTC'",
        "SET allow_persistent_secrets = false",
        "SET autoinstall_known_extensions = false",
        "SET autoload_known_extensions = false",
        "SET allow_community_extensions = false",
        "SET GLOBAL python_enable_replacements = false",
        f"SET allowed_paths = [{paths}]",
        "SET enable_external_access = false",
        "SET lock_configuration = true",
    ):
        connection.execute(statement)


def _limit_memory(memory_bytes: int) -> None:
    """What no account of the engine's covers, such as a text of a gigabyte, ends in an error too."""
    limit = memory_bytes + _OVERHEAD_BYTES
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _die_with(parent: int) -> None:
    """A statement must not go on for a service that is gone."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _received(stream: IO[bytes]) -> dict[str, Any] | None:
    length = stream.read(4)
    if len(length) < 4:
        return None
    found: dict[str, Any] = msgspec.msgpack.decode(stream.read(int.from_bytes(length, "big")))
    return found


def _send(stream: IO[bytes], *parts: bytes | memoryview) -> None:
    stream.write(sum(len(part) for part in parts).to_bytes(4, "big"))
    for part in parts:
        stream.write(part)
    stream.flush()


def _done(child: Child, request: dict[str, Any], out: IO[bytes]) -> Any:
    match request.pop("do"):
        case "parse":
            return child.parse(**request)
        case "open":
            return child.open(**request)
        case "describe":
            return child.describe(**request)
        case "close":
            return child.close()
        case "fetch":
            for number, batch in enumerate(child.fetch(**request)):
                if number == 0:
                    _send(out, b"s", memoryview(batch.schema.serialize()))
                _send(out, b"b", memoryview(batch.serialize()))
            return None


def main() -> None:
    """Serve the process at the other end until it closes the pipe."""
    requests, out = sys.stdin.buffer, os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=1 << 16)
    _limit_memory(int(sys.argv[1]))
    threading.Thread(target=_die_with, args=[os.getppid()], daemon=True).start()
    child = Child()
    _send(out, b"m", msgspec.msgpack.encode({"ok": None}))
    while (request := _received(requests)) is not None:
        try:
            answer = {"ok": _done(child, request, out)}
        except (duckdb.Error, MemoryError, pa.ArrowException, OSError, RuntimeError) as error:
            answer = {"error": type(error).__name__, "message": str(error)}
        _send(out, b"m", msgspec.msgpack.encode(answer))


if __name__ == "__main__":
    main()
