"""How result columns are called by default."""

from __future__ import annotations

import math
from collections.abc import Callable

from timestore_core.aggregations import Parameters


def prefixed(name: str) -> Callable[[str | None, Parameters], str]:
    """The function's name and the column's."""
    return lambda column, _: f"{name}_{column}"


def percentile(kind: str = "") -> Callable[[str | None, Parameters], str]:
    """The percentage, and the kind of percentile where it is not the contract's: `p95_latency`."""
    return lambda column, parameters: f"p{math.floor(100 * parameters['percentile'] + 0.5)}{kind}_{column}"
