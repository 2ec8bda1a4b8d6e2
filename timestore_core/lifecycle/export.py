"""A Parquet snapshot of one version, for whoever wants to read the dataset without this service.

Written partition by partition as a stream, so that memory does not grow with the dataset, and under its final name
only when it is whole. What was exported stands in the manifest's metadata, the last ten times of it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
from psycopg.types.json import Jsonb

from timestore_core.catalog.audit import write_audit
from timestore_core.catalog.database import Connection, Row, translated
from timestore_core.catalog.identity import read_identity
from timestore_core.catalog.snapshots import Head, read_head
from timestore_core.dedupe import dedupe_of
from timestore_core.lifecycle.operation import Maintenance, Outcome
from timestore_core.lifecycle.rewriting import RewriteError, opened
from timestore_core.model import FieldType, Partition, StorageTarget
from timestore_core.partitions.duckdb_file import sync_file
from timestore_core.partitions.inline import FORMAT as INLINE
from timestore_core.partitions.paths import fold_segment
from timestore_core.partitions.stored import remove_staged, storage_errors
from timestore_core.query.dedupe_sql import last_rows_sql
from timestore_core.query.pruning import overlapping
from timestore_core.query.rows_sql import gathered_sql, marked_rows_sql
from timestore_core.times import format_time, from_us, parse_time_us

HISTORY = 10
_BATCH_ROWS = 65_536
_ARROW_TYPES: Mapping[FieldType, pa.DataType] = {
    "timestamp": pa.timestamp("us"),
    "string": pa.string(),
    "double": pa.float64(),
    "integer": pa.int64(),
    "boolean": pa.bool_(),
}

_LOCK_HEAD = "SELECT * FROM dataset_manifests WHERE dataset_id = %s AND status = 'published' FOR UPDATE"

_REMEMBER = """
UPDATE dataset_manifests SET metadata = %(metadata)s, summary = %(summary)s, updated_at = now() WHERE id = %(id)s
"""


def export(maintenance: Maintenance) -> Outcome:
    """Export the current version, unless it was done within the interval; once in an interval unless forced."""
    runtime, dataset = maintenance.runtime, maintenance.dataset
    if not runtime.settings.lifecycle_exports_enabled:
        return Outcome("skipped", "exports are off (TIMESTORE_LIFECYCLE_EXPORTS_ENABLED)")
    head = read_head(runtime.database, dataset.slug)
    if head is None or head.version == 0:
        return Outcome("skipped", "the dataset has no snapshot yet")
    partitions = runtime.snapshots.partitions(head)
    if not partitions:
        return Outcome("skipped", "the dataset has no partitions to export")
    now, exports = runtime.database.read(lambda connection: _exports(connection, dataset.id))
    waiting = _still_waiting(exports, now, timedelta(hours=runtime.settings.lifecycle_export_min_interval_hours))
    if waiting is not None and not maintenance.force:
        return Outcome("skipped", waiting)
    rows = sum(one.row_count for one in partitions)
    if maintenance.dry_run:
        return Outcome("completed", None, 1, len(partitions), 0, (), {"dryRun": True, "rows": rows})
    started_s = time.perf_counter()
    target = runtime.targets.for_ingest(None, dataset)
    key = f"{runtime.settings.lifecycle_export_prefix}/{fold_segment(dataset.slug)}/snapshot-{_stamp(now)}.parquet"
    _undo_killed(maintenance, exports)
    _note_begun(maintenance, {"filePath": key, "storageTargetId": target.id})
    rows, size_bytes = _write(maintenance, head, partitions, target, key)
    done = {
        "datasetId": dataset.id,
        "filePath": key,
        "fileSizeBytes": size_bytes,
        "rowCount": rows,
        "storageTargetId": target.id,
        "version": head.version,
    }
    audit = _remember(maintenance, done, now)
    runtime.plugins.step("parquetExport.published")
    took_ms = int((time.perf_counter() - started_s) * 1000)
    return Outcome("completed", None, 1, 1, size_bytes, (audit,), {"filePath": key, "exportMs": took_ms})


def _exports(connection: Connection, dataset_id: str) -> tuple[datetime, Mapping[str, Any]]:
    row = connection.execute(
        "SELECT now() AS now, (SELECT metadata #> '{lifecycle,exports}' FROM dataset_manifests "
        "WHERE dataset_id = %s AND status = 'published') AS exports",
        [dataset_id],
    ).fetchone()
    assert row is not None
    return row["now"], row["exports"] if isinstance(row["exports"], Mapping) else {}


def _still_waiting(exports: Mapping[str, Any], now: datetime, interval: timedelta) -> str | None:
    """Why it is too early for another export, or None."""
    last = exports.get("lastCompletedAt")
    if not isinstance(last, str):
        return None
    try:
        due = from_us(parse_time_us(last)) + interval
    except (ValueError, OverflowError):
        return None
    return f"the last export is from {last}; the next is due at {format_time(due)}" if due > now else None


def _write(
    maintenance: Maintenance, head: Head, partitions: Sequence[Partition], target: StorageTarget, key: str
) -> tuple[int, int]:
    """The file's rows and size once it stands under its key, whole."""
    runtime = maintenance.runtime
    driver = runtime.targets.owned_driver(target)
    with storage_errors(target):
        staged = driver.staging_dir() / f"export-{uuid4()}.parquet"
        try:
            expected = _stream(maintenance, head, partitions, staged)
            sync_file(staged)
            found = pq.read_metadata(staged).num_rows
            if found != expected:
                raise RewriteError(f"the snapshot has {expected} rows and its export {found}; it was thrown away")
            runtime.plugins.step("parquetExport.file_written")
            stored = driver.put(staged, key)
        finally:
            remove_staged(staged)
    runtime.plugins.step("parquetExport.file_stored")
    return found, stored.size_bytes


