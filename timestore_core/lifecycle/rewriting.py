"""One new partition out of the rows of others: written by DuckDB in bounded memory, then held against its sources."""

from __future__ import annotations

import errno
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import duckdb

from timestore_core.catalog.change import NewPartition
from timestore_core.dedupe import UNIQUE, VERSIONED, Dedupe
from timestore_core.engine.attached import Attachment
from timestore_core.engine.inline_tables import InlineRows
from timestore_core.engine.instance import is_disk_full
from timestore_core.engine.remote import is_remote
from timestore_core.errors import PartitionUnreadable, TimestoreError, Unavailable
from timestore_core.model import ColumnStatistics, Field, FieldType, Partition, Schema
from timestore_core.partitions.format import Layout, WrittenFile
from timestore_core.partitions.inline import FORMAT as INLINE
from timestore_core.partitions.inspect import inspect
from timestore_core.partitions.located import located
from timestore_core.partitions.statistics import common_decimals
from timestore_core.partitions.stored import Place, StoredPartition, store_partition
from timestore_core.query.dedupe_sql import distinct_count_sql, place_sql, unreplaced_sql
from timestore_core.query.pruning import overlapping
from timestore_core.query.rows_sql import (
    StoredRows,
    distinct_sql,
    every_value_sql,
    gathered_sql,
    marked_rows_sql,
    prefixes_sql,
)
from timestore_core.runtime import Runtime

# A series' rows stand together; a question about one of them reads few of these.
ROW_GROUP_ROWS = 40_960
# A string column names the series where each of its values has this many rows or more.
_ROWS_PER_SERIES = 8
# What is counted about is off by a few in a hundred.
_MORE = 1.2


class RewriteError(TimestoreError):
    """The new file does not hold what its sources hold: it was thrown away, nothing was changed."""

    default_code = "rewrite_failed"


@dataclass(frozen=True, slots=True)
class Rewrite:
    """The rows of the sources, with the schema's columns, to be one partition in its place.

    `where` keeps only some rows (a condition over the columns); without it every row must arrive. With a `dedupe` those
    need not that a later row of the same key has replaced, and each keeps its version beside it.
    """

    sources: Sequence[Partition]
    schema: Schema
    place: Place
    table_name: str
    where: str = ""
    dedupe: Dedupe | None = None

    @property
    def is_unique(self) -> bool:
        """Whether it is plain that no two rows of the new file are one."""
        rule = self.dedupe
        return rule is not None and (rule.merge == "rows" or not overlapping(self.sources, rule))


def rewrite(runtime: Runtime, asked: Rewrite, step: str) -> StoredPartition:
    """Write the partition's file and store it, named by nobody yet.

    Raises PartitionUnreadable naming a source that cannot be read, RewriteError, InsufficientStorage, Unavailable.
    """

    def write(path: Path) -> WrittenFile:
        try:
            with opened(runtime, asked.sources, [str(path.parent)]) as sources:
                return _written(runtime, sources, asked, path)
        except PartitionUnreadable:
            _read_each(runtime, asked.sources)
            raise
        except OSError as error:
            # DuckDB says the same of a source that it cannot read and of a target that it cannot write.
            if error.errno == errno.EIO:
                _read_each(runtime, asked.sources)
            raise

    return store_partition(runtime, asked.place, step, write)


def merged_schema(dataset: Schema, sources: Sequence[Partition]) -> Schema:
    """The columns that any of the sources has, in the dataset's order; integer where all have it so."""
    fields = []
    for field in dataset.fields:
        types: set[FieldType] = {
            found for one in sources for found in [one.schema.type_of(field.name)] if found is not None
        }
        if types:
            fields.append(Field(field.name, types.pop() if len(types) == 1 else field.type))
    return Schema(tuple(fields))


def new_partition(asked: Rewrite, stored: StoredPartition, metadata: dict[str, object]) -> NewPartition:
    """What the change publishes: the file, over the time range of its sources."""
    return NewPartition(
        id=stored.partition_id,
        partition_key=asked.place.partition_key,
        target_id=stored.target.id,
        file_format=stored.format,
        file_path=stored.key,
        file_size_bytes=stored.size_bytes,
        row_count=stored.written.rows,
        start_time=min(one.start_time for one in asked.sources),
        end_time=max(one.end_time for one in asked.sources),
        checksum=stored.checksum,
        schema=asked.schema,
        statistics=stored.written.statistics,
        metadata={"tableName": asked.table_name, **_dedupe_metadata(asked), **metadata},
        merged_by=asked.dedupe,
    )


def _dedupe_metadata(asked: Rewrite) -> dict[str, object]:
    if asked.dedupe is None:
        return {}
    return {VERSIONED: True, **({UNIQUE: list(asked.dedupe.key)} if asked.is_unique else {})}


