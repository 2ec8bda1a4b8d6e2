"""Whole partitions that are past their age, or beyond the size that the dataset may have, leave the snapshot.

Their files stay for the grace period, so that running queries finish and what was removed can be restored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from timestore_core.catalog.change import Change, Event, InputsGoneError, publish_change
from timestore_core.catalog.database import Row
from timestore_core.lifecycle.clock import expiry_time
from timestore_core.lifecycle.live import LivePartition, live_partitions
from timestore_core.lifecycle.operation import Maintenance, Outcome
from timestore_core.lifecycle.policy import Policy, policy_of
from timestore_core.times import format_time, from_us

CREATED_BY = "timestore-retention"
# The dataset's row is locked while a version is written: ingest does not wait for longer than this many lines take.
_PER_VERSION = 1000
MAX_AGE = "maxAgeHours"
MAX_TOTAL_BYTES = "maxTotalBytes"


@dataclass(frozen=True, slots=True)
class Expired:
    """A partition that has to go, and which rule says so."""

    partition: LivePartition
    reason: str


def retain(maintenance: Maintenance) -> Outcome:
    """Remove what the dataset's policy says. Raises ClockError where it is not certain what time it is."""
    runtime, dataset = maintenance.runtime, maintenance.dataset
    policy = policy_of(runtime, dataset)
    now = expiry_time(runtime.database)
    live = live_partitions(runtime.database, dataset.id)
    expired = find_expired(live, policy, now)
    going, held_back = (expired, 0) if maintenance.asked else _share_of(expired, live, maintenance)
    if not going:
        return Outcome("skipped", "no partition is past its age or beyond the allowed size")
    rows, size_bytes = sum(one.partition.rows for one in going), sum(one.partition.bytes for one in going)
    message = None
    if held_back:
        share = runtime.settings.lifecycle_retention_max_share_percent
        message = (
            f"{held_back} more partitions have to go, but a scheduled run removes at most {share} % of a dataset "
            "(TIMESTORE_LIFECYCLE_RETENTION_MAX_SHARE_PERCENT); the next ones follow, or run retention by hand"
        )
    if maintenance.dry_run:
        shown = [{**one.partition.to_json(), "reason": one.reason} for one in going[:1000]]
        details = {"dryRun": True, "partitionsToRemove": shown, "rows": rows}
        return Outcome("completed", message, len(going), len(going), size_bytes, (), details)
    audit: list[Row] = []
    try:
        for start in range(0, len(going), _PER_VERSION):
            audit += _remove(maintenance, going[start : start + _PER_VERSION], policy, now)
    except InputsGoneError:
        return Outcome("skipped", "the partitions changed meanwhile; the next run looks again", audit=tuple(audit))
    return Outcome("completed", message, len(going), len(going), size_bytes, tuple(audit), {"rows": rows})


def _remove(maintenance: Maintenance, going: Sequence[Expired], policy: Policy, now: datetime) -> tuple[Row, ...]:
    change = Change(
        dataset_id=maintenance.dataset.id,
        dataset_slug=maintenance.dataset.slug,
        removed=[one.partition.id for one in going],
        added=(),
        events=[Event("retention.partition.deleted", _payload(one, policy, now)) for one in going],
        created_by=CREATED_BY,
        reason="retention",
    )
    changed = publish_change(maintenance.runtime.database, change)
    maintenance.runtime.plugins.step("retention.published")
    return changed.audit


def find_expired(live: Sequence[LivePartition], policy: Policy, now: datetime) -> list[Expired]:
    """What has to go, oldest first: all rows past the age, then as much as the size asks for."""
    oldest_first = sorted(live, key=lambda one: (_last_time(one), one.id))
    expired = []
    kept = oldest_first
    if policy.max_age is not None:
        expired = [Expired(one, MAX_AGE) for one in oldest_first if now - _last_time(one) > policy.max_age]
        kept = oldest_first[len(expired) :]
    if policy.max_total_bytes is not None:
        total = sum(one.bytes for one in kept)
        for one in kept:
            if total <= policy.max_total_bytes:
                break
            expired.append(Expired(one, MAX_TOTAL_BYTES))
            total -= one.bytes
    return expired


def _last_time(one: LivePartition) -> datetime:
    """The last time that the partition may hold: what its envelope says, or a later row's."""
    return one.end_time if one.last_us is None else max(one.end_time, from_us(one.last_us))


def _share_of(
    expired: list[Expired], live: Sequence[LivePartition], maintenance: Maintenance
) -> tuple[list[Expired], int]:
    """The oldest, up to the allowed share of the rows; a single partition may always go."""
    allowed = sum(one.rows for one in live) * maintenance.runtime.settings.lifecycle_retention_max_share_percent // 100
    going = 0
    for one in expired:
        allowed -= one.partition.rows
        if allowed < 0 and going > 0:
            break
        going += 1
    return expired[:going], len(expired) - going


def _payload(one: Expired, policy: Policy, now: datetime) -> dict[str, object]:
    partition = one.partition
    limit = (policy.max_age and policy.max_age.total_seconds() / 3600) if one.reason == MAX_AGE else None
    return {
        "partitionId": partition.id,
        "reason": one.reason,
        "limit": limit if one.reason == MAX_AGE else policy.max_total_bytes,
        "judgedAt": format_time(now),
        "rowCount": partition.rows,
        "fileSizeBytes": partition.bytes,
        "startTime": format_time(partition.start_time),
        "endTime": format_time(partition.end_time),
        "storageTargetId": partition.storage_target_id,
    }
