"""Measuring two things in turn, so that a busy machine is busy for both."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pair:
    """Median milliseconds of the floor and of Timestore, taken in the same minutes."""

    floor_ms: float
    measured_ms: float


def alternate(floor: Callable[[], object], measured: Callable[[], object], rounds: int, warm_up: int = 2) -> Pair:
    """Run both `rounds` times, one after the other, after a few rounds that do not count."""
    for _ in range(warm_up):
        floor()
        measured()
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        times[0].append(milliseconds(floor))
        times[1].append(milliseconds(measured))
    return Pair(statistics.median(times[0]), statistics.median(times[1]))


def milliseconds(work: Callable[[], object]) -> float:
    """How long the work takes once."""
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1000
