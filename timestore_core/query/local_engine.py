"""The local engine: runs a plan on this process's DuckDB and gives the answer's rows, batch by batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import duckdb
import pyarrow as pa
import structlog

from timestore_core.engine.attached import Attachment
from timestore_core.engine.inline_tables import InlineRows
from timestore_core.engine.instance import Engine, Instance, is_disk_full
from timestore_core.engine.remote import is_remote
from timestore_core.errors import InsufficientStorage, InvalidRequest, PartitionUnreadable, TimestoreError, TooLarge
from timestore_core.model import Schema, TimeRange
from timestore_core.names import quote_identifier
from timestore_core.partitions.inline import FORMAT as INLINE
from timestore_core.query.dedupe_sql import marked_sql, place_sql
from timestore_core.query.engine import EngineParts
from timestore_core.query.plan import PlannedPartition, QueryPlan
from timestore_core.query.render_sql import Render
from timestore_core.query.rows_sql import every_value_sql
from timestore_core.query.slices import (
    can_be_sliced,
    first_count,
    histogram_sql,
    is_sliced,
    narrowed,
    slice_rows,
    slices,
)
from timestore_core.query.sql import (
    answer_sql,
    gathered_rows_sql,
    merge_sql,
    needed_fields,
    partial_sql,
    union_sql,
)
from timestore_core.query.statements import Statements
from timestore_core.query.watch import Watchdog
from timestore_core.storage import Access

log = structlog.get_logger(__name__)

# Stands for the format of what is a table of the query's own.
_GATHERED = "gathered"
_ATTACHED = "duckdb"
_STREAM_MEMORY_BYTES = 96 * 1024 * 1024
# Of rows that do not fit into the memory together, so many times fewer are tried, down to these.
_FEWER = 8
_LEAST_ROWS = 256


class LocalEngine:
    """DuckDB in this process. A plan over more files than may be attached at once runs in fragments."""

    def __init__(self, parts: EngineParts) -> None:
        self._engine = parts.engine
        self._formats = parts.formats
        self._functions = parts.aggregations
        self._fragment_size = parts.max_attached
        self._cache = Path(parts.cache)
        self._watchdog = Watchdog()
        self._load_inline = parts.load_inline
        self.formats = frozenset({*parts.formats, INLINE})

    def batches(
        self, plan: QueryPlan, access: Access, render: Render, is_gone: Callable[[], bool] | None
    ) -> Iterator[pa.RecordBatch]:
        if not plan.partitions and not plan.answers_nothing:
            return
        try:
            counts: Mapping[int, int] = {}
            if is_sliced(plan):
                with self._statements(self._engine, plan, access, is_gone) as on:
                    counts = self._counted(on, plan, *first_count(plan))
                if sum(counts.values()) <= slice_rows(plan):
                    plan = replace(plan, counted=sum(counts.values()))
            given = False
            try:
                with self._engine_for(plan) as engine, self._statements(engine, plan, access, is_gone) as on:
                    for batch in self._guarded(plan, self._run(on, plan, render, counts)):
                        given = True
                        with on.watched.paused():
                            yield batch
                return
            except duckdb.OutOfMemoryException:
                # Few rows may be large ones.
                if given or is_sliced(plan) or not can_be_sliced(plan):
                    raise
            with (
                self._engine.apart(_STREAM_MEMORY_BYTES) as engine,
                self._statements(engine, plan, access, is_gone) as on,
            ):
                for batch in self._guarded(plan, self._in_slices(on, plan, render, slice_rows(plan) // _FEWER)):
                    with on.watched.paused():
                        yield batch
        except duckdb.OutOfMemoryException as error:
            raise TooLarge(
                "the query needs more memory than TIMESTORE_QUERY_MEMORY_BYTES and TIMESTORE_QUERY_TEMP_BYTES "
                "allow; ask for a shorter time range, fewer columns or larger buckets",
                code="query_memory",
            ) from error
        except (duckdb.OutOfRangeException, duckdb.ConversionException) as error:
            raise InvalidRequest("a result is out of the range of its type") from error
        except duckdb.Error as error:
            if is_disk_full(error):
                raise InsufficientStorage(
                    "the query has to spill to disk, and the disk of TIMESTORE_TEMP_DIR is full; ask for a shorter "
                    "time range, fewer columns or larger buckets",
                    code="spill_full",
                ) from error
            with self._engine.lease(access) as instance:
                raise self._explained(instance, plan, error) from error

    def check(self) -> None:
        with self._engine.lease(()) as instance, instance.cursor() as cursor:
            found = cursor.execute("SELECT count(*) FROM range(10)").fetchone()
        if found != (10,):
            raise RuntimeError("the query engine does not answer")

    def forget(self, locations: Iterable[str]) -> None:
        given = list(locations)
        with self._engine.lease(()) as instance:
            for location in given:
                instance.attached.forget(location)
            instance.inline.forget([one.removeprefix(f"{INLINE}:") for one in given if one.startswith(f"{INLINE}:")])

    def close(self) -> None:
        self._engine.close()

    @contextmanager
    def _statements(
        self, engine: Engine, plan: QueryPlan, access: Access, is_gone: Callable[[], bool] | None
    ) -> Iterator[Statements]:
        with (
            engine.lease(access) as instance,
            instance.cursor() as cursor,
            self._watchdog.watching(cursor, plan.timeout_ms, is_gone) as watched,
        ):
            yield Statements(instance, cursor, watched)

    @contextmanager
    def _engine_for(self, plan: QueryPlan) -> Iterator[Engine]:
        """The engine that all share; for a long stream one of its own, which does not fill memory with what passes."""
        if is_sliced(plan):
            with self._engine.apart(_STREAM_MEMORY_BYTES) as engine:
                yield engine
        else:
            yield self._engine

    @staticmethod
    def _guarded(plan: QueryPlan, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        rows = 0
        for batch in batches:
            rows += batch.num_rows
            if plan.limit_is_guard and rows >= plan.row_limit:
                raise TooLarge(
                    f"the answer has more than {plan.row_limit - 1} rows (TIMESTORE_QUERY_MAX_ROWS); ask with a "
                    "limit, a shorter time range or larger buckets, or for application/x-ndjson, which has no limit",
                    code="query_rows",
                )
            yield batch

    def _run(
        self, on: Statements, plan: QueryPlan, render: Render, counts: Mapping[int, int]
    ) -> Iterator[pa.RecordBatch]:
        """The rows, in slices where they are many; `counts` is what was counted for these already."""
        if not is_sliced(plan):
            yield from self._run_at_once(on, plan, render, texts_first=True)
            return
        yield from self._in_slices(on, plan, render, slice_rows(plan), counts)

    def _in_slices(
        self, on: Statements, plan: QueryPlan, render: Render, target: int, counts: Mapping[int, int] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """The rows, at most `target` at a time, and fewer where these turn out to be too large for the memory."""
        left, skip, first = plan.row_limit, plan.skip, first_count(plan)

        def counted(range_: TimeRange, width_us: int) -> Mapping[int, int]:
            if counts is not None and (range_, width_us) == first:
                return counts
            return self._counted(on, plan, range_, width_us)

        for part in slices(plan, counted, target):
            on.watched.restart()
            # What a page leaves out is at its first moment, so all of it in the first slice. To sort a few rows whole
            # takes less memory than DuckDB's limit does.
            limit = target if (part.counted or 0) <= target and not skip else left
            part, skip, given = replace(part, row_limit=limit, skip=skip), 0, 0
            try:
                for batch in self._run_at_once(on, part, render, texts_first=False):
                    wanted = batch.slice(0, left - given)
                    given += wanted.num_rows
                    yield wanted
                    if given == left:
                        return
            except duckdb.OutOfMemoryException:
                if given or target <= _LEAST_ROWS:
                    raise
                given = -1
            if given < 0:
                given = 0
                part = replace(part, row_limit=left)
                for batch in self._in_slices(on, part, render, max(_LEAST_ROWS, target // _FEWER)):
                    given += batch.num_rows
                    yield batch
            left -= given
            if left == 0:
                return

    def _counted(self, on: Statements, plan: QueryPlan, range_: TimeRange, width_us: int) -> Mapping[int, int]:
        """How many of the plan's rows are in each bin of this width, over the range."""
        found = Counter[int]()
        on.watched.restart()
        whole = replace(narrowed(plan, range_), columns=())
        fragments = self._fragments(on, whole)
        for fragment in fragments:
            with ExitStack() as pinned:
                relations = self._attach(on.instance, plan, fragment, pinned)
                sql = histogram_sql(whole, union_sql(whole, fragment, relations), range_, width_us)
                found.update(dict(on.cursor.execute(sql).fetchall()))
        self._drop_gathered(on, fragments[0])
        return found

    def _fragments(self, on: Statements, plan: QueryPlan) -> list[tuple[PlannedPartition, ...]]:
        """The plan's partitions by so many as may be attached. The first may have tables that have to be dropped."""
        size = self._fragment_size
        if len(plan.partitions) <= size:
            return [plan.partitions]
        # Those of which a row may be in another one are kept together.
        overlapping = tuple(one for one in plan.partitions if one.overlaps)
        others = [one for one in plan.partitions if not one.overlaps]
        parts = [tuple(others[at : at + size]) for at in range(0, len(others), size)]
        if len(overlapping) > size:
            overlapping = self._gathered(on, plan, overlapping)
        return [overlapping, *parts] if overlapping else parts

    def _run_at_once(
        self, on: Statements, plan: QueryPlan, render: Render, *, texts_first: bool
    ) -> Iterator[pa.RecordBatch]:
        fragments = self._fragments(on, plan)
        with ExitStack() as pinned:
            if len(fragments) == 1:
                relations = self._attach(on.instance, plan, fragments[0], pinned)
                sql = answer_sql(plan, fragments[0], relations, self._functions, render, texts_first=texts_first)
                if all(_is_attached(one) for one in fragments[0]):
                    yield from on.batches_again(sql, [one.location for one in fragments[0]])
                else:
                    yield from on.batches(sql)
                self._drop_gathered(on, fragments[0])
                return
        partials = []
        for number, fragment in enumerate(fragments):
            with ExitStack() as pinned:
                relations = self._attach(on.instance, plan, fragment, pinned)
                sql = partial_sql(plan, fragment, relations, self._functions)
                name = quote_identifier(f"partial-{number}")
                on.cursor.execute(f"CREATE TEMP TABLE {name} AS {sql}")
                partials.append(name)
        inner = merge_sql(plan, partials, self._functions)
        yield from on.batches(render.sql(plan.output, inner))
        for name in partials:
            on.cursor.execute(f"DROP TABLE {name}")
        self._drop_gathered(on, fragments[0])

    def _gathered(
        self, on: Statements, plan: QueryPlan, overlapping: Sequence[PlannedPartition]
    ) -> tuple[PlannedPartition, ...]:
        """More overlapping partitions than may be attached, their rows brought together in tables of the cursor's."""
        size, gathered = self._fragment_size, []
        for number, at in enumerate(range(0, len(overlapping), size)):
            some = overlapping[at : at + size]
            with ExitStack() as pinned:
                relations = self._attach(on.instance, plan, some, pinned)
                name = f"gathered-{number}"
                sql = gathered_rows_sql(plan, some, relations)
                on.cursor.execute(f"CREATE TEMP TABLE {quote_identifier(name)} AS {sql}")
            schema = Schema(needed_fields(plan))
            gathered.append(
                replace(
                    some[0],
                    id=name,
                    format=_GATHERED,
                    schema=schema,
                    members=(),
                    within_range=all(one.within_range for one in some),
                )
            )
        return tuple(gathered)

    @staticmethod
    def _drop_gathered(on: Statements, fragment: Sequence[PlannedPartition]) -> None:
        for one in fragment:
            if one.format == _GATHERED:
                on.cursor.execute(f"DROP TABLE {quote_identifier(one.id)}")

    def _attach(
        self, instance: Instance, plan: QueryPlan, partitions: Sequence[PlannedPartition], pinned: ExitStack
    ) -> dict[str, str]:
        """Keep the files attached until `pinned` closes; the SQL of each one's rows by partition id."""
        relations, attachments = {}, []
        by_alias = {}
        for partition in partitions:
            if partition.format == _GATHERED:
                relations[partition.id] = quote_identifier(partition.id)
                continue
            if partition.format == INLINE:
                rows = InlineRows(plan.dataset_id, partition.schema, partition.members)
                relation = pinned.enter_context(instance.inline.held(rows, self._load_inline))
                relations[partition.id] = marked_sql(relation, None, None) if partition.overlaps else relation
                continue
            format_ = self._formats[partition.format]
            # A file has one alias whichever partition names it: DuckDB attaches no file twice.
            alias = partition.location
            attach = format_.attach(partition.location, alias)
            detach = format_.detach(alias)
            if attach is not None and detach is not None:
                path = Path(partition.location)
                cached = path if path.parent == self._cache else None
                attachments.append(Attachment(alias, attach, detach, cached))
                by_alias[alias] = partition
            relation = format_.relation(partition.location, alias, partition.table_name)
            if partition.overlaps:
                version = None if partition.is_versioned else partition.version
                relation = marked_sql(relation, version, place_sql(format_, partition.schema))
            relations[partition.id] = relation

        def failed(attachment: Attachment, error: Exception) -> Exception:
            return _unreadable(by_alias[attachment.alias], error)

        pinned.enter_context(instance.attached.pinned(attachments, failed))
        return relations

    def _explained(self, instance: Instance, plan: QueryPlan, error: duckdb.Error) -> Exception:
        """Which partition is at fault: each is read alone, those that are well are not."""
        if any(is_remote(partition.location) for partition in plan.partitions):
            # Reading all of them whole over the network would cost more than fetching them, which is tried next.
            log.warning("partition.stream_failed", dataset=plan.dataset_slug, error=str(error)[:300])
            return PartitionUnreadable("a partition of a remote store cannot be read")
        for partition in plan.partitions:
            try:
                with ExitStack() as pinned, instance.cursor() as cursor:
                    relation = self._attach(instance, plan, [partition], pinned)[partition.id]
                    cursor.execute(every_value_sql(relation, partition.schema.names)).fetchone()
            except PartitionUnreadable as unreadable:
                return unreadable
            except (duckdb.OutOfMemoryException, duckdb.InterruptException):
                return error
            except duckdb.Error as alone:
                instance.attached.forget(partition.location)
                return _unreadable(partition, alone)
        return error


def _is_attached(partition: PlannedPartition) -> bool:
    """Whether the engine knows when nobody may hold the partition's file open any more."""
    return partition.format == _ATTACHED and not is_remote(partition.location)


def _unreadable(partition: PlannedPartition, error: Exception) -> TimestoreError:
    log.error("partition.unreadable", partition=partition.id, path=partition.file_path, error=str(error)[:500])
    found = _size(partition.location)
    if found is None:
        what = "its file is missing"
    elif found != partition.size_bytes:
        what = f"its file has {found} bytes instead of {partition.size_bytes}"
    else:
        what = "its file is damaged"
    return PartitionUnreadable(
        f"partition {partition.id} cannot be read: {what}; other time ranges can be queried",
        details={"partitionId": partition.id, "filePath": partition.file_path},
    )


def _size(location: str) -> int | None:
    try:
        return Path(location).stat().st_size
    except OSError:
        return None
