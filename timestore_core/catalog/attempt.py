"""What wants to be published, and what was: an attempt with its claims, and a manifest with its partitions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from timestore_core.dedupe import UNIQUE, Dedupe
from timestore_core.model import ColumnStatistics, Dataset, Manifest, Partition, Schema, StorageTarget


@dataclass(frozen=True, slots=True)
class Claim:
    """One batch of an attempt: the key that makes it count once, what it held, and where it came from.

    `job_id` names the job that brought it, `journal_id` its row in the journal, which goes when it is published.
    """

    idempotency_key: str | None
    content_hash: str
    rows: int
    job_id: str | None = None
    journal_id: str | None = None


class ClaimTakenError(Exception):
    """One of several batches in the attempt was published by somebody else meanwhile: write the others anew."""


class StaleFileError(Exception):
    """The file is so old that it may be collected before it is published: write it anew."""


class StaleRuleError(Exception):
    """Rows of the attempt were merged by a rule that is no longer the dataset's: merge and write them anew."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """A written file that wants to become part of its dataset: one batch, or several that were put together.

    It is published before `publish_before_s` (of `times.running_s`) or not at all. `content` are the bytes of a
    partition that stands in the catalog itself. `dataset_is_new` where there was none of the slug a moment ago;
    `write_format` and `dataset_metadata` are those of the dataset where this attempt makes it. `dedupe_tags` are
    columns that name a row of a dataset that keeps one row per series and time, and that it does not know yet.
    `merged_by` is the rule by which rows of the batch became one, where some did, `fitted_to` the one that says which
    of its columns are tags, where it brings some and knows them apart.
    """

    partition_id: str
    slug: str
    dataset_name: str
    target: StorageTarget
    schema: Schema
    table_name: str
    partition_key: Mapping[str, str]
    start_time: datetime
    end_time: datetime
    file_format: str
    file_path: str
    file_size_bytes: int
    row_count: int
    checksum: str
    statistics: Mapping[str, ColumnStatistics]
    claims: tuple[Claim, ...]
    actor_id: str | None
    publish_before_s: float
    content: bytes | None = None
    dataset_is_new: bool = False
    write_format: str = "duckdb"
    dataset_metadata: Mapping[str, Any] = field(default_factory=dict)
    dedupe_tags: tuple[str, ...] = ()
    unique_key: tuple[str, ...] | None = None
    merged_by: Dedupe | None = None
    fitted_to: Dedupe | None = None

    @property
    def partition_metadata(self) -> dict[str, Any]:
        """What the partition's row has beside its columns."""
        return {"tableName": self.table_name, **({UNIQUE: list(self.unique_key)} if self.unique_key else {})}


@dataclass(frozen=True, slots=True)
class Published:
    """A manifest with the partitions that it added; `replayed` when an earlier attempt had published it."""

    dataset: Dataset
    manifest: Manifest
    partitions: tuple[Partition, ...]
    replayed: bool
