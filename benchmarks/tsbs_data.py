"""Data like TSBS's cpu-only: hosts with ten tags and ten metrics, a row per host every ten seconds.

The metrics are random walks between 0 and 100 that are reflected at both ends, which unlike TSBS's clamped ones need no
loop over the rows, and are kept to two decimals. The same seed gives the same rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

HOSTS = 100
INTERVAL_S = 10
FIRST = datetime(2016, 1, 1, tzinfo=UTC)
TAGS = (
    "hostname",
    "region",
    "datacenter",
    "rack",
    "os",
    "arch",
    "team",
    "service",
    "service_version",
    "service_environment",
)
METRICS = (
    "usage_user",
    "usage_system",
    "usage_idle",
    "usage_nice",
    "usage_iowait",
    "usage_irq",
    "usage_softirq",
    "usage_steal",
    "usage_guest",
    "usage_guest_nice",
)
COLUMNS = ("timestamp", *TAGS, *METRICS)

_SEED = 123
_REGIONS = ("eu-central-1", "eu-west-1", "us-east-1", "us-west-1", "us-west-2", "sa-east-1", "ap-southeast-1")
_POINTS_PER_BATCH = 1_000


def points(*, quick: bool) -> int:
    """How many rows each host has: three days of them, or three hours."""
    return (3 if quick else 72) * 3600 // INTERVAL_S


def batches(count: int) -> Iterator[pa.Table]:
    """The rows of `count` points in time's order, at each point a row per host, 100,000 rows a batch."""
    random = np.random.default_rng(_SEED)
    tags = _tags(random)
    level = random.uniform(0, 100, (len(METRICS), HOSTS))
    for begin in range(0, count, _POINTS_PER_BATCH):
        length = min(_POINTS_PER_BATCH, count - begin)
        walk = level[:, None, :] + np.cumsum(random.normal(0, 1, (len(METRICS), length, HOSTS)), axis=1)
        level = walk[:, -1, :]
        hosts = np.tile(np.arange(HOSTS, dtype=np.int32), length)
        seconds = np.repeat(np.arange(begin, begin + length, dtype=np.int64) * INTERVAL_S, HOSTS)
        columns: dict[str, pa.Array] = {
            "timestamp": pa.array((seconds + int(FIRST.timestamp())) * 1_000_000, pa.timestamp("us", tz="UTC"))
        }
        for name, values in tags.items():
            columns[name] = pa.DictionaryArray.from_arrays(pa.array(hosts), values)
        for name, one in zip(METRICS, walk, strict=True):
            columns[name] = pa.array(np.round(_reflected(one), 2).ravel())
        yield pa.table(columns)


def _reflected(walk: np.ndarray) -> np.ndarray:
    """The walk folded into 0 to 100, as if the ends were mirrors."""
    folded: np.ndarray = 100 - np.abs(np.mod(walk, 200) - 100)
    return folded


def _tags(random: np.random.Generator) -> dict[str, pa.Array]:
    """Each tag's value for each host."""
    regions = [_REGIONS[one] for one in random.integers(0, len(_REGIONS), HOSTS)]

    def numbers(below: int) -> list[str]:
        return [str(one) for one in random.integers(0, below, HOSTS)]

    def among(*values: str) -> list[str]:
        return [values[one] for one in random.integers(0, len(values), HOSTS)]

    values = {
        "hostname": [f"host_{number}" for number in range(HOSTS)],
        "region": regions,
        "datacenter": [f"{region}{zone}" for region, zone in zip(regions, among("a", "b", "c"), strict=True)],
        "rack": numbers(100),
        "os": among("Ubuntu16.10", "Ubuntu16.04LTS", "Ubuntu15.10"),
        "arch": among("x64", "x86"),
        "team": among("SF", "NYC", "LON", "CHI"),
        "service": numbers(20),
        "service_version": numbers(2),
        "service_environment": among("production", "staging", "test"),
    }
    return {name: pa.array(values[name], pa.string()) for name in TAGS}
