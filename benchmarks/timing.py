"""Measuring two things in turn, so that a busy machine is busy for both."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pair:
    """Median milliseconds of the floor and of Timestore, taken in the same minutes."""

    floor_ms: float
    measured_ms: float


def alternate(floor: Callable[[], object], measured: Callable[[], object], rounds: int, warm_up: int = 2) -> Pair:
    """Run both `rounds` times, one after the other, after a few rounds that do not count."""
    return Pair(*in_turn((floor, measured), rounds, warm_up))


def in_turn(works: Sequence[Callable[[], object]], rounds: int, warm_up: int = 2) -> list[float]:
    """Median milliseconds of each, run `rounds` times one after the other, after a few rounds that do not count."""
    for _ in range(warm_up):
        for work in works:
            work()
    times: list[list[float]] = [[] for _ in works]
    for _ in range(rounds):
        for taken, work in zip(times, works, strict=True):
            taken.append(milliseconds(work))
    return [statistics.median(taken) for taken in times]


def milliseconds(work: Callable[[], object]) -> float:
    """How long the work takes once."""
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1000
