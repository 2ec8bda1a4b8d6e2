"""Many clients at once: how long the unlucky ones wait, and what is refused."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import msgspec

from benchmarks.goals import CROWD_P99, NONE_OF_THEM, Result
from benchmarks.service import Client
from benchmarks.tsbs_questions import TYPES, questions

_CLIENTS = 64
_DRAWN = 256
# A client that was refused comes again after this; its wait is not part of any answer's time.
_PAUSE_S = 0.1


def crowd_cases(client: Client, slug: str, points: int, *, quick: bool) -> Iterator[Result]:
    """One question after the other from each client: the middle answer, the 99th of a hundred, and the rest."""
    each = 10 if quick else 40
    bodies = [msgspec.json.encode(one.request) for one in questions(TYPES[0], points, _DRAWN)]
    path = f"/datasets/{slug}/query"

    def ask(number: int, count: int) -> list[tuple[int, float]]:
        taken: list[tuple[int, float]] = []
        while len(taken) < count:
            started = time.perf_counter()
            status, _ = client.exchange(path, bodies[(number * count + len(taken)) % _DRAWN])
            taken.append((status, (time.perf_counter() - started) * 1000))
            if status == 429:
                time.sleep(_PAUSE_S)
        return taken

    with ThreadPoolExecutor(_CLIENTS) as threads:
        list(threads.map(lambda number: ask(number, 2), range(_CLIENTS)))
        started = time.perf_counter()
        answers = [one for taken in threads.map(lambda number: ask(number, each), range(_CLIENTS)) for one in taken]
        elapsed_s = time.perf_counter() - started
    by_status = Counter(status for status, _ in answers)
    good_ms = [taken_ms for status, taken_ms in answers if status == 200]
    middle_ms, slow_ms = statistics.median(good_ms), statistics.quantiles(good_ms, n=100)[98]
    label = f"{TYPES[0].name}, {_CLIENTS} clients"
    yield Result(f"{label}: p99 to p50", "ms", middle_ms, slow_ms, CROWD_P99)
    yield Result(f"{label}: answers", "answers/s", None, len(good_ms) / elapsed_s)
    yield Result(f"{label}: 429, of {len(answers):,}", "answers", None, by_status.pop(429, 0))
    by_status.pop(200)
    others = ", ".join(f"{status}: {count}" for status, count in sorted(by_status.items()))
    yield Result(f"{label}: other failures {others}".strip(), "answers", None, by_status.total(), NONE_OF_THEM)
