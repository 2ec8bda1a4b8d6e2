"""Where the parts of a backup stand below its target's root.

    backups/<name>/begun.json                              which datasets it is to hold
    backups/<name>/datasets/<dataset id>/keys.ndjson.zst   the idempotency keys up to the dataset's version
    …/fixed.json                                           which version that is: it stays the version from now on
    …/files/copy-of-<partition id>.<extension>             the partitions' files
    …/partitions.ndjson.zst                                what the catalog knows of them
    …/dataset.json                                         the dataset's rows; written when all of the above is there
    backups/<name>/backup.json                             written last: without it the backup is not complete

No file is named as a partition is: collection, which deletes unknown partitions from storage targets, leaves them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import quote

FOLDER = "backups"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)


def name_fault(name: str) -> str | None:
    """Why no backup can be called this, or None."""
    if _NAME.fullmatch(name):
        return None
    return "must be 1 to 100 letters, digits, dots, hyphens and underscores, and begin with a letter or a digit"


def name_of(moment: datetime) -> str:
    """The name of a backup that nobody named, from the UTC time at which it begins."""
    return f"{moment:%Y-%m-%dT%H-%M-%SZ}"


def copied_name(partition_id: str, extension: str) -> str:
    """The name of a partition's file in a backup: one of its own for each id, and safe for any."""
    return f"copy-of-{quote(partition_id, safe='')}.{extension}"


@dataclass(frozen=True, slots=True)
class DatasetLayout:
    """The keys of one dataset's parts."""

    folder: str

    @property
    def fixed(self) -> str:
        return f"{self.folder}/fixed.json"

    @property
    def keys(self) -> str:
        return f"{self.folder}/keys.ndjson.zst"

    @property
    def partitions(self) -> str:
        return f"{self.folder}/partitions.ndjson.zst"

    @property
    def document(self) -> str:
        return f"{self.folder}/dataset.json"

    def file(self, name: str) -> str:
        return f"{self.folder}/files/{name}"


@dataclass(frozen=True, slots=True)
class Layout:
    """The keys of a backup's parts."""

    name: str

    @property
    def folder(self) -> str:
        return f"{FOLDER}/{self.name}"

    @property
    def begun(self) -> str:
        return f"{self.folder}/begun.json"

    @property
    def finished(self) -> str:
        return f"{self.folder}/backup.json"

    def dataset(self, dataset_id: str) -> DatasetLayout:
        return DatasetLayout(f"{self.folder}/datasets/{quote(dataset_id, safe='')}")
