"""What a restore is going to do: which datasets come back, under which slugs, and which are back already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from timestore_core.backup.derivation import Derivation
from timestore_core.backup.documents import Finished, Summary
from timestore_core.catalog.database import Connection, Database, Row
from timestore_core.catalog.identity import read_identity
from timestore_core.catalog.records import dataset_of
from timestore_core.errors import Conflict, NotFound
from timestore_core.ingest.envelope import check_slug
from timestore_core.model import Dataset, StorageTarget
from timestore_core.runtime import Runtime

RESTORED = "restore.dataset.restored"
RESTORED_FROM = "restoredFrom"

_BY_SLUG = "SELECT * FROM datasets WHERE slug = ANY(%s)"

_EARLIER = """
SELECT payload ->> 'sourceDatasetId' AS source, payload ->> 'datasetSlug' AS slug, count(*) AS n
FROM lifecycle_audit_log WHERE event_type = %(event)s AND payload ->> 'backupId' = %(backup)s GROUP BY 1, 2
"""


@dataclass(frozen=True, slots=True)
class Naming:
    """Which datasets are wanted, all without `slugs`, and how they are to be called."""

    slugs: Sequence[str] | None
    new_slug: str | None
    prefix: str


@dataclass(frozen=True, slots=True)
class Planned:
    """A dataset that comes back. `existing` is what an earlier run has restored of the same backup."""

    summary: Summary
    slug: str
    target: StorageTarget
    derivation: Derivation
    existing: Dataset | None

    @property
    def origin(self) -> Mapping[str, Any]:
        """What the restored dataset remembers of where it came from."""
        made = self.derivation
        return {
            "backup": made.backup,
            "backupId": made.backup_id,
            "datasetId": made.source_dataset_id,
            "version": self.summary.version,
        }


def plan_restore(runtime: Runtime, backup: Finished, naming: Naming, target: StorageTarget) -> list[Planned]:
    """Each wanted dataset under its new slug.

    Raises NotFound for one that the backup does not have, InvalidRequest for a slug that cannot be, and Conflict for
    one that is taken.
    """
    wanted = _wanted(backup, naming)
    slugs = {one.id: f"{naming.prefix}{one.slug}" if naming.new_slug is None else naming.new_slug for one in wanted}
    for one in wanted:
        if slugs[one.id] != one.slug:
            check_slug(slugs[one.id], runtime.settings)
    existing = _existing(runtime.database, list(slugs.values()))
    _refuse_taken(backup, wanted, slugs, existing)
    catalog_id, earlier = read_identity(runtime.database).id, _earlier(runtime.database, backup)
    planned = []
    for one in wanted:
        slug = slugs[one.id]
        derivation = Derivation(catalog_id, backup.backup_id, backup.name, one.id, slug, earlier.get((one.id, slug), 0))
        planned.append(Planned(one, slug, target, derivation, existing.get(slug)))
    return planned


def is_from(dataset: Dataset, backup_id: str, source_dataset_id: str) -> bool:
    """Whether the dataset was restored from there."""
    origin = dataset.metadata.get(RESTORED_FROM)
    return (
        isinstance(origin, Mapping)
        and origin.get("backupId") == backup_id
        and origin.get("datasetId") == source_dataset_id
    )


def _wanted(backup: Finished, naming: Naming) -> list[Summary]:
    if naming.slugs is None:
        return list(backup.datasets)
    missing = sorted(set(naming.slugs) - {one.slug for one in backup.datasets})
    if missing:
        raise NotFound(f"--dataset: the backup {backup.name} has no dataset {missing[0]}")
    return [one for one in backup.datasets if one.slug in naming.slugs]


def _existing(database: Database, slugs: list[str]) -> dict[str, Dataset]:
    rows = database.read(lambda connection: connection.execute(_BY_SLUG, [slugs]).fetchall())
    return {row["slug"]: dataset_of(row) for row in rows}


def _refuse_taken(
    backup: Finished, wanted: Sequence[Summary], slugs: Mapping[str, str], existing: Mapping[str, Dataset]
) -> None:
    taken = [
        slug
        for one in wanted
        for slug in [slugs[one.id]]
        if slug in existing and not is_from(existing[slug], backup.backup_id, one.id)
    ]
    if taken:
        more = f" (and {len(taken) - 1} more)" if len(taken) > 1 else ""
        raise Conflict(
            f"the slug {taken[0]}{more} is taken by another dataset, which a restore never touches; "
            "restore under another slug with --dataset and --as, or with --prefix",
            code="slug_taken",
        )


def _earlier(database: Database, backup: Finished) -> dict[tuple[str, str], int]:
    """How often each dataset of the backup was restored under each slug; the audit log forgets none."""
    values = {"event": RESTORED, "backup": backup.backup_id}

    def work(connection: Connection) -> list[Row]:
        return connection.execute(_EARLIER, values).fetchall()

    return {(row["source"], row["slug"]): row["n"] for row in database.read(work)}
