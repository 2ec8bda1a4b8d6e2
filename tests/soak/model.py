"""What each version of a dataset must hold, from what the writers sent and what the audit log says was done.

Which rows there are is known from the writers alone. The audit log only tells which version took which batch, and
which partitions a version replaced or removed; what was in them follows from the batches again. So compaction and
tiering may change nothing, retention removes whole partitions that are due, delete-rows the rows of its range, and
restoring gives an earlier version back. The service's own row counts are held against that, never believed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.soak.batches import Batch, Bits, Key, selected
from timestore_core.times import parse_time_us

INGEST = "ingest.published"
COMPACTION = "compaction.group.compacted"
RETENTION = "retention.partition.deleted"
TIERING = "tiering.partition.moved"
DELETION = "admin.rows.deleted"
RESTORE = "admin.version.restored"
CHANGES = (INGEST, COMPACTION, RETENTION, TIERING, DELETION, RESTORE)

Held = Mapping[int, Bits]
Payload = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Added:
    """A partition's row as the catalog got it: under which id and path, and where it begins."""

    id: str
    path: str
    key: Key
    start_us: int
    rows: int


@dataclass(frozen=True, slots=True)
class Change:
    """One version: its lines in the audit log, and the partitions that came with it."""

    version: int
    events: Sequence[tuple[str, Payload]]
    added: Sequence[Added]


@dataclass(frozen=True, slots=True)
class Part:
    """A partition of a version, and which rows of which batches its file holds."""

    id: str
    path: str
    key: Key
    start_us: int
    held: Held

    @property
    def rows(self) -> int:
        return sum(bits.bit_count() for bits in self.held.values())


Layout = Mapping[str, Part]