def _stream(maintenance: Maintenance, head: Head, partitions: Sequence[Partition], path: Path) -> int:
    """How many rows the file must have: those of all partitions, or as many as are left where several are one."""
    schema, rows = head.schema, 0
    rule = dedupe_of(head.dataset.metadata, schema)
    again = frozenset[str]() if rule is None else overlapping(partitions, rule)
    arrow = pa.schema([(field.name, _ARROW_TYPES[field.type]) for field in schema.fields])
    times = [field.name for field in schema.fields if field.type == "timestamp"]
    times.sort(key=lambda name: name != "timestamp")
    together = [one for one in partitions if one.id in again]
    units = _units([one for one in partitions if one.id not in again])
    units = [*units, *([together] if together else [])]
    with pq.ParquetWriter(path, arrow, compression="zstd") as writer:
        for number, unit in enumerate(units):
            maintenance.progress("parquetExport", number, len(units))
            with opened(maintenance.runtime, unit) as source:
                sql = gathered_sql(source.rows, schema, times[:1])
                if unit is together and rule is not None:
                    sql = last_rows_sql(marked_rows_sql(source.rows, schema), rule, schema.names)
                for batch in source.cursor.execute(sql).to_arrow_reader(_BATCH_ROWS):
                    rows += batch.num_rows
                    writer.write_table(pa.Table.from_batches([batch]).cast(arrow))
    maintenance.progress("parquetExport", len(units), len(units))
    return rows if together else sum(one.row_count for one in partitions)


def _units(partitions: Sequence[Partition]) -> list[list[Partition]]:
    """Each file alone, and together those that are none and small, by their first times."""
    ordered = sorted(partitions, key=lambda one: (one.start_time, one.id))
    units = [[one] for one in ordered if one.file_format != INLINE]
    inline = [one for one in ordered if one.file_format == INLINE]
    return sorted([*units, *([inline] if inline else [])], key=lambda unit: (unit[0].start_time, unit[0].id))


def _undo_killed(maintenance: Maintenance, exports: Mapping[str, Any]) -> None:
    """Delete the file of an export that was begun and is in no history: its process ended before it could note it.

    Whoever maintains the dataset holds its lock, so nobody is writing it. A copy of a catalog leaves it alone: the
    original may have finished it.
    """
    begun, runtime = exports.get("begun"), maintenance.runtime
    if not isinstance(begun, Mapping) or read_identity(runtime.database).restored_at is not None:
        return
    target = runtime.targets.get(str(begun.get("storageTargetId")))
    with storage_errors(target):
        runtime.targets.driver(target).delete(str(begun.get("filePath")))


def _note_begun(maintenance: Maintenance, begun: Mapping[str, Any]) -> None:
    """Note under which key a file is about to be stored; `_remember` takes the note away."""
    dataset_id = maintenance.dataset.id
    with translated(), maintenance.runtime.database.connection() as connection, connection.transaction():
        connection.execute("SELECT 1 FROM datasets WHERE id = %s FOR UPDATE", [dataset_id])
        row = connection.execute(_LOCK_HEAD, [dataset_id]).fetchone()
        assert row is not None
        lifecycle = dict(row["metadata"].get("lifecycle") or {})
        lifecycle["exports"] = {**(lifecycle.get("exports") or {}), "begun": dict(begun)}
        metadata = Jsonb({**row["metadata"], "lifecycle": lifecycle})
        connection.execute(_REMEMBER, {"metadata": metadata, "summary": Jsonb(row["summary"]), "id": row["id"]})


def _remember(maintenance: Maintenance, done: Mapping[str, Any], now: datetime) -> Row:
    """Note the export with the current manifest, which hands it on to the next ones."""
    moment = format_time(now.replace(microsecond=now.microsecond // 1000 * 1000))
    asset = {name: done[name] for name in ("filePath", "rowCount", "fileSizeBytes", "storageTargetId", "version")}
    with translated(), maintenance.runtime.database.connection() as connection, connection.transaction():
        connection.execute("SELECT 1 FROM datasets WHERE id = %s FOR UPDATE", [done["datasetId"]])
        row = connection.execute(_LOCK_HEAD, [done["datasetId"]]).fetchone()
        assert row is not None
        metadata, summary = dict(row["metadata"]), dict(row["summary"])
        lifecycle = dict(metadata.get("lifecycle") or {})
        exports = dict(lifecycle.get("exports") or {})
        history = [{"id": f"asset-{uuid4()}", **asset, "exportedAt": moment}, *(exports.get("history") or [])]
        lifecycle["exports"] = {"history": history[:HISTORY], "outputFormat": "parquet", "lastCompletedAt": moment}
        metadata["lifecycle"] = lifecycle
        summary["lifecycle"] = {
            **(summary.get("lifecycle") or {}),
            "exports": {**asset, "fileFormat": "parquet", "appliedAt": moment},
        }
        values = {"metadata": Jsonb(metadata), "summary": Jsonb(summary), "id": row["id"]}
        connection.execute(_REMEMBER, values)
        audit = write_audit(
            connection, "export.parquet.created", done, dataset_id=done["datasetId"], manifest_id=row["id"]
        ).fetchone()
    assert audit is not None
    return audit


def _stamp(now: datetime) -> str:
    moment = now.replace(microsecond=now.microsecond // 1000 * 1000)
    return format_time(moment).replace(":", "-").replace(".", "-")
