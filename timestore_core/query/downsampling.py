"""What a client says of buckets beyond their width, checked: time zone, origin, and what stands where nothing does."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from timestore_core.errors import Problem
from timestore_core.query.buckets import Bucket, IntervalUnit
from timestore_core.query.zones import local_us, zone_names
from timestore_core.times import from_us, parse_time_us

_EARLIEST_US, _LATEST_US = parse_time_us("0002-01-01"), parse_time_us("9998-12-31")

FillWord = Literal["null", "previous", "linear"]


@dataclass(frozen=True, slots=True)
class Fill:
    """What a bucket in range without rows has: NULL, what the one before it has, what lies between its neighbours
    in proportion to the time, or a value. Nothing is taken from outside the range."""

    how: Literal["null", "previous", "linear", "value"]
    value: float | None = None


def checked_fill(fill: FillWord | float | None, problems: list[Problem]) -> Fill | None:
    """The fill; what is wrong with it is added to the problems. JSON's null fills with NULL."""
    if fill is None:
        return Fill("null")
    if isinstance(fill, str):
        return Fill(fill)
    if not math.isfinite(fill):
        problems.append(Problem("downsample.fill", "must be null, previous, linear or a finite number"))
        return None
    return Fill("value", fill)


def checked_bucket(
    unit: IntervalUnit, size: int, timezone: str | None, origin: str | None, problems: list[Problem]
) -> Bucket:
    """The bucket; what is wrong with its zone or origin is added to the problems."""
    if timezone is not None and timezone not in zone_names():
        problems.append(
            Problem("downsample.timezone", f"{timezone[:60]!r} is no IANA time zone such as Europe/Berlin or UTC")
        )
        timezone = None
    origin_us = None
    if origin is not None:
        try:
            origin_us = parse_time_us(origin)
        except ValueError as error:
            problems.append(Problem("downsample.origin", f"{origin[:40]!r} {error}"))
    if origin_us is not None and not _EARLIEST_US <= origin_us <= _LATEST_US:
        problems.append(Problem("downsample.origin", "must be a time of the years 2 to 9998"))
        origin_us = None
    if origin_us is not None and unit == "month" and not _begins_a_month(origin_us, timezone):
        problems.append(Problem("downsample.origin", "must be the midnight at which a month begins"))
    return Bucket(unit, size, timezone, origin_us)


def _begins_a_month(origin_us: int, timezone: str | None) -> bool:
    there = from_us(origin_us if timezone is None else local_us(timezone, origin_us))
    return (there.day, there.hour, there.minute, there.second, there.microsecond) == (1, 0, 0, 0, 0)