@dataclass
class Model:
    """One dataset, version by version. What cannot be right goes to `report`.

    `batch_of` finds the batch of an idempotency key; `max_age_hours` and `max_total_bytes` are the retention policy.
    """

    slug: str
    batch_of: Callable[[str], Batch | None]
    report: Callable[[str], None]
    max_age_hours: float | None = None
    max_total_bytes: int | None = None
    batches: dict[int, Batch] = field(default_factory=dict)
    published: dict[int, int] = field(default_factory=dict)
    layouts: list[Layout] = field(default_factory=lambda: [{}])
    totals: list[int] = field(default_factory=lambda: [0])
    restored: list[int] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    _paths: set[str] = field(default_factory=set)
    _unnamed: dict[str, Added] = field(default_factory=dict)

    @property
    def version(self) -> int:
        return len(self.layouts) - 1

    def layout(self, version: int) -> Layout:
        return self.layouts[version]

    def rows_in(self, version: int, start_us: int, end_us: int, wanted: Mapping[str, tuple[str, ...]]) -> Held:
        """The rows of a version in a range of time, both ends inclusive, with these values of the partition key."""
        found: dict[int, Bits] = {}
        for part in self.layouts[version].values():
            if not selected(part.key, wanted):
                continue
            for number, bits in part.held.items():
                inside = bits & self.batches[number].within(start_us, end_us)
                if inside:
                    found[number] = found.get(number, 0) | inside
        return found

    def apply(self, change: Change) -> None:
        """The next version. Its number, its events and its partitions have to fit to the ones before."""
        while self.version + 1 < change.version:
            self._fault(self.version + 1, "no line of the audit log says what it did")
            self._append(self.layouts[-1])
        layout = dict(self.layouts[-1])
        self._unnamed = {one.id: one for one in change.added}
        for one in change.added:
            if one.path in self._paths and change.events[0][0] != RESTORE:
                self._fault(change.version, f"the name {one.path} was used before")
            self._paths.add(one.path)
        kinds = {kind for kind, _ in change.events}
        if len(kinds) > 1:
            self._fault(change.version, f"several things made it: {sorted(kinds)}")
        for kind, payload in change.events:
            self.done[kind] += 1
            _APPLY[kind](self, change.version, layout, payload)
        for one in self._unnamed.values():
            self._fault(change.version, f"the partition {one.id} of {one.rows} rows came, and nothing says why")
        self._append(layout)

    def _append(self, layout: Layout) -> None:
        self.layouts.append(layout)
        self.totals.append(sum(part.rows for part in layout.values()))

    def _fault(self, version: int, text: str) -> None:
        self.report(f"{self.slug!r} version {version}: {text}")

    def _ingest(self, version: int, layout: dict[str, Part], payload: Payload) -> None:
        (key,) = payload["idempotencyKeys"]
        batch = self.batch_of(key)
        if batch is None or batch.slug != self.slug:
            self._fault(version, f"{key!r} is no batch that was sent to it")
            return
        if batch.number in self.published:
            self._fault(version, f"doubled: {key} was published by version {self.published[batch.number]} already")
        self.batches[batch.number] = batch
        self.published[batch.number] = version
        if payload["rowCount"] != batch.count:
            self._fault(version, f"{key} has {batch.count} rows, {payload['rowCount']} of them arrived")
        self._add(version, layout, payload["partitionId"], batch.key, {batch.number: batch.all_rows})

    def _compact(self, version: int, layout: dict[str, Part], payload: Payload) -> None:
        sources = self._take(version, layout, payload["sourcePartitionIds"])
        if len({part.key for part in sources}) > 1:
            self._fault(version, f"partitions of several keys were compacted: {sorted({part.key for part in sources})}")
        held = self._union(version, sources)
        if payload["rowCount"] != _count(held):
            self._fault(version, f"compacted {_count(held)} rows to {payload['rowCount']}")
        if sources:
            self._add(version, layout, payload["replacementPartitionId"], sources[0].key, held)

    def _tier(self, version: int, layout: dict[str, Part], payload: Payload) -> None:
        for part in self._take(version, layout, [payload["partitionId"]]):
            self._add(version, layout, payload["replacementPartitionId"], part.key, part.held)

    def _retain(self, version: int, layout: dict[str, Part], payload: Payload) -> None:
        for part in self._take(version, layout, [payload["partitionId"]]):
            if payload["rowCount"] != part.rows:
                self._fault(version, f"retention says {payload['rowCount']} rows of {part.id}, it had {part.rows}")
            if payload["reason"] == "maxTotalBytes" and self.max_total_bytes is not None:
                continue
            if payload["reason"] != "maxAgeHours" or self.max_age_hours is None:
                self._fault(version, f"retention removed {part.id} for a rule that there is not: {payload['reason']}")
                continue
            # The judgement's time is written down to the millisecond.
            due_us = parse_time_us(payload["judgedAt"]) + 1000 - self.max_age_hours * 3_600_000_000
            early = [number for number, bits in part.held.items() if self.batches[number].last_us(bits) > due_us]
            if early:
                self._fault(version, f"lost: retention removed batches {early} before their time")

    def _delete(self, version: int, layout: dict[str, Part], payload: Payload) -> None:
        wanted = {name: tuple(values) for name, values in payload["partitionKey"].items()}
        gone = 0
        for part in self._take(version, layout, payload["partitionIds"]):
            if not selected(part.key, wanted):
                self._fault(version, f"delete-rows touched {part.id} of the key {part.key}, which was not meant")
            held: dict[int, Bits] = {}
            for number, bits in part.held.items():
                inside = bits & self.batches[number].within(payload["startUs"], payload["endUs"])
                gone += inside.bit_count()
                if bits & ~inside:
                    held[number] = bits & ~inside
            if held:
                self._succeed(version, layout, part, held)
        if payload["rowCount"] != gone:
            self._fault(version, f"delete-rows says {payload['rowCount']} rows, its range had {gone}")

    def _succeed(self, version: int, layout: dict[str, Part], part: Part, held: Held) -> None:
        """What is left of a partition stands in a new one that begins where it began."""
        for one in self._unnamed.values():
            if (one.key, one.start_us) == (part.key, part.start_us):
                self._add(version, layout, one.id, part.key, held)
                return
        self._fault(version, f"lost: delete-rows left {_count(held)} rows of {part.id} nowhere")

    def _restore(self, version: int, layout: dict[str, Part], payload: Payload) -> None:
        before = self.layouts[payload["restoredVersion"]]
        current = {part.path: part for part in layout.values()}
        come = {one.path: one for one in self._unnamed.values()}
        layout.clear()
        copied = 0
        for part in before.values():
            if part.path in current:
                kept = current.pop(part.path)
                layout[kept.id] = kept
            elif part.path in come:
                copied += 1
                self._add(version, layout, come[part.path].id, part.key, part.held)
            else:
                self._fault(version, f"lost: {part.path} of version {payload['restoredVersion']} was not brought back")
        if (payload["added"], payload["removed"]) != (copied, len(current)):
            self._fault(version, f"restoring added {copied} and removed {len(current)} partitions, not {payload}")
        self.restored.append(version)

    def _take(self, version: int, layout: dict[str, Part], ids: Sequence[str]) -> list[Part]:
        """Take the partitions out of the layout, where each has to be."""
        found = []
        for one in ids:
            if one in layout:
                found.append(layout.pop(one))
            else:
                self._fault(version, f"the partition {one} was taken away, which version {version - 1} does not have")
        return found

    def _add(self, version: int, layout: dict[str, Part], id_: str, key: Key, held: Held) -> None:
        come = self._unnamed.pop(id_, None)
        if come is None:
            self._fault(version, f"lost: the partition {id_} of {_count(held)} rows is announced and did not come")
            return
        if come.key != key or come.rows != _count(held):
            text = f"the partition {id_} has {come.rows} rows of {come.key}, not {_count(held)} of {key}"
            self._fault(version, text)
        layout[id_] = Part(id_, come.path, key, come.start_us, held)

    def _union(self, version: int, parts: Sequence[Part]) -> Held:
        held: dict[int, Bits] = {}
        for part in parts:
            for number, bits in part.held.items():
                if held.get(number, 0) & bits:
                    self._fault(version, f"doubled: rows of batch {number} were in two of its sources")
                held[number] = held.get(number, 0) | bits
        return held


_APPLY: Mapping[str, Callable[[Model, int, dict[str, Part], Payload], None]] = {
    INGEST: Model._ingest,
    COMPACTION: Model._compact,
    RETENTION: Model._retain,
    TIERING: Model._tier,
    DELETION: Model._delete,
    RESTORE: Model._restore,
}


def _count(held: Held) -> int:
    return sum(bits.bit_count() for bits in held.values())
