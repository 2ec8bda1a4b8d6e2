"""What all moving parts share: whether to go on, what was found wrong, what was counted, and what each has seen."""

from __future__ import annotations

import hashlib
import logging
import threading
import traceback
from collections import Counter
from collections.abc import Callable

log = logging.getLogger("soak")

_MOST_PROBLEMS = 50


class Watch:
    """Thread-safe. The first problem stops everything, so that what led to it is not buried."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.problems: list[str] = []
        self.figures: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._highest: dict[str, int] = {}
        self._answers: dict[tuple[str, int, str], str] = {}

    def problem(self, text: str) -> None:
        """Something that must never be."""
        log.error("PROBLEM %s", text)
        with self._lock:
            if len(self.problems) < _MOST_PROBLEMS:
                self.problems.append(text)
        self.stop.set()

    def count(self, what: str, by: int = 1) -> None:
        with self._lock:
            self.figures[what] += by

    def highest(self, slug: str) -> int:
        """The latest version of the dataset that any answer has named so far."""
        return self._highest.get(slug, 0)

    def saw(self, slug: str, version: int, floor: int) -> None:
        """An answer names this version; `floor` is the highest that was known before it was asked for."""
        if version < floor:
            self.problem(f"{slug!r} went back: version {version} after version {floor} had been seen")
        with self._lock:
            self._highest[slug] = max(version, self._highest.get(slug, 0))

    def answered(self, slug: str, version: int, question: str, answer: bytes) -> None:
        """The same question over the same version has the same bytes for an answer, whoever gives it and when."""
        digest = hashlib.sha1(answer, usedforsecurity=False).hexdigest()
        with self._lock:
            before = self._answers.setdefault((slug, version, question), digest)
        if before != digest:
            self.problem(f"{slug!r} version {version} changed its answer to {question}: now {answer[:300]!r}")

    def guard(self, name: str, work: Callable[[], None]) -> None:
        """Do the work; that it fails is a problem like any other."""
        try:
            work()
        except Exception:
            self.problem(f"{name} failed:\n{traceback.format_exc()}")

    def thread(self, name: str, work: Callable[[], None]) -> threading.Thread:
        """A thread that does the work, guarded; not started yet."""
        return threading.Thread(target=self.guard, args=[name, work], name=name, daemon=True)
