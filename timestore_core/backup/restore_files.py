"""The files of a dataset out of a backup into the place where it is to live, each checked as it arrives."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
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
from timestore_core.partitions.stored import extension_of
from timestore_core.runtime import Runtime


@dataclass(frozen=True, slots=True)
class RestoredFiles:
    """The files of a dataset on their way out of a backup. `tell` is called after each one; `deep` reads it back."""

    runtime: Runtime
    source: Place
    layout: DatasetLayout
    planned: Planned
    deep: bool
    counts: Counts
    failures: Failures
    tell: Callable[[], None]


def restore_files(files: RestoredFiles) -> None:
    """Copy all files of the dataset and check its documents; what is missing or altered is added to the failures."""
    source, layout, summary = files.source, files.layout, files.planned.summary
    destination = destination_of(files.runtime, files.planned)

    def work(line: Copy) -> Copied | DamagedError:
        return _copy(files, destination, line)

    try:
        document = read_listed(source, layout.document, DatasetDocument, summary.document)
        with fetched_part(source, layout.keys, document.keys, destination):
            pass
        with fetched_part(source, layout.partitions, document.partitions, destination) as path:
            lines = read_lines(path, Copy, layout.partitions)
            with closing(in_parallel(work, lines)) as results:
                for copied in results:
                    files.tell()
                    if isinstance(copied, DamagedError):
                        files.failures.add(f"{summary.slug}: {copied.message}")
                    else:
                        files.counts.add(copied)
    except DamagedError as error:
        files.failures.add(f"{summary.slug}: {error.message}")


def restored_key(planned: Planned, line: Copy) -> str:
    """The storage key of the partition's restored file."""
    return planned.derivation.key(object_of(line.key), line.id, PurePosixPath(line.file).suffix.removeprefix("."))


def destination_of(runtime: Runtime, planned: Planned) -> Place:
    """The target that the dataset comes to live in, marked as this catalog's."""
    return Place(runtime.targets.owned_driver(planned.target), f"the storage target {planned.target.name}")


def _copy(files: RestoredFiles, destination: Place, line: Copy) -> Copied | DamagedError:
    """The partition's file in its new place, or why it cannot be there."""
    plugins, name = files.runtime.plugins, files.layout.file(line.file)
    extension_of(plugins, line.format)
    asked = CopyRequest(
        source=files.source.driver,
        source_key=name,
        name=name,
        place=destination,
        key=restored_key(files.planned, line),
        size_bytes=line.size_bytes,
        checksum=line.checksum,
        compared=True,
    )
    try:
        return copy_file(asked, deep=files.deep, step=lambda step: plugins.step(f"restore.{step}"))
    except DamagedError as error:
        return error
