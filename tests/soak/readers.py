"""Readers: each answer is held against the model at the version that it names."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import httpx

from tests.soak.caller import Caller, dataset_path
from tests.soak.history import History
from tests.soak.judge import faults
from tests.soak.plans import Plan
from tests.soak.questions import Question, random_question
from tests.soak.watch import Watch

_PAUSE_S = 0.1
_REMEMBERED = 50


@dataclass(frozen=True)
class Reader:
    """One of the readers, with what it knows."""

    base: str
    watch: Watch
    history: History
    plans: tuple[Plan, ...]
    rng: random.Random

    def run(self) -> None:
        asked: list[tuple[str, Question]] = []
        with Caller(self.base, self.watch) as caller:
            while not self.watch.stop.is_set():
                slug = self.rng.choice(self.plans).slug
                question = random_question(self.rng, self.history.model(slug))
                if asked and self.rng.random() < 0.3:
                    slug, question = self.rng.choice(asked)
                else:
                    asked = [*asked[-_REMEMBERED:], (slug, question)]
                answer = self.ask(caller, slug, question)
                if answer is not None and self.rng.random() < 0.4:
                    self._ask_again(caller, slug, question, answer)
                if self.rng.random() < 0.3:
                    version = max(1, self.watch.highest(slug) - self.rng.choice([0, 1, 1, 2, 3, 10]))
                    # 410 is right where what it had was removed since, and collected.
                    ask_as_of(caller, self.history, slug, question, version, expected=(200, 410))
                self.watch.stop.wait(self.rng.uniform(0, 2 * _PAUSE_S))

    def ask(
        self, caller: Caller, slug: str, question: Question, headers: Mapping[str, str] | None = None
    ) -> httpx.Response | None:
        """The answer, checked; None where it was lost."""
        floor = self.watch.highest(slug)
        path = dataset_path(slug, "query")
        answer = caller.send("POST", path, question.body(), expected=(200, 304), headers=headers)
        if answer is None:
            return None
        version = int(answer.headers["x-timestore-version"])
        self.watch.saw(slug, version, floor)
        if answer.status_code == 200:
            check(self.watch, self.history, slug, question, answer)
        return answer

    def _ask_again(self, caller: Caller, slug: str, question: Question, before: httpx.Response) -> None:
        """At once, perhaps of another process: the same version has the same tag and bytes."""
        tag = before.headers["etag"]
        again = self.ask(caller, slug, question, {"if-none-match": tag} if self.rng.random() < 0.5 else None)
        if again is None:
            return
        same = again.headers["x-timestore-version"] == before.headers["x-timestore-version"]
        if same != (again.headers["etag"] == tag) or (again.status_code == 304 and not same):
            self.watch.problem(f"{slug!r} {question}: {again.status_code} {again.headers} after {before.headers}")
        if same:
            self.watch.count("asked twice of one version")


def ask_as_of(
    caller: Caller, history: History, slug: str, question: Question, version: int, expected: Collection[int]
) -> None:
    """Ask for an earlier version: where it answers, it does so as when it was the current one."""
    body = {**question.body(), "asOf": version}
    answer = caller.send("POST", dataset_path(slug, "query"), body, expected=expected)
    if answer is None or answer.status_code != 200:
        return
    if answer.headers["x-timestore-version"] != str(version):
        caller.watch.problem(f"{slug!r} {body}: was answered of version {answer.headers['x-timestore-version']}")
        return
    check(caller.watch, history, slug, question, answer)
    caller.watch.count("earlier versions asked")


def check(watch: Watch, history: History, slug: str, question: Question, answer: httpx.Response) -> None:
    """Hold an answer against the model, and against what the same version answered before."""
    version = int(answer.headers["x-timestore-version"])
    watch.answered(slug, version, str(question), answer.content)
    model = history.model(slug, version)
    if model.version >= version:
        for fault in faults(question, answer.json(), model, version):
            watch.problem(fault)
    watch.count("queries checked")
    watch.count("rows compared", len(answer.json()["rows"]))
