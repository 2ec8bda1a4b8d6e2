"""Follows the datasets through the administration's answers: what came and went, and what a version consists of."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from tests.soak.caller import Caller, admin_path
from tests.soak.history import History
from tests.soak.plans import Plan
from tests.soak.watch import Watch

_PAUSE_S = 0.3


@dataclass(frozen=True)
class Follower:
    """Asks for changes since the version that it knows, and for the partitions of the current one."""

    base: str
    watch: Watch
    history: History
    plans: tuple[Plan, ...]
    rng: random.Random

    def run(self) -> None:
        known = {plan.slug: 0 for plan in self.plans}
        with Caller(self.base, self.watch) as caller:
            while not self.watch.stop.is_set():
                slug = self.rng.choice(self.plans).slug
                if self.rng.random() < 0.5:
                    known[slug] = self._changes(caller, slug, known[slug])
                else:
                    self._partitions(caller, slug)
                self.watch.stop.wait(self.rng.uniform(0, 2 * _PAUSE_S))

    def _changes(self, caller: Caller, slug: str, since: int) -> int:
        """Hold them against the model; the version that is known then."""
        floor = self.watch.highest(slug)
        path = admin_path(slug, f"changes?since={since}&wait={self.rng.choice([0, 0, 1])}")
        answer = caller.send("GET", path, expected=(200, 410))
        if answer is None:
            return since
        if answer.status_code == 410:
            # What was removed since is forgotten: from the beginning again.
            return 0
        found = answer.json()
        version = found["version"]
        self.watch.saw(slug, version, floor)
        model = self.history.model(slug, version)
        before, now = model.layout(since), model.layout(version)
        come = {one: part.rows for one, part in now.items() if one not in before}
        gone = {one: part.rows for one, part in before.items() if one not in now}
        for name, right in (("added", come), ("removed", gone)):
            self._compare(f"{slug!r} {name} since {since} until {version}", found[name]["items"], right)
            if (found[name]["partitions"], found[name]["rows"]) != (len(right), sum(right.values())):
                self.watch.problem(f"{slug!r} since {since} until {version}: {name} {found[name]}, right: {right}")
        self.watch.count("changes checked")
        return int(version)

    def _partitions(self, caller: Caller, slug: str) -> None:
        """Those of the version that the answer names."""
        floor = self.watch.highest(slug)
        answer = caller.send("GET", admin_path(slug, "partitions?limit=100"), expected=(200, 410))
        if answer is None or answer.status_code == 410:
            return
        found = answer.json()
        version = found["version"]
        self.watch.saw(slug, version, floor)
        layout = self.history.model(slug, version).layout(version)
        if found["nextCursor"] is None:
            right = {one: part.rows for one, part in layout.items()}
            self._compare(f"{slug!r} partitions of version {version}", found["partitions"], right)
        self.watch.count("lists of partitions checked")

    def _compare(self, what: str, items: list[dict[str, Any]], right: dict[str, int]) -> None:
        mine = {one["id"]: one["rowCount"] for one in items}
        if mine != right:
            missing, strange = sorted(right.keys() - mine.keys()), sorted(mine.keys() - right.keys())
            self.watch.problem(f"{what}: missing {missing}, too many {strange}, of {len(right)}; or other row counts")
