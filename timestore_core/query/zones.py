"""A time zone over a span of time, as the few moments at which its clocks change."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from timestore_core.times import from_us

_SECOND_US = 1_000_000
_DAY_US = 86_400 * _SECOND_US
# No zone has changed its clocks and back within less than this, but for a few moments before 1920.
_STEP_US = 7 * _DAY_US
# What the machine is set to, and what it is before it is set.
_NO_ZONES = {"localtime", "Factory"}
_FIRST_US, _LAST_US = -62_135_510_400 * _SECOND_US, 253_402_214_400 * _SECOND_US


@dataclass(frozen=True, slots=True)
class ClockChange:
    """From `at_us` on (UTC) local clocks are `offset_us` ahead of UTC."""

    at_us: int
    offset_us: int


@dataclass(frozen=True, slots=True)
class Zone:
    """Local time over a span: `offset_us` at its begin, then the changes in order."""

    offset_us: int
    changes: tuple[ClockChange, ...]

    def local_sql(self, utc: str) -> str:
        """Local microseconds of the SQL of UTC microseconds."""
        if not self.changes:
            return f"({utc} + ({self.offset_us:d}))"
        cases, offset_us = [], self.offset_us
        for change in self.changes:
            cases.append(f"WHEN {utc} < {change.at_us:d} THEN {offset_us:d}")
            offset_us = change.offset_us
        return f"({utc} + CASE {' '.join(cases)} ELSE {offset_us:d} END)"

    def utc_sql(self, local: str) -> str:
        """UTC microseconds of the SQL of local ones: the first such moment where clocks were set back.

        Where they were set forward over it, the moment of the change.
        """
        if not self.changes:
            return f"({local} - ({self.offset_us:d}))"
        cases, offset_us = [], self.offset_us
        for change in self.changes:
            cases.append(f"WHEN {local} < {change.at_us + offset_us:d} THEN {local} - ({offset_us:d})")
            if change.offset_us > offset_us:
                cases.append(f"WHEN {local} < {change.at_us + change.offset_us:d} THEN {change.at_us:d}")
            offset_us = change.offset_us
        return f"CASE {' '.join(cases)} ELSE {local} - ({offset_us:d}) END"

    def last_change_sql(self, utc: str) -> str:
        """The change before or at the SQL of UTC microseconds, or NULL before the first."""
        cases = [f"WHEN {utc} >= {change.at_us:d} THEN {change.at_us:d}" for change in reversed(self.changes)]
        return f"CASE {' '.join(cases)} END" if cases else "NULL"


UTC_ZONE = Zone(0, ())


@lru_cache(maxsize=1)
def zone_names() -> frozenset[str]:
    """The names of the IANA database that are known here."""
    return (frozenset(available_timezones()) | {"UTC"}) - _NO_ZONES


@lru_cache(maxsize=64)
def zone_over(name: str, start_us: int, end_us: int) -> Zone:
    """The zone over a span of UTC microseconds. Raises ZoneInfoNotFoundError for an unknown name."""
    if name not in zone_names():
        raise ZoneInfoNotFoundError(name)
    zone = ZoneInfo(name)
    start_us, end_us = max(start_us, _FIRST_US), min(end_us, _LAST_US)
    first = offset = _offset_us(zone, min(start_us, end_us))
    changes = []
    at_us = start_us
    while at_us < end_us:
        next_us = min(at_us + _STEP_US, end_us)
        found = _offset_us(zone, next_us)
        if found != offset:
            changes.append(ClockChange(_change_between(zone, at_us, next_us), found))
            offset = found
        at_us = next_us
    return Zone(first, tuple(changes))


@lru_cache(maxsize=256)
def local_us(name: str, utc_us: int) -> int:
    """Local microseconds of UTC ones in the zone of this name."""
    return utc_us + _offset_us(ZoneInfo(name), max(_FIRST_US, min(utc_us, _LAST_US)))


def _change_between(zone: ZoneInfo, low_us: int, high_us: int) -> int:
    """The moment, at a full second, at which the offset of the first becomes that of the second."""
    before = _offset_us(zone, low_us)
    low, high = low_us // _SECOND_US, -(-high_us // _SECOND_US)
    while high - low > 1:
        middle = (low + high) // 2
        if _offset_us(zone, middle * _SECOND_US) == before:
            low = middle
        else:
            high = middle
    return high * _SECOND_US


def _offset_us(zone: ZoneInfo, utc_us: int) -> int:
    offset = from_us(utc_us).astimezone(zone).utcoffset()
    assert offset is not None
    return round(offset.total_seconds()) * _SECOND_US
