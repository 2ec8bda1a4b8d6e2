"""The steps of an ingest, and what is left behind when it stops after each of them.

decoded       nothing outside this process
encoded       (a batch that is small enough for the catalog) likewise; no file is written at all
file_written  a temporary file in the target's staging directory
file_stored   a file under its final key, named by nobody: collection removes it when it is old
published     the batch is visible, exactly once
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from timestore_core.catalog import publish as catalog
from timestore_core.catalog.attempt import Attempt, Claim, ClaimTakenError, Published, StaleFileError, StaleRuleError
from timestore_core.catalog.datasets import find_dataset
from timestore_core.dedupe import Dedupe, dedupe_of, without_repeats
from timestore_core.errors import Unavailable
from timestore_core.ingest.envelope import Envelope, parse_batch
from timestore_core.ingest.rows import content_hash, rows_to_table
from timestore_core.model import Actor, Dataset, StorageTarget, new_id
from timestore_core.partitions.format import WrittenFile
from timestore_core.partitions.inline import AUTO, FILE_FORMAT, encoded, file_format_of, is_in_catalog, path_of
from timestore_core.partitions.inline import FORMAT as INLINE
from timestore_core.partitions.statistics import column_statistics
from timestore_core.partitions.stored import Place, StoredPartition, discard, store_partition
from timestore_core.runtime import Runtime
from timestore_core.times import from_us

# Rows that shrink by more than this are rare: larger batches are not worth the attempt.
_LARGEST_RATIO = 8
# A batch is merged anew where its dataset's rule changed meanwhile, which nobody does all the time.
_TRIES = 5


@dataclass(frozen=True, slots=True)
class Batch:
    """A decoded batch: its envelope, its columns, and the hash that tells it from another."""

    envelope: Envelope
    rows: pa.Table
    content_hash: str


@dataclass(frozen=True, slots=True)
class Work:
    """What one file will hold: the rows of one batch, or of several under one envelope, each with its claim.

    `write_format` and `dataset_metadata` are those of the dataset where this makes it, `dedupe_tags` those of
    `Attempt`. `is_fitted` where it brings columns and knows which of them are tags.
    """

    slug: str
    envelope: Envelope
    rows: pa.Table
    claims: tuple[Claim, ...]
    actor: Actor
    write_format: str = FILE_FORMAT
    dataset_metadata: Mapping[str, Any] = field(default_factory=dict)
    dedupe_tags: tuple[str, ...] = ()
    is_fitted: bool = False


@dataclass(frozen=True, slots=True)
class _Kept:
    """A work with the rows that are left by the rule of its dataset as it was found; `is_merged` where some went."""

    work: Work
    dataset: Dataset | None
    rule: Dedupe | None
    is_merged: bool


@dataclass(frozen=True, slots=True)
class Ingested:
    """What an ingest gave: the publish, its storage target, and how many rows came."""

    published: Published
    target: StorageTarget
    rows: int


def decode_batch(runtime: Runtime, slug: str, body: bytes, header_key: str | None) -> Batch:
    """The batch of the body, every value checked. Raises InvalidRequest; touches nothing."""
    envelope = parse_batch(body, slug, header_key, runtime.settings)
    rows = rows_to_table(envelope.rows_json, envelope.schema, runtime.settings.ingest_max_rows)
    runtime.plugins.step("ingest.decoded")
    # Without a key nothing is ever compared with this batch, unless it waits in a queue.
    compared = envelope.idempotency_key is not None or runtime.queue.deferred
    return Batch(envelope, rows, content_hash(envelope.schema, rows) if compared else "")


def claim_of(batch: Batch, default_key: str | None = None) -> Claim:
    """The claim of a batch: its own idempotency key, else the default."""
    return Claim(batch.envelope.idempotency_key or default_key, batch.content_hash, batch.rows.num_rows)


def work_of(slug: str, batch: Batch, actor: Actor, claim: Claim | None = None) -> Work:
    """The work of a single batch."""
    return Work(slug, batch.envelope, batch.rows, (claim or claim_of(batch),), actor)


def ingest_batch(runtime: Runtime, work: Work, dataset: Dataset | None) -> Ingested:
    """Write the work's file and publish it; a repeated key answers with what it published the first time.

    `dataset` is the dataset of the work's slug as found before, or None where there was none. Raises NotFound for
    an unknown storage target, Conflict for a reused key or an incompatible schema, ClaimTakenError when one of
    several claims was published before, InsufficientStorage and Unavailable when a dependency fails.
    """
    for _ in range(_TRIES):
        try:
            return _ingest(runtime, work, dataset)
        except StaleRuleError:
            dataset = find_dataset(runtime.database, work.slug)
    raise Unavailable(f"the rule of what is one row in {work.slug} changes all the time; try again shortly")


def _ingest(runtime: Runtime, work: Work, dataset: Dataset | None) -> Ingested:
    target = runtime.targets.for_ingest(work.envelope.storage_target_id, dataset)
    received = work.rows.num_rows
    metadata = work.dataset_metadata if dataset is None else dataset.metadata
    rule = dedupe_of(metadata, work.envelope.schema, work.dedupe_tags)
    if rule is not None:
        work = replace(work, rows=without_repeats(work.rows, rule))
    kept = _Kept(work, dataset, rule, is_merged=work.rows.num_rows < received)
    content = _inline_content(runtime, work, dataset)
    # Where no file is written, the transaction finds a known key as soon.
    replay = _replay(runtime, work, dataset) if content is None else None
    if replay is not None:
        return Ingested(replay, _target_of(runtime, replay, target), received)
    if dataset is not None:
        catalog.require_active(dataset)
    if content is not None:
        published = _publish(runtime, kept, _inline(runtime, work, target, content), content)
    else:
        try:
            published = _publish(runtime, kept, _store(runtime, work, target, dataset))
        except StaleFileError:
            published = _publish(runtime, kept, _store(runtime, work, target, dataset))
    if not published.replayed:
        runtime.plugins.observe("timestore_published", dataset=published.dataset, manifest=published.manifest)
    return Ingested(published, _target_of(runtime, published, target), received)


def _replay(runtime: Runtime, work: Work, dataset: Dataset | None) -> Published | None:
    """What the work's key published before, found without writing a file first."""
    if dataset is None:
        return None
    for claim in work.claims:
        replay = catalog.find_replay(runtime.database, dataset, claim)
        if replay is not None and len(work.claims) > 1:
            raise ClaimTakenError
        if replay is not None:
            return replay
    return None