@dataclass(frozen=True, slots=True)
class Opened:
    """A cursor of the rewriting engine, and the rows that it can read: each file's, then those of the partitions that
    are none, together where they have the same columns."""

    cursor: duckdb.DuckDBPyConnection
    rows: Sequence[StoredRows]


@contextmanager
def opened(runtime: Runtime, partitions: Sequence[Partition], also_allowed: Sequence[str] = ()) -> Iterator[Opened]:
    """Keep the partitions attached to the rewriting engine for the time of the block.

    DuckDB's errors come out as PartitionUnreadable, a full disk as OSError, too little memory as RewriteError.
    """
    files = [one for one in partitions if one.file_format != INLINE]
    inline = _joined([one for one in partitions if one.file_format == INLINE])
    with located(runtime, files) as places:
        attachments, attached, rows = [], list[Partition](), []
        for partition in files:
            location = places.locations[partition.id]
            format_ = runtime.plugins.partition_format(partition.file_format)
            attach, detach = format_.attach(location, location), format_.detach(location)
            if attach is not None and detach is not None:
                attachments.append(Attachment(location, attach, detach))
                attached.append(partition)
            relation = format_.relation(location, location, partition.table_name)
            version = None if partition.metadata.get(VERSIONED) else partition.version
            rows.append(StoredRows(relation, partition.schema, version, place_sql(format_, partition.schema)))
        aliases = [one.alias for one in attachments]

        def failed(attachment: Attachment, error: Exception) -> Exception:
            if is_remote(attachment.alias):
                return error
            return _unreadable([attached[aliases.index(attachment.alias)]])

        access = replace(places.access, locations=places.access.locations | set(also_allowed))
        try:
            with runtime.rewriting.lease(access) as instance:
                try:
                    with ExitStack() as held:
                        held.enter_context(instance.attached.pinned(attachments, failed))
                        for one in inline:
                            relation = held.enter_context(instance.inline.held(one, runtime.inline_loader.load))
                            rows.append(StoredRows(relation, one.schema, None, None))
                        yield Opened(held.enter_context(instance.sorter()), rows)
                finally:
                    for one in inline:
                        instance.inline.forget(one.partition_ids)
                    # Sources are rarely read twice by maintenance; kept open they would hold the disk after they go.
                    for attachment in attachments:
                        instance.attached.forget(attachment.alias)
        except duckdb.OutOfMemoryException as error:
            raise RewriteError(
                "rewriting needs more than TIMESTORE_LIFECYCLE_MEMORY_BYTES and TIMESTORE_QUERY_TEMP_BYTES allow"
            ) from error
        except duckdb.Error as error:
            if is_disk_full(error):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
            if places.streamed:
                raise Unavailable(
                    "a remote partition could not be read to its end; the next run tries again"
                ) from error
            raise _unreadable(partitions) from error


def _joined(inline: Sequence[Partition]) -> list[InlineRows]:
    """Partitions that are no files, as the relations in which they stand together."""
    by_columns = defaultdict[tuple[str, Schema], list[str]](list)
    for one in inline:
        by_columns[one.dataset_id, one.schema].append(one.id)
    return [InlineRows(dataset_id, schema, ids) for (dataset_id, schema), ids in by_columns.items()]


def _read_each(runtime: Runtime, partitions: Sequence[Partition]) -> None:
    """Read every value of each of them alone. Raises PartitionUnreadable naming the first that is at fault."""
    for partition in partitions:
        with opened(runtime, [partition]) as source:
            source.cursor.execute(every_value_sql(source.rows[0].relation, partition.schema.names)).fetchone()


def _unreadable(partitions: Sequence[Partition]) -> PartitionUnreadable:
    names = ", ".join(one.id for one in partitions[:3]) + (" …" if len(partitions) > 3 else "")
    return PartitionUnreadable(
        f"{'partition' if len(partitions) == 1 else 'one of the partitions'} {names} cannot be read; "
        "nothing was changed. `timestore verify --deep` says more",
        details={"partitionIds": [one.id for one in partitions]},
    )


def _written(runtime: Runtime, sources: Opened, asked: Rewrite, path: Path) -> WrittenFile:
    cursor, format_ = sources.cursor, runtime.plugins.partition_format(asked.place.format)
    rows = gathered_sql(sources.rows, asked.schema, where=asked.where)
    order = _order(cursor, rows, asked)
    select = gathered_sql(sources.rows, asked.schema, order, asked.where)
    expected = sum(one.row_count for one in asked.sources)
    if asked.dedupe is not None:
        marked = marked_rows_sql(sources.rows, asked.schema, asked.where)
        series = [name for name in order if name in asked.dedupe.key]
        select = unreplaced_sql(marked, asked.dedupe, asked.schema.names, series)
    format_.copy(cursor, path, asked.table_name, select, Layout(expected, ROW_GROUP_ROWS))
    written = _with_decimals(_inspected(cursor, runtime, asked, path), asked)
    if not asked.where and asked.dedupe is None:
        _check(asked, written, expected)
    elif asked.dedupe is not None:
        _check_keys(cursor, sources, asked, written)
    return written


