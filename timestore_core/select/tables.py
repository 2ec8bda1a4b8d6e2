"""The tables of a SELECT: each a view over the rows of one snapshot, made of exactly the files that it needs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa

from timestore_core.catalog.snapshots import Head
from timestore_core.dedupe import VERSION_COLUMN, VERSIONED, Dedupe, dedupe_of
from timestore_core.engine.inline_tables import ROW_COLUMN
from timestore_core.errors import InvalidRequest, TooLarge
from timestore_core.model import Partition, Schema
from timestore_core.names import quote_identifier
from timestore_core.partitions.duckdb_file import SQL_TYPES
from timestore_core.partitions.inline import FORMAT as INLINE
from timestore_core.partitions.located import located
from timestore_core.query.dedupe_sql import NUMBER_COLUMN, last_rows_sql, place_sql
from timestore_core.query.pruning import overlapping
from timestore_core.query.rows_sql import StoredRows, gathered_sql, marked_rows_sql
from timestore_core.runtime import Runtime
from timestore_core.select.request import SelectRequest


@dataclass(frozen=True, slots=True)
class Tables:
    """What a process needs to have them: statements before it is locked, paths that stay open to it, its views.

    `given` are tables of rows that stand in no file, each under its quoted name as an Arrow IPC stream.
    """

    attach: list[str]
    allowed_paths: list[str]
    given: list[tuple[str, bytes]]
    views: list[str]
    partitions: int


@contextmanager
def opened_tables(runtime: Runtime, request: SelectRequest, heads: Mapping[str, Head]) -> Iterator[Tables]:
    """The tables under these names; their files stay where they are for the time of the block.

    Raises InvalidRequest for a time range over a table without that column, TooLarge for too many files, Unavailable
    where a storage target is away.
    """
    chosen = {name: _chosen(runtime, request, name, head) for name, head in heads.items()}
    every = {partition.id: partition for partitions in chosen.values() for partition in partitions}
    by_id = {id_: partition for id_, partition in every.items() if partition.file_format != INLINE}
    most = runtime.settings.query_max_attached
    if len(by_id) > most:
        raise TooLarge(
            f"the statement reads {len(by_id)} partitions; TIMESTORE_QUERY_MAX_ATTACHED is {most}; give a timeRange",
            code="query_partitions",
        )
    with located(runtime, list(by_id.values()), stream=False) as places:
        attach: list[str] = []
        paths: list[str] = []
        relations: dict[str, str] = {}
        numbers: dict[str, str] = {}
        for number, partition in enumerate(by_id.values()):
            format_ = runtime.plugins.partition_formats[partition.file_format]
            location, alias = places.locations[partition.id], f"file-{number}"
            statement = format_.attach(location, alias)
            if statement is None:
                paths.append(location)
            else:
                attach.append(statement)
            relations[partition.id] = format_.relation(location, alias, partition.table_name)
            numbers[partition.id] = place_sql(format_, partition.schema)
        given: list[tuple[str, bytes]] = []
        views = []
        for name, head in heads.items():
            sources = [
                StoredRows(
                    relations[partition.id],
                    partition.schema,
                    None if partition.metadata.get(VERSIONED) else partition.version,
                    numbers[partition.id],
                )
                for partition in chosen[name]
                if partition.id in relations
            ]
            for schema, ids in _together(chosen[name]).items():
                table = quote_identifier(f"given-{len(given)}")
                given.append((table, _stream(runtime, schema, ids)))
                sources.append(StoredRows(table, schema, None, None))
            rule = dedupe_of(head.dataset.metadata, head.schema)
            if rule is not None and not overlapping(chosen[name], rule):
                rule = None
            views.append(f"CREATE TEMP VIEW {quote_identifier(name)} AS {_rows_sql(request, head, sources, rule)}")
        yield Tables(attach, paths, given, views, len(every))


def _together(partitions: Sequence[Partition]) -> Mapping[Schema, list[str]]:
    """The partitions that are no files, by their columns."""
    found = defaultdict[Schema, list[str]](list)
    for partition in partitions:
        if partition.file_format == INLINE:
            found[partition.schema].append(partition.id)
    return found


def _stream(runtime: Runtime, schema: Schema, partition_ids: Sequence[str]) -> bytes:
    """The rows of these partitions as one Arrow IPC stream. Raises PartitionUnreadable."""
    pieces = []
    for one in runtime.inline_loader.load(schema, partition_ids):
        count = one.rows.num_rows
        marked = one.rows.append_column(VERSION_COLUMN, pa.repeat(pa.scalar(one.version, pa.int64()), count))
        for name in (NUMBER_COLUMN, ROW_COLUMN):
            marked = marked.append_column(name, pa.array(range(count), pa.int64()))
        pieces.append(marked)
    rows = pa.concat_tables(pieces).combine_chunks()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def _chosen(runtime: Runtime, request: SelectRequest, name: str, head: Head) -> list[Partition]:
    """The partitions that can have rows of the table."""
    if not head.schema.fields:
        raise InvalidRequest.at("sql", f"the dataset {name[:80]!r} has no columns yet")
    found = [partition for partition in runtime.snapshots.partitions(head) if partition.row_count]
    unread = {partition.file_format for partition in found} - runtime.plugins.partition_formats.keys() - {INLINE}
    if unread:
        raise InvalidRequest.at("sql", f"{name[:80]!r} has partitions of format {', '.join(sorted(unread))}")
    if request.time_range is None:
        return found
    column, wanted = request.timestamp_column, request.time_range
    if head.schema.type_of(column) != "timestamp":
        raise InvalidRequest.at("timestampColumn", f"{column!r} is no timestamp column of {name[:80]!r}")
    rule = dedupe_of(head.dataset.metadata, head.schema)
    if rule is not None and rule.time_column != column:
        # Which row is the last written is told by all of them.
        return found
    return [
        partition
        for partition in found
        if partition.schema.type_of(column) == "timestamp"
        and _overlaps(partition, column, wanted.start_us, wanted.end_us)
    ]


def _overlaps(partition: Partition, column: str, start_us: int, end_us: int) -> bool:
    known = partition.statistics.get(column)
    if known is None:
        return True
    low, high = known.minimum, known.maximum
    return isinstance(low, int) and isinstance(high, int) and low <= end_us and high >= start_us


def _rows_sql(request: SelectRequest, head: Head, sources: Sequence[StoredRows], rule: Dedupe | None) -> str:
    if not sources:
        columns = ", ".join(
            f"CAST(NULL AS {SQL_TYPES[field.type]}) AS {quote_identifier(field.name)}" for field in head.schema.fields
        )
        return f"SELECT {columns} WHERE false"
    where = ""
    if request.time_range is not None:
        start, end = request.time_range.start_us, request.time_range.end_us
        time = quote_identifier(request.timestamp_column)
        where = f"{time} BETWEEN make_timestamp({start:d}) AND make_timestamp({end:d})"
    if rule is None:
        return gathered_sql(sources, head.schema, where=where)
    # What is no part of the key may differ in a row that was replaced: then the last row has to be found first.
    first = where if request.timestamp_column in rule.key else ""
    last = last_rows_sql(marked_rows_sql(sources, head.schema, first), rule, head.schema.names)
    return f"SELECT * FROM ({last}){f' WHERE {where}' if where and not first else ''}"
