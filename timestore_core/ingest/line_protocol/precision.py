"""Times of lines, integers of some precision, as microseconds."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from timestore_core.ingest.rows import FIRST_TIME_US, LAST_TIME_US

# Nanoseconds of one unit; None: by the size of the number, as InfluxDB 3 does.
Precision = int | None
NANOSECOND = 1
AUTO: Precision = None
_UNITS = {
    NANOSECOND: ("n", "ns", "nanosecond"),
    1_000: ("u", "us", "µ", "µs", "microsecond"),
    1_000_000: ("ms", "millisecond"),
    1_000_000_000: ("s", "second"),
    60_000_000_000: ("m",),
    3_600_000_000_000: ("h",),
}
_BY_NAME: dict[str, Precision] = {"auto": AUTO, **{name: unit for unit, names in _UNITS.items() for name in names}}
# Below this many seconds, milliseconds, microseconds a number is taken for one of them.
_AUTO_BOUNDS = ((5_000_000_000, 1_000_000_000), (5_000_000_000_000, 1_000_000), (5_000_000_000_000_000, 1_000))


def precision_named(name: str) -> Precision:
    """The precision of this name. Raises KeyError."""
    return _BY_NAME[name]


def unit_of(time: int, precision: Precision) -> int:
    """Nanoseconds of one unit of this time."""
    if precision is not None:
        return precision
    return next((unit for bound, unit in _AUTO_BOUNDS if abs(time) < bound), NANOSECOND)


def time_us(time: int, precision: Precision) -> int:
    """Microseconds of the time; digits below are cut off towards the past. Raises OverflowError out of range."""
    found = time * unit_of(time, precision) // 1_000
    if not FIRST_TIME_US <= found <= LAST_TIME_US:
        raise OverflowError
    return found


def times_us(times: npt.NDArray[np.int64], precision: Precision) -> npt.NDArray[np.int64] | None:
    """Microseconds of all the times, or None where one is out of range or they are of several units."""
    if not len(times):
        return times
    low, high = int(times.min()), int(times.max())
    unit = unit_of(high, precision)
    if unit_of(low, precision) != unit:
        return None
    try:
        time_us(low, unit), time_us(high, unit)
    except OverflowError:
        return None
    # In auto precision numbers between two of one unit might be of a smaller one only around zero.
    if precision is None and low < 0 < high:
        return None
    return times * (unit // 1_000) if unit >= 1_000 else times // 1_000
