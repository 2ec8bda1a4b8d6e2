"""Times on the wire: ISO-8601 in, integer microseconds inside, ISO-8601 UTC out."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)

_ISO = re.compile(
    r"(?P<date>\d{4}-\d{2}-\d{2})"
    r"(?:[T ](?P<clock>\d{2}:\d{2}(?::\d{2})?)(?:[.,](?P<fraction>\d{1,9}))?(?P<zone>Z|z|[+-]\d{2}(?::?\d{2})?)?)?",
    re.ASCII,
)


def running_s() -> float:
    """Seconds of a clock that nobody sets, and that goes on while the process is stopped or the host sleeps."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def parse_time_us(text: str) -> int:
    """Microseconds since 1970-01-01 UTC of an ISO-8601 time between the years 1 and 9999.

    A time without a zone is UTC; a date alone is its midnight. Raises ValueError, whose text says what is
    wrong, for anything else: second 60, an unknown zone, and digits below the microsecond that are not zero.
    """
    match = _ISO.fullmatch(text)
    if match is None:
        raise ValueError("is not an ISO-8601 time such as 2024-01-01T00:00:00.000Z")
    fraction = match["fraction"] or ""
    if match["clock"] is not None and len(match["clock"]) == 5 and fraction:
        raise ValueError("is not an ISO-8601 time: a fraction needs seconds before it")
    if fraction[6:].strip("0"):
        raise ValueError("is finer than a microsecond, which would be rounded; send at most six digits")
    zone = (match["zone"] or "Z").upper()
    try:
        moment = datetime.fromisoformat(f"{match['date']}T{match['clock'] or '00:00'}")
        offset = datetime.strptime("+00:00" if zone == "Z" else zone.ljust(5, "0"), "%z").utcoffset()
        assert offset is not None
        moment = moment.replace(tzinfo=UTC, microsecond=int(fraction[:6].ljust(6, "0"))) - offset
    except (ValueError, OverflowError):
        raise ValueError("is not a time between 0001-01-01 and 9999-12-31T23:59:59.999999Z") from None
    return to_us(moment)


def to_us(moment: datetime) -> int:
    """Microseconds since 1970-01-01 UTC of an aware time."""
    return (moment - EPOCH) // MICROSECOND


def from_us(microseconds: int) -> datetime:
    """The aware UTC time; inverse of `to_us`."""
    return EPOCH + microseconds * MICROSECOND


def format_time(moment: datetime) -> str:
    """ISO-8601 UTC with milliseconds and Z; with microseconds only where the value has them."""
    moment = moment.astimezone(UTC)
    precision = "milliseconds" if moment.microsecond % 1000 == 0 else "microseconds"
    return moment.replace(tzinfo=None).isoformat(timespec=precision) + "Z"
