"""One dataset into a backup: the files of its held version, then what the catalog knows of them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

from timestore_core.backup.archive import store_lines, write_document, written_lines
from timestore_core.backup.copying import Copied, CopyRequest, copy_file, in_parallel
from timestore_core.backup.counting import Counts
from timestore_core.backup.documents import Copy, DatasetDocument, Fixed, Part, Summary, raw
from timestore_core.backup.layout import DatasetLayout, copied_name
from timestore_core.backup.place import Place
from timestore_core.backup.problems import DamagedError, Failures
from timestore_core.backup.rows import partitions_of, snapshot_rows
from timestore_core.backup.versions import Held
from timestore_core.catalog.database import Row
from timestore_core.errors import NotFound, Unavailable
from timestore_core.partitions.stored import extension_of
from timestore_core.runtime import Runtime
from timestore_core.times import format_time


@dataclass(frozen=True, slots=True)
class DatasetCopy:
    """A dataset on its way into a backup. `tell` is called after each file; `deep` reads each one back."""

    runtime: Runtime
    place: Place
    layout: DatasetLayout
    held: Held
    fixed: Fixed
    deep: bool
    counts: Counts
    failures: Failures
    tell: Callable[[], None]


def store_dataset(copy: DatasetCopy) -> Summary | None:
    """Store the dataset's files and documents; None where a file could not be copied, which the failures name."""
    rows = snapshot_rows(copy.runtime.database, copy.held)
    before = copy.failures.count
    total_rows = total_bytes = 0

    def work(row: Row) -> tuple[Row, Copied | DamagedError]:
        return row, _copy(copy, row)

    with written_lines(copy.place) as writer:
        with closing(in_parallel(work, partitions_of(copy.runtime.database, copy.held))) as results:
            for row, copied in results:
                copy.tell()
                if isinstance(copied, DamagedError):
                    copy.failures.add(f"{rows.dataset.slug}: {copied.message}")
                    continue
                copy.counts.add(copied)
                writer.add(_line(copy, row, copied))
                total_rows += row["row_count"] or 0
                total_bytes += copied.size_bytes
        if copy.failures.count > before:
            return None
        partitions = store_lines(copy.place, copy.layout.partitions, writer)
    copy.runtime.plugins.step("backup.partitions_stored")
    document = DatasetDocument(
        dataset=rows.dataset,
        version=copy.held.version,
        schema=rows.schema,
        manifest=rows.manifest,
        policy=rows.policy,
        partitions=partitions,
        rows=total_rows,
        bytes=total_bytes,
        keys=copy.fixed.keys,
    )
    part = write_document(copy.place, copy.layout.document, document)
    copy.runtime.plugins.step("backup.dataset_stored")
    return summary_of(document, part)


def summary_of(document: DatasetDocument, part: Part) -> Summary:
    """The dataset's line in the backup's last document."""
    return Summary(
        id=document.dataset.id,
        slug=document.dataset.slug,
        version=document.version,
        partitions=document.partitions.lines,
        rows=document.rows,
        bytes=document.bytes,
        keys=document.keys.lines,
        document=part,
    )


def _copy(copy: DatasetCopy, row: Row) -> Copied | DamagedError:
    """The partition's file in the backup, or why it cannot be there."""
    runtime, name = copy.runtime, f"the file of partition {row['id']} ({row['file_path']})"
    try:
        source = runtime.source_of(row["storage_target_id"], row["file_path"])
    except (NotFound, Unavailable) as error:
        return DamagedError(f"{name} cannot be read: {error.message}")
    asked = CopyRequest(
        source=source,
        source_key=row["file_path"],
        name=name,
        place=copy.place,
        key=copy.layout.file(_file_of(copy, row)),
        size_bytes=row["file_size_bytes"],
        checksum=row["checksum"],
    )
    try:
        return copy_file(asked, deep=copy.deep, step=lambda step: runtime.plugins.step(f"backup.{step}"))
    except DamagedError as error:
        return error


def _file_of(copy: DatasetCopy, row: Row) -> str:
    return copied_name(row["id"], extension_of(copy.runtime.plugins, row["file_format"]))


def _line(copy: DatasetCopy, row: Row, copied: Copied) -> Copy:
    return Copy(
        id=row["id"],
        file=_file_of(copy, row),
        size_bytes=copied.size_bytes,
        checksum=copied.checksum,
        rows=row["row_count"],
        format=row["file_format"],
        key=raw(row["key"]),
        start=format_time(row["start_time"]),
        end=format_time(row["end_time"]),
        metadata=raw(row["metadata"]),
        columns=raw(row["columns"]),
        created_at=format_time(row["created_at"]),
    )
