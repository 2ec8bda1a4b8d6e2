"""The files of a dataset out of a backup into the place where it is to live, each checked as it arrives."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import PurePosixPath

from timestore_core.backup.archive import fetched_part, read_listed
from timestore_core.backup.copying import Copied, CopyRequest, copy_file, in_parallel
from timestore_core.backup.counting import Counts
from timestore_core.backup.documents import Copy, DatasetDocument, object_of
from timestore_core.backup.layout import DatasetLayout
from timestore_core.backup.lines import read_lines
from timestore_core.backup.place import Place
from timestore_core.backup.problems import DamagedError, Failures
from timestore_core.backup.restore_plan import Planned
from timestore_core.runtime import Runtime


def copy_dataset(
    runtime: Runtime,
    source: Place,
    layout: DatasetLayout,
    planned: Planned,
    counts: Counts,
    failures: Failures,
    tell: Callable[[], None],
    *,
    deep: bool,
) -> None:
    """Copy all files of the dataset and check its documents; what is missing or altered is added to the failures."""
    destination = destination_of(runtime, planned)

    def work(line: Copy) -> Copied | DamagedError:
        name = layout.file(line.file)
        runtime.plugins.partition_format(line.format)
        asked = CopyRequest(
            source=source.driver,
            source_key=name,
            name=name,
            place=destination,
            key=restored_key(planned, line),
            size_bytes=line.size_bytes,
            checksum=line.checksum,
        )
        try:
            return copy_file(asked, deep=deep, step=lambda step: runtime.plugins.step(f"restore.{step}"))
        except DamagedError as error:
            return error

    try:
        document = read_listed(source, layout.document, DatasetDocument, planned.summary.document)
        with fetched_part(source, layout.keys, document.keys, destination):
            pass
        with fetched_part(source, layout.partitions, document.partitions, destination) as path:
            lines = read_lines(path, Copy, layout.partitions)
            with closing(in_parallel(work, lines)) as results:
                for copied in results:
                    tell()
                    if isinstance(copied, DamagedError):
                        failures.add(f"{planned.summary.slug}: {copied.message}")
                    else:
                        counts.add(copied)
    except DamagedError as error:
        failures.add(f"{planned.summary.slug}: {error.message}")


def restored_key(planned: Planned, line: Copy) -> str:
    """The storage key of the partition's restored file."""
    return planned.derivation.key(object_of(line.key), line.id, PurePosixPath(line.file).suffix.removeprefix("."))


def destination_of(runtime: Runtime, planned: Planned) -> Place:
    """The target that the dataset comes to live in, marked as this catalog's."""
    return Place(runtime.targets.owned_driver(planned.target), f"the storage target {planned.target.name}")
