"""The ids and keys under which a dataset is restored: the same in every run that tries it, and never used twice.

They are made from the old ids, so that a second run finds the files that the first one copied. What else goes in
keeps them apart from all others: this catalog, this backup, the new slug, and how often the dataset was restored from
there under that slug before. Who restores, deletes and restores it once more gets other files than those that
collection is about to delete.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid5

from timestore_core.model import IdPrefix
from timestore_core.partitions.paths import partition_key_path

_NAMESPACE = UUID("6f1de8f0-33b5-4f0e-9d58-1f5b8f7c6a51")


@dataclass(frozen=True, slots=True)
class Derivation:
    """What the new ids of one restored dataset are made from."""

    catalog_id: str
    backup_id: str
    backup: str
    source_dataset_id: str
    slug: str
    earlier: int

    def id(self, prefix: IdPrefix, old: str) -> str:
        """The new id of what had the old one."""
        return f"{prefix}-{self._uuid(prefix, old)}"

    def key(self, partition_key: Mapping[str, Any], old: str, extension: str) -> str:
        """The storage key of a restored partition's file.

        It is not named as partitions are: until the dataset is published no row of the catalog knows it, and a
        restore may take longer than the age at which collection deletes a partition that no row knows.
        """
        key = {name: str(value) for name, value in partition_key.items()}
        return partition_key_path(self.slug, key, f"restored-{self._uuid('part', old)}", extension)

    def _uuid(self, prefix: IdPrefix, old: str) -> UUID:
        parts = [
            self.catalog_id,
            self.backup_id,
            self.backup,
            self.source_dataset_id,
            self.slug,
            self.earlier,
            prefix,
            old,
        ]
        return uuid5(_NAMESPACE, json.dumps(parts))
