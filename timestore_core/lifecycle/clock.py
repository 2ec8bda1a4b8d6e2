"""What time it is, for everything that expires: PostgreSQL's, and only where this host does not contradict it."""

from __future__ import annotations

import time
from datetime import datetime

from timestore_core.catalog.database import Database, translated
from timestore_core.errors import TimestoreError

TOLERANCE_S = 60


class ClockError(TimestoreError):
    """The clocks of this host and of PostgreSQL disagree: nothing is expired by either."""

    default_code = "clock"


def expiry_time(database: Database) -> datetime:
    """PostgreSQL's time. Raises ClockError when this host's clock is more than a minute away from it."""
    before_s = time.time()
    with translated(), database.connection() as connection:
        found = connection.execute("SELECT clock_timestamp() AS now").fetchone()
    after_s = time.time()
    assert found is not None
    now: datetime = found["now"]
    asked_for_s = (after_s - before_s) / 2
    apart_s = now.timestamp() - (before_s + asked_for_s)
    if abs(apart_s) > TOLERANCE_S + abs(asked_for_s):
        raise ClockError(
            f"this host's clock and PostgreSQL's are {abs(apart_s):.0f} s apart (at most {TOLERANCE_S} s are fine); "
            "nothing was removed. Set the clocks right (NTP) and run it again"
        )
    return now