def _store(runtime: Runtime, work: Work, target: StorageTarget, dataset: Dataset | None) -> StoredPartition:
    """Write, verify and checksum the file, then put it under a key that no other attempt can have."""
    envelope = work.envelope
    format_name = file_format_of(_write_format(work, dataset))
    format_ = runtime.plugins.partition_format(format_name)

    def write(path: Path) -> WrittenFile:
        written = format_.write(runtime.writing, path, envelope.table_name, envelope.schema, work.rows)
        if written.rows != work.rows.num_rows:
            raise OSError(f"{path.name}: holds {written.rows} of {work.rows.num_rows} rows")
        return written

    return store_partition(runtime, Place(target, work.slug, envelope.partition_key, format_name), "ingest", write)


def _inline_content(runtime: Runtime, work: Work, dataset: Dataset | None) -> bytes | None:
    """The batch's bytes for the catalog; None where it is to be a file.

    That is where the dataset's format says so, the batch is too large, or compaction is so far behind that the
    catalog has enough of them.
    """
    limit = runtime.settings.ingest_inline_max_bytes
    if _write_format(work, dataset) != AUTO or work.rows.nbytes > limit * _LARGEST_RATIO:
        return None
    if dataset is not None and runtime.inline_load.is_full(dataset.id):
        return None
    content = encoded(work.envelope.schema, work.rows)
    return content if len(content) <= limit else None


def _inline(runtime: Runtime, work: Work, target: StorageTarget, content: bytes) -> StoredPartition:
    """The batch as a partition without a file: its bytes go with the transaction that publishes it."""
    partition_id, checksum = new_id("part"), hashlib.sha1(content, usedforsecurity=False).hexdigest()
    written = WrittenFile(work.rows.num_rows, column_statistics(work.envelope.schema, work.rows))
    runtime.plugins.step("ingest.encoded")
    return StoredPartition(
        partition_id, target, INLINE, path_of(partition_id), len(content), checksum, written, math.inf
    )


def _write_format(work: Work, dataset: Dataset | None) -> str:
    return dataset.write_format if dataset is not None else work.write_format


def _publish(runtime: Runtime, kept: _Kept, stored: StoredPartition, content: bytes | None = None) -> Published:
    work, envelope = kept.work, kept.work.envelope
    attempt = Attempt(
        partition_id=stored.partition_id,
        slug=work.slug,
        dataset_name=envelope.dataset_name,
        target=stored.target,
        schema=envelope.schema,
        table_name=envelope.table_name,
        partition_key=envelope.partition_key,
        start_time=from_us(envelope.time_range.start_us),
        end_time=from_us(envelope.time_range.end_us),
        file_format=stored.format,
        file_path=stored.key,
        file_size_bytes=stored.size_bytes,
        row_count=stored.written.rows,
        checksum=stored.checksum,
        statistics=stored.written.statistics,
        claims=work.claims,
        actor_id=work.actor.id,
        publish_before_s=stored.publish_before_s,
        content=content,
        dataset_is_new=kept.dataset is None,
        write_format=work.write_format,
        dataset_metadata=work.dataset_metadata,
        dedupe_tags=work.dedupe_tags,
        unique_key=None if kept.rule is None else kept.rule.key,
        merged_by=kept.rule if kept.is_merged else None,
        fitted_to=kept.rule if work.is_fitted else None,
    )
    try:
        published = catalog.publish(runtime.database, attempt)
    except Unavailable:
        # Whether the commit arrived is unknown: the file stays, the key decides when the client asks again.
        raise
    except Exception:
        _discard(runtime, stored)
        raise
    if published.replayed:
        _discard(runtime, stored)
    elif content is not None:
        runtime.inline_load.note(published.dataset.id, len(content))
    runtime.plugins.step("ingest.published")
    return published


def _discard(runtime: Runtime, stored: StoredPartition) -> None:
    if not is_in_catalog(stored.key):
        discard(runtime.targets.driver(stored.target), stored.key)


def _target_of(runtime: Runtime, published: Published, target: StorageTarget) -> StorageTarget:
    used = published.partitions[0].storage_target_id if published.partitions else target.id
    return target if used == target.id else runtime.targets.get(used)
