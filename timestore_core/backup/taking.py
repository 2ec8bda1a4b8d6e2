"""Taking a backup: versions are chosen, their files copied, and when all are there the last document is written.

begun.json      the datasets are chosen; nothing is held yet
pinned          a version of a dataset is held; without its keys the next run may have to move on to a later one
fixed.json      the keys are stored: this is the version from now on
dataset.json    all of the dataset is stored
backup.json     all of the backup is stored; the pins go

A run that ends anywhere in between is taken up by the next one of the same name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from timestore_core import __version__
from timestore_core.backup.archive import part_of, read_document, write_document
from timestore_core.backup.checking import check_dataset
from timestore_core.backup.counting import Counts, file_counter
from timestore_core.backup.dataset_copy import DatasetCopy, store_dataset, summary_of
from timestore_core.backup.documents import Begun, Chosen, DatasetDocument, Finished, Fixed, Summary
from timestore_core.backup.exclusive import alone
from timestore_core.backup.fixing import fix_version
from timestore_core.backup.layout import Layout, name_fault
from timestore_core.backup.place import Place
from timestore_core.backup.problems import DamagedError, Failures
from timestore_core.backup.rows import chosen_datasets, expected_files
from timestore_core.backup.versions import Held, release
from timestore_core.catalog.identity import read_identity
from timestore_core.errors import Conflict, InvalidRequest
from timestore_core.lifecycle.operation import Progress
from timestore_core.runtime import Runtime
from timestore_core.times import format_time


@dataclass(frozen=True, slots=True)
class BackupRequest:
    """A backup that is wanted: of the datasets of these slugs, or of all. `deep` reads back what was written."""

    name: str
    slugs: Sequence[str] | None
    deep: bool
    progress: Progress


@dataclass(slots=True)
class Taken:
    """What is in the backup, and what this run did for it. `left_out` are datasets that were deleted meanwhile."""

    name: str
    datasets: list[Summary] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)
    failures: Failures = field(default_factory=Failures)
    left_out: list[str] = field(default_factory=list)
    was_complete: bool = False

    @property
    def is_complete(self) -> bool:
        return self.failures.count == 0

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "complete": self.is_complete,
            "datasets": [dataset_json(one) for one in self.datasets],
            "filesCopied": self.counts.files,
            "bytesCopied": self.counts.bytes,
            "filesAlreadyThere": self.counts.were_there,
            "deletedMeanwhile": self.left_out,
            **self.failures.to_json(),
        }


def dataset_json(summary: Summary) -> dict[str, Any]:
    """A dataset of a backup, for programs."""
    names = ("id", "slug", "version", "partitions", "rows", "bytes", "keys")
    return {name: getattr(summary, name) for name in names}


def take_backup(runtime: Runtime, place: Place, asked: BackupRequest) -> Taken:
    """Take the backup, or go on with it where an earlier run ended.

    Files that cannot be read are named in the failures while all others are copied; the backup stays incomplete
    then. Raises InvalidRequest, NotFound and Conflict for what cannot be asked for, BackupError where the place
    fails.
    """
    wrong = name_fault(asked.name)
    if wrong is not None:
        raise InvalidRequest.at("--name", wrong)
    layout = Layout(asked.name)
    with alone(runtime.database, f"backup-{asked.name}", f"the backup {asked.name}"):
        catalog_id = read_identity(runtime.database).id
        place.tidy(runtime.settings.lifecycle_orphan_age_minutes * 60)
        finished = read_document(place, layout.finished, Finished)
        if finished is None:
            taken = _take(runtime, place, layout, asked, _begin(runtime, place, layout, asked, catalog_id))
        else:
            _require_own(finished.catalog_id, catalog_id, asked)
            taken = _look_at(place, layout, asked, finished)
        if finished is not None or taken.is_complete:
            release(runtime.database, asked.name)
            runtime.plugins.step("backup.unpinned")
    return taken


def _begin(runtime: Runtime, place: Place, layout: Layout, asked: BackupRequest, catalog_id: str) -> Begun:
    """What an earlier run began under this name, or what this one does. Raises Conflict where that is another."""
    slugs = None if asked.slugs is None else sorted(set(asked.slugs))
    begun = read_document(place, layout.begun, Begun)
    if begun is not None:
        _require_own(begun.catalog_id, catalog_id, asked)
        if slugs is not None and slugs != begun.asked:
            had = "all datasets" if begun.asked is None else " ".join(f"--dataset {one}" for one in begun.asked)
            raise Conflict(f"the backup {asked.name} was begun with {had}; go on so, or take another --name")
        return begun
    chosen = chosen_datasets(runtime.database, slugs)
    # Pins of a backup of this name that was given up, and whose files are gone, would hold old versions.
    release(runtime.database, asked.name)
    begun = Begun(str(uuid4()), asked.name, catalog_id, __version__, _now(), slugs, chosen)
    write_document(place, layout.begun, begun)
    runtime.plugins.step("backup.begun")
    return begun


def _require_own(found: str, catalog_id: str, asked: BackupRequest) -> None:
    if found != catalog_id:
        raise Conflict(f"the backup {asked.name} is of another catalog ({found}); take another --name")


def _take(runtime: Runtime, place: Place, layout: Layout, asked: BackupRequest, begun: Begun) -> Taken:
    taken = Taken(asked.name)
    going: list[tuple[Chosen, Held, Fixed]] = []
    for number, chosen in enumerate(begun.datasets):
        asked.progress("versions", number, len(begun.datasets))
        stored = None if asked.deep else _stored_before(place, layout, chosen)
        if stored is not None:
            taken.datasets.append(stored)
            continue
        found = fix_version(runtime, place, layout.dataset(chosen.id), chosen, asked.name)
        if found is None:
            taken.left_out.append(chosen.slug)
        else:
            going.append((chosen, *found))
    asked.progress("versions", len(begun.datasets), len(begun.datasets))
    tell = file_counter(asked.progress, expected_files(runtime.database, [held for _, held, _ in going]))
    for chosen, held, fixed in going:
        copy = DatasetCopy(
            runtime, place, layout.dataset(chosen.id), held, fixed, asked.deep, taken.counts, taken.failures, tell
        )
        summary = store_dataset(copy)
        if summary is not None:
            taken.datasets.append(summary)
    taken.datasets.sort(key=lambda one: one.slug)
    if taken.is_complete:
        finished = Finished(
            begun.backup_id,
            begun.name,
            begun.catalog_id,
            begun.service_version,
            begun.begun_at,
            _now(),
            taken.datasets,
        )
        write_document(place, layout.finished, finished)
        runtime.plugins.step("backup.completed")
    return taken


def _stored_before(place: Place, layout: Layout, chosen: Chosen) -> Summary | None:
    """The dataset where an earlier run has stored all of it."""
    key = layout.dataset(chosen.id).document
    try:
        document = read_document(place, key, DatasetDocument)
    except DamagedError:
        return None
    return None if document is None else summary_of(document, part_of(document))


def _look_at(place: Place, layout: Layout, asked: BackupRequest, finished: Finished) -> Taken:
    """A backup that is complete already; looked through where that is asked for."""
    taken = Taken(asked.name, list(finished.datasets), was_complete=True)
    if asked.deep:
        tell = file_counter(asked.progress, sum(one.partitions for one in finished.datasets))
        for summary in finished.datasets:
            check_dataset(place, layout.dataset(summary.id), summary, taken.failures, tell)
    return taken


def _now() -> str:
    return format_time(datetime.now(UTC).replace(microsecond=0))
