"""Answering a SELECT: rules, tables, process, bytes."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from uuid import uuid4

import duckdb
import pyarrow as pa
import structlog

from timestore_core.catalog.snapshots import Head
from timestore_core.engine.instance import is_disk_full
from timestore_core.errors import InsufficientStorage, InvalidRequest, PartitionUnreadable, TooLarge
from timestore_core.names import folded, quote_literal
from timestore_core.query.answer import Answer, Tally, begun
from timestore_core.query.formats import AnswerForm, Shape
from timestore_core.runtime import Runtime
from timestore_core.select.columns import fields_of, typed_sql
from timestore_core.select.processes import EndedError, Process
from timestore_core.select.request import SelectRequest
from timestore_core.select.rules import tables_of, wrapped
from timestore_core.select.tables import Tables, opened_tables

log = structlog.get_logger(__name__)

# The path's own dataset under a name that needs no quotes.
_OWN = "dataset"
_MAX_COLUMNS = 2_000
_MAX_MESSAGE = 500

# The dataset of that slug as it may be read by who asks, or None.
Lookup = Callable[[str], Head | None]


def open_select(
    runtime: Runtime,
    head: Head,
    request: SelectRequest,
    lookup: Lookup,
    form: AnswerForm,
    is_gone: Callable[[], bool] | None,
) -> Answer:
    """The statement's answer in this form, from its first byte on; whoever has it closes it.

    Raises InvalidRequest for what the rules or the engine refuse, TooLarge and QueryTimeout for what is too much.
    """
    with ExitStack() as held:
        turn = held.enter_context(runtime.admission.admitted())
        turn.begin()
        slot = held.enter_context(runtime.select_admission.admitted())
        slot.begin()
        process = held.enter_context(runtime.select_processes.one(is_gone))
        with _engine_errors():
            names = tables_of(process.ask("parse", sql=wrapped(request.sql)))
        heads = _heads(head, names, lookup)
        tables = held.enter_context(opened_tables(runtime, request, heads))
        spill = _spill_dir(runtime)
        held.callback(shutil.rmtree, spill, ignore_errors=True)
        _open(runtime, process, tables, spill)
        with _engine_errors():
            described = [(name, type_) for name, type_ in process.ask("describe", sql=wrapped(request.sql))]
        if len(described) > _MAX_COLUMNS:
            raise InvalidRequest.at("sql", f"the answer has {len(described)} columns; at most {_MAX_COLUMNS} are")
        fields = fields_of(described)
        inner = typed_sql(described, request.sql)
        max_rows = None if form.delivery == "stream" else runtime.settings.query_max_rows
        if max_rows is not None:
            inner = f"SELECT * FROM ({inner}) LIMIT {max_rows + 1:d}"
        tally = Tally(partitions=tables.partitions)
        rows = _rows(process, form.render.sql(fields, inner))
        batches = tally.counted(rows if max_rows is None else _guarded(rows, max_rows))
        held.callback(batches.close)
        shape = Shape(fields, "sql", runtime.settings.spill_dir / "answers", runtime.settings.query_max_answer_bytes)
        return begun(form, batches, shape, tally, turn, held, lambda _: None)


def _heads(head: Head, names: tuple[str, ...], lookup: Lookup) -> Mapping[str, Head]:
    """Each named table's dataset. What may not be read is answered like what does not exist."""
    found: dict[str, Head] = {}
    for name in names:
        own = name == head.dataset.slug or folded(name) == _OWN
        other = head if own else lookup(name)
        if other is None and folded(name) == folded(head.dataset.slug):
            other = head
        if other is None:
            raise InvalidRequest.at("sql", f"there is no dataset {name[:120]!r}")
        found[name] = other
    return found


def _open(runtime: Runtime, process: Process, tables: Tables, spill: Path) -> None:
    settings = runtime.settings
    setup = [
        f"SET threads = {settings.query_threads:d}",
        f"SET memory_limit = '{settings.query_memory_bytes:d}B'",
        f"SET temp_directory = {quote_literal(str(spill))}",
        f"SET max_temp_directory_size = '{settings.query_temp_bytes:d}B'",
        *tables.attach,
    ]
    try:
        process.ask("open", setup=setup, allowed_paths=tables.allowed_paths, tables=tables.given, views=tables.views)
    except (duckdb.Error, EndedError) as error:
        log.error("select.unreadable", error=str(error)[:_MAX_MESSAGE])
        raise PartitionUnreadable("a partition of the datasets named cannot be read") from error


def _rows(process: Process, sql: str) -> Iterator[pa.RecordBatch]:
    with _engine_errors():
        yield from process.rows(sql)


def _guarded(batches: Iterator[pa.RecordBatch], max_rows: int) -> Iterator[pa.RecordBatch]:
    rows = 0
    for batch in batches:
        rows += batch.num_rows
        if rows > max_rows:
            raise TooLarge(
                f"the answer has more than {max_rows} rows (TIMESTORE_QUERY_MAX_ROWS); ask with LIMIT, or for "
                "application/x-ndjson, which has no limit",
                code="query_rows",
            )
        yield batch


def _spill_dir(runtime: Runtime) -> Path:
    path = runtime.select_spill_dir / str(uuid4())
    path.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def _engine_errors() -> Iterator[None]:
    """Turn what the engine says of a statement into what its author can use."""
    try:
        yield
    except duckdb.OutOfMemoryException as error:
        raise TooLarge(
            "the statement needs more memory than TIMESTORE_QUERY_MEMORY_BYTES and TIMESTORE_QUERY_TEMP_BYTES allow; "
            "ask for a shorter time range, or for less",
            code="query_memory",
        ) from error
    except EndedError as error:
        log.warning("select.process_ended")
        raise TooLarge("the statement is too much for the engine; ask for less", code="query_too_much") from error
    except duckdb.IOException as error:
        if is_disk_full(error):
            raise InsufficientStorage(
                "the statement has to spill to disk, and the disk of TIMESTORE_TEMP_DIR is full", code="spill_full"
            ) from error
        log.error("select.unreadable", error=str(error)[:_MAX_MESSAGE])
        raise PartitionUnreadable("a partition of the datasets named cannot be read") from error
    except (duckdb.InternalException, duckdb.FatalException) as error:
        log.error("select.engine_failed", error=str(error)[:_MAX_MESSAGE])
        raise InvalidRequest.at("sql", "the engine cannot run this statement") from error
    except duckdb.Error as error:
        raise InvalidRequest.at("sql", _told(error)) from error


def _told(error: duckdb.Error) -> str:
    """The engine's message without the place, which is that of another text, and without names of ours."""
    lines = itertools.takewhile(lambda line: not line.startswith("LINE "), str(error).splitlines())
    return " ".join(line for line in lines if line.strip())[:_MAX_MESSAGE]