def _with_decimals(written: WrittenFile, asked: Rewrite) -> WrittenFile:
    """Rows that were only put together have no more digits after the point than they had."""
    statistics = dict(written.statistics)
    for field in asked.schema.fields:
        if field.type == "double" and statistics[field.name].exact:
            decimals = common_decimals(field.name, asked.sources)
            statistics[field.name] = replace(statistics[field.name], decimals=decimals)
    return replace(written, statistics=statistics)


def _check_keys(cursor: duckdb.DuckDBPyConnection, sources: Opened, asked: Rewrite, written: WrittenFile) -> None:
    """No row may be lost whose key is nowhere else: as many keys as rows, or more rows where fields are merged."""
    assert asked.dedupe is not None
    marked = marked_rows_sql(sources.rows, asked.schema, asked.where)
    found = cursor.execute(distinct_count_sql(marked, asked.dedupe, asked.schema.names)).fetchone()
    keys = 0 if found is None else found[0]
    if written.rows < keys or (asked.is_unique and written.rows != keys):
        raise RewriteError(f"the sources have {keys} series and times and the new file {written.rows} rows")


def _inspected(cursor: duckdb.DuckDBPyConnection, runtime: Runtime, asked: Rewrite, path: Path) -> WrittenFile:
    format_, alias = runtime.plugins.partition_format(asked.place.format), f"written-{path.stem}"
    attach, detach = format_.attach(str(path), alias), format_.detach(alias)
    if attach is not None:
        cursor.execute(attach)
    try:
        return inspect(cursor, format_.relation(str(path), alias, asked.table_name), asked.schema)
    finally:
        if detach is not None:
            cursor.execute(detach)


def _order(cursor: duckdb.DuckDBPyConnection, rows: str, asked: Rewrite) -> list[str]:
    """By series, then by time: what tells the most series apart first, since questions name that, and what it leaves
    to be told after it. Columns that follow from those before them (a host's region) are no part of the order.
    """
    total = sum(one.row_count for one in asked.sources)
    texts = [field.name for field in asked.schema.fields if field.type == "string"]
    times = [field.name for field in asked.schema.fields if field.type == "timestamp"]
    series: list[str] = []
    if texts:
        counts = cursor.execute(distinct_sql(rows, texts)).fetchone()
        assert counts is not None
        few = [(count, name) for count, name in zip(counts, texts, strict=True) if count * _ROWS_PER_SERIES <= total]
        series = _telling(cursor, rows, [name for _, name in sorted(few, reverse=True)])
    times.sort(key=lambda name: name != "timestamp")
    return [*series, *times[:1]]


def _telling(cursor: duckdb.DuckDBPyConnection, rows: str, names: list[str]) -> list[str]:
    """Those of the columns that tell more rows apart than the ones before them do."""
    if len(names) < 2:
        return names
    counts = cursor.execute(prefixes_sql(rows, names)).fetchone()
    assert counts is not None
    told, kept = 0, list[str]()
    for name, count in zip(names, counts, strict=True):
        if count > told * _MORE:
            told, kept = count, [*kept, name]
    return kept


def _check(asked: Rewrite, written: WrittenFile, expected: int) -> None:
    if written.rows != expected:
        raise RewriteError(f"the sources have {expected} rows and the new file {written.rows}; nothing was changed")
    for name, known in _merged_statistics(asked).items():
        found = written.statistics[name]
        if (found.nulls, found.minimum, found.maximum) != (known.nulls, known.minimum, known.maximum):
            raise RewriteError(f"the column {name!r} would not be what it was; nothing was changed")


def _merged_statistics(asked: Rewrite) -> dict[str, ColumnStatistics]:
    """What the new file must have, for the columns of which every source says it exactly."""
    merged = {}
    for field in asked.schema.fields:
        parts = [
            ColumnStatistics(None, None, one.row_count)
            if one.schema.type_of(field.name) is None
            else one.statistics.get(field.name)
            for one in asked.sources
        ]
        known = [part for part in parts if part is not None and part.exact]
        if len(known) == len(parts):
            bounds = [end for part in known for end in (part.minimum, part.maximum) if end is not None]
            if field.type == "double":
                # A source may have it as an integer still.
                bounds = [float(end) for end in bounds]
            low, high = (min(bounds), max(bounds)) if bounds else (None, None)
            merged[field.name] = ColumnStatistics(low, high, sum(part.nulls for part in known))
    return merged
