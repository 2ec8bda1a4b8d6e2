"""Buckets of time: which one a row falls into, where it begins, and which ones a range has. SQL over microseconds.

A bucket's key is an integer: microseconds of its start, in UTC or, where clocks that change are in its way, in local
time. Integers group twice as fast as times.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from timestore_core.model import TimeRange
from timestore_core.query.zones import Zone, local_us
from timestore_core.times import from_us

IntervalUnit = Literal["second", "minute", "hour", "day", "week", "month"]

_SECOND_US = 1_000_000
_HOUR_US = 3600 * _SECOND_US
_DAY_US = 24 * _HOUR_US
_WIDTH_US = {
    "second": _SECOND_US,
    "minute": 60 * _SECOND_US,
    "hour": _HOUR_US,
    "day": _DAY_US,
    "week": 7 * _DAY_US,
    # For counting only: no month is shorter.
    "month": 28 * _DAY_US,
}
_LONGEST_MONTH_US = 31 * _DAY_US
# The Monday of the week that holds 1970-01-01.
_WEEK_ORIGIN_US = -3 * _DAY_US


@dataclass(frozen=True, slots=True)
class Bucket:
    """Buckets of `size` units. They begin at 1970-01-01 (weeks at its Monday, 1969-12-29), or at `origin_us`.

    With a `timezone` (an IANA name) they follow the clocks there: a day is from midnight to midnight.
    """

    unit: IntervalUnit
    size: int
    timezone: str | None = None
    origin_us: int | None = None

    @property
    def width_us(self) -> int:
        """Microseconds of one bucket, where clocks do not change; for months, the least that it can have."""
        return _WIDTH_US[self.unit] * self.size

    @property
    def reach_us(self) -> int:
        """At most how long before a time its bucket begins, and a day more: clocks change in between."""
        return (_LONGEST_MONTH_US * self.size if self.is_calendar else self.width_us) + _DAY_US

    @property
    def is_calendar(self) -> bool:
        """Whether its buckets differ in length even without a time zone."""
        return self.unit == "month"

    @property
    def _is_local(self) -> bool:
        """Whether keys are local times: buckets that one change of the clocks makes longer or shorter."""
        return self.timezone is not None and (self.is_calendar or _HOUR_US % self.width_us != 0)

    def count_up_to(self, wanted: TimeRange) -> int:
        """At most how many buckets the range has."""
        return (wanted.end_us - wanted.start_us) // self.width_us + 2

    def key_sql(self, zone: Zone, time: str) -> str:
        """The key of the bucket that the SQL of a time falls into."""
        utc = f"epoch_us({time})"
        if self._is_local:
            return self._start_sql(zone.local_sql(utc))
        if self.timezone is None:
            return self._start_sql(utc)
        start = f"{utc} - {self._past_sql(zone.local_sql(utc))}"
        if all((after - before) % self.width_us == 0 for before, after in _shifts(zone)):
            return start
        # A bucket that the clocks cut in two begins anew where they change.
        return f"greatest({start}, coalesce({zone.last_change_sql(utc)}, {start}))"

    def start_sql(self, zone: Zone, key: str) -> str:
        """UTC microseconds of the bucket's start, of the SQL of its key."""
        return zone.utc_sql(key) if self._is_local else key

    def keys_sql(self, zone: Zone, wanted: TimeRange) -> str:
        """The keys of all buckets that touch the range, as a SELECT of one column `bucket`."""
        ends = f"make_timestamp({wanted.start_us:d})", f"make_timestamp({wanted.end_us:d})"
        first, last = (self.key_sql(zone, end) for end in ends)
        if self.is_calendar:
            months = f"INTERVAL '{self.size:d} months'"
            keys = (
                f"SELECT unnest(generate_series(make_timestamp({first}), make_timestamp({last}), {months})) AS moment"
            )
            keys = f"SELECT epoch_us(moment) AS bucket FROM ({keys})"
        elif self._is_local or not zone.changes:
            keys = f"SELECT unnest(range({first}, {last} + 1, {self.width_us:d})) AS bucket"
        else:
            # Where clocks change in between, every bucket is met by a step, by a change or by the moment before one.
            steps = f"SELECT unnest(range({wanted.start_us:d}, {wanted.end_us:d}, {self.width_us:d})) AS moment"
            more = [f"SELECT {at:d}" for at in (wanted.end_us, *_moments(zone, wanted))]
            union = " UNION ALL ".join([steps, *more])
            return f"SELECT DISTINCT {self.key_sql(zone, 'make_timestamp(moment)')} AS bucket FROM ({union})"
        if not self._is_local or not zone.changes:
            return keys
        # Days that the clocks leaped over begin when the next one does.
        return f"SELECT max(bucket) AS bucket FROM ({keys}) GROUP BY {self.start_sql(zone, 'bucket')}"

    def _start_sql(self, microseconds: str) -> str:
        if self.is_calendar:
            origin = from_us(self._origin_us()).replace(tzinfo=None).isoformat(" ")
            months = f"INTERVAL '{self.size:d} months'"
            return f"epoch_us(time_bucket({months}, make_timestamp({microseconds}), TIMESTAMP '{origin}'))"
        return f"{microseconds} - {self._past_sql(microseconds)}"

    def _past_sql(self, microseconds: str) -> str:
        """How long the bucket has lasted at that time, also where it is before the origin."""
        origin_us, width_us = self._origin_us() % self.width_us, self.width_us
        offset = f"({microseconds} - ({origin_us:d}))" if origin_us else microseconds
        return f"(({offset} % {width_us:d}) + {width_us:d}) % {width_us:d}"

    def _origin_us(self) -> int:
        if self.origin_us is not None:
            return self.origin_us if self.timezone is None else local_us(self.timezone, self.origin_us)
        return _WEEK_ORIGIN_US if self.unit == "week" else 0


def _shifts(zone: Zone) -> list[tuple[int, int]]:
    offsets = [zone.offset_us, *(change.offset_us for change in zone.changes)]
    return list(pairwise(offsets))


def _moments(zone: Zone, wanted: TimeRange) -> list[int]:
    inside = [change.at_us for change in zone.changes if wanted.start_us < change.at_us <= wanted.end_us]
    return [moment for at_us in inside for moment in (at_us - 1, at_us)]
