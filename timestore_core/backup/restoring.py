"""Bringing datasets back from a backup, beside what is there.

copied         files under their final keys, named by nobody; the next run finds them
rows_written   a transaction that is not committed: nothing is to be seen
published      the dataset is there, whole, under its version

Every file of every wanted dataset is copied and checked before the first one is published.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from timestore_core.backup.archive import fetched_part, read_listed
from timestore_core.backup.counting import Counts, file_counter
from timestore_core.backup.documents import DatasetDocument, Finished, Summary
from timestore_core.backup.exclusive import alone
from timestore_core.backup.layout import Layout, name_fault
from timestore_core.backup.listing import find_backup
from timestore_core.backup.place import Place
from timestore_core.backup.problems import Failures
from timestore_core.backup.restore_files import RestoredFiles, destination_of, restore_files
from timestore_core.backup.restore_plan import Naming, Planned, plan_restore
from timestore_core.backup.restore_rows import publish_restored
from timestore_core.backup.restore_warnings import warnings_of
from timestore_core.errors import InvalidRequest
from timestore_core.lifecycle.operation import Maintenance, Progress
from timestore_core.lifecycle.verification import Verified, verify
from timestore_core.model import Dataset, StorageTarget
from timestore_core.runtime import Runtime


@dataclass(frozen=True, slots=True)
class RestoreRequest:
    """What is wanted back, under which names and where. `deep` reads every restored byte once more at the end."""

    name: str
    naming: Naming
    target: StorageTarget
    deep: bool
    progress: Progress


@dataclass(frozen=True, slots=True)
class RestoredDataset:
    """A dataset that is back, by this run or (`was_there`) an earlier one, and what verifying it found."""

    summary: Summary
    dataset: Dataset
    was_there: bool
    verified: Verified
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.dataset.id,
            "slug": self.dataset.slug,
            "sourceId": self.summary.id,
            "sourceSlug": self.summary.slug,
            "version": self.summary.version,
            "keys": self.summary.keys,
            "alreadyThere": self.was_there,
            "warnings": list(self.warnings),
            **self.verified.to_json(),
        }


@dataclass(slots=True)
class Restored:
    """What a restore brought back; nothing at all where there are failures."""

    name: str
    datasets: list[RestoredDataset] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)
    failures: Failures = field(default_factory=Failures)

    @property
    def is_whole(self) -> bool:
        return self.failures.count == 0 and all(one.verified.is_whole for one in self.datasets)

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "isWhole": self.is_whole,
            "datasets": [one.to_json() for one in self.datasets],
            "filesCopied": self.counts.files,
            "bytesCopied": self.counts.bytes,
            "filesAlreadyThere": self.counts.were_there,
            **self.failures.to_json(),
        }


def restore_backup(runtime: Runtime, place: Place, asked: RestoreRequest) -> Restored:
    """Restore the wanted datasets, or what is missing of them where an earlier run ended.

    What of the backup is missing or altered is named in the failures, and nothing is published then. Raises NotFound,
    InvalidRequest and Conflict for what cannot be asked for before anything is copied, BackupError where a place
    fails.
    """
    wrong = name_fault(asked.name)
    if wrong is not None:
        raise InvalidRequest.at("NAME", wrong)
    with alone(runtime.database, f"restore-{asked.name}", f"a restore of {asked.name}"):
        backup = find_backup(place, asked.name)
        planned = plan_restore(runtime, backup, asked.naming, asked.target)
        restored = Restored(asked.name)
        _copy_all(runtime, place, asked, planned, restored)
        if restored.failures.count == 0:
            runtime.plugins.step("restore.copied")
            for one in planned:
                restored.datasets.append(_finish(runtime, place, asked, backup, one))
    return restored


def _copy_all(
    runtime: Runtime, place: Place, asked: RestoreRequest, planned: list[Planned], restored: Restored
) -> None:
    layout = Layout(asked.name)
    going = [one for one in planned if one.existing is None]
    tell = file_counter(asked.progress, sum(one.summary.partitions for one in going))
    for one in going:
        source = layout.dataset(one.summary.id)
        restore_files(RestoredFiles(runtime, place, source, one, asked.deep, restored.counts, restored.failures, tell))


def _finish(
    runtime: Runtime, place: Place, asked: RestoreRequest, backup: Finished, planned: Planned
) -> RestoredDataset:
    dataset = planned.existing or _publish(runtime, place, backup, planned)
    maintenance = Maintenance(runtime, dataset, "manual", progress=asked.progress)
    verified = verify(maintenance, deep=asked.deep, repair=False)
    warnings = tuple(warnings_of(runtime, dataset))
    return RestoredDataset(planned.summary, dataset, planned.existing is not None, verified, warnings)


def _publish(runtime: Runtime, place: Place, backup: Finished, planned: Planned) -> Dataset:
    layout = Layout(backup.name).dataset(planned.summary.id)
    document = read_listed(place, layout.document, DatasetDocument, planned.summary.document)
    scratch = destination_of(runtime, planned)
    with (
        fetched_part(place, layout.partitions, document.partitions, scratch) as partitions,
        fetched_part(place, layout.keys, document.keys, scratch) as keys,
    ):
        dataset = publish_restored(runtime, planned, document, partitions, keys)
    runtime.plugins.step("restore.dataset_published")
    return dataset
