"""Partitions that stand in the catalog, taken together for planning: one record for all of a key and a set of columns.

A query plans over a few of these instead of a thousand. Where a version only adds some, they are added; nothing is
computed anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from timestore_core.model import ColumnStatistics, Partition, Schema
from timestore_core.partitions.statistics import common_decimals

_FORMAT = "inline"
_FEW_VALUES = 64

Key = tuple[Schema, tuple[tuple[str, str], ...]]


@dataclass(frozen=True, slots=True)
class Joined:
    """A snapshot's partitions: each file, and the others together."""

    files: Mapping[str, Partition] = field(default_factory=dict)
    groups: Mapping[Key, Partition] = field(default_factory=dict)

    @property
    def partitions(self) -> tuple[Partition, ...]:
        return (*self.files.values(), *self.groups.values())


def joined(partitions: Iterable[Partition], onto: Joined | None = None) -> Joined:
    """The partitions taken together, with those that were before."""
    files: dict[str, Partition] = dict(onto.files) if onto is not None else {}
    groups: dict[Key, Partition] = dict(onto.groups) if onto is not None else {}
    added: dict[Key, list[Partition]] = {}
    for one in partitions:
        if one.file_format == _FORMAT:
            key = (one.schema, tuple(sorted(one.partition_key.items())))
            added.setdefault(key, []).append(one)
        else:
            files[one.id] = one
    for key, some in added.items():
        known = groups.get(key)
        groups[key] = _together([*([known] if known is not None else []), *some])
    return Joined(files, groups)


def members_of(partition: Partition) -> tuple[str, ...]:
    """The ids of the partitions that this one stands for: often its own alone."""
    return partition.members or (partition.id,)


def _together(parts: list[Partition]) -> Partition:
    last = parts[-1]
    return replace(
        last,
        file_size_bytes=sum(one.file_size_bytes for one in parts),
        row_count=sum(one.row_count for one in parts),
        start_time=min(one.start_time for one in parts),
        end_time=max(one.end_time for one in parts),
        checksum=None,
        statistics={name: _merged(name, parts) for name in last.statistics},
        members=tuple(id_ for one in parts for id_ in members_of(one)),
    )


def _merged(name: str, parts: list[Partition]) -> ColumnStatistics:
    """What is known of the column over all of them. Where the bounds of one are not known, none are."""
    known = [(one.statistics.get(name), one.row_count) for one in parts]
    nulls = sum(one.nulls for one, _ in known if one is not None)
    if any(one is None or (one.minimum is None and one.nulls < rows) for one, rows in known):
        return ColumnStatistics(None, None, nulls, exact=False)
    lows = [one.minimum for one, _ in known if one is not None and one.minimum is not None]
    highs = [one.maximum for one, _ in known if one is not None and one.maximum is not None]
    exact = all(one.exact for one, _ in known if one is not None)
    if not lows:
        return ColumnStatistics(None, None, nulls, exact)
    decimals = common_decimals(name, parts) if parts[-1].schema.type_of(name) == "double" else None
    return ColumnStatistics(min(lows), max(highs), nulls, exact, _values(known), decimals)


def _values(known: list[tuple[ColumnStatistics | None, int]]) -> frozenset[str] | None:
    """All values that the column has, where each part knows its own and they are still few."""
    found: frozenset[str] = frozenset()
    for one, rows in known:
        if one is None or (one.values is None and one.nulls < rows):
            return None
        found |= one.values or frozenset()
    return found if 0 < len(found) <= _FEW_VALUES else None
