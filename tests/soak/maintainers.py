"""Maintenance all the time, in its three ways: over HTTP, by a worker's schedule, and by commands."""

from __future__ import annotations

import json
import random
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.faults.lifecycle_stand import LifecycleStand
from tests.soak.caller import Caller
from tests.soak.plans import Plan
from tests.soak.watch import Watch

OPERATIONS = ("retention", "compaction", "tiering", "parquetExport", "collection", "verification")
_PAUSE_S = 0.4


@dataclass(frozen=True)
class ApiMaintainer:
    """`POST /admin/lifecycle/run`, again and again."""

    base: str
    watch: Watch
    plans: tuple[Plan, ...]
    rng: random.Random

    def run(self) -> None:
        with Caller(self.base, self.watch) as caller:
            while not self.watch.stop.is_set():
                asked = {
                    "datasetSlug": self.rng.choice(self.plans).slug,
                    "operations": some_operations(self.rng),
                    "force": self.rng.random() < 0.2,
                    "dryRun": self.rng.random() < 0.1,
                }
                answer = caller.send("POST", "/admin/lifecycle/run", asked)
                if answer is not None:
                    note(self.watch, answer.json()["report"], "over HTTP")
                self.watch.stop.wait(self.rng.uniform(0, 2 * _PAUSE_S))


@dataclass
class CommandMaintainer:
    """`timestore lifecycle run`, again and again; `process` is the one that runs now, for whoever wants to kill it."""

    stand: LifecycleStand
    watch: Watch
    plans: tuple[Plan, ...]
    rng: random.Random
    process: subprocess.Popen[str] | None = field(default=None, init=False)

    def run(self) -> None:
        while not self.watch.stop.is_set():
            slug, operations = self.rng.choice(self.plans).slug, ",".join(some_operations(self.rng))
            options = ["--force"] if self.rng.random() < 0.2 else []
            arguments = ("lifecycle", "run", slug, "--operations", operations, "--json", *options)
            self.process = self.stand.started(*arguments)
            output, _ = self.process.communicate(timeout=300)
            if self.process.returncode == -signal.SIGKILL:
                self.watch.count("commands killed")
            elif self.process.returncode != 0:
                self.watch.problem(f"{arguments} ended with {self.process.returncode}:\n{output[-2000:]}")
            else:
                note(self.watch, json.loads(output[output.index("{") :]), "as a command")
            self.watch.stop.wait(self.rng.uniform(0, 4 * _PAUSE_S))


def note(watch: Watch, report: Mapping[str, Any], how: str) -> None:
    """Count what a run reports; an operation that failed is a problem."""
    for one in report["operations"]:
        if one["status"] == "failed":
            watch.problem(f"{one['operation']} of {report['datasetSlug']!r} {how} failed: {one}")
        if one["status"] == "completed" and not one.get("dryRun"):
            watch.count(f"{one['operation']} {how}")
            if one["operation"] == "collection":
                watch.count("files collected", one.get("count", 0))


def some_operations(rng: random.Random) -> list[str]:
    """One operation or several, mostly in the order that the schedule has."""
    if rng.random() < 0.2:
        return rng.sample(OPERATIONS, rng.randint(1, len(OPERATIONS)))
    return [
        one for one in OPERATIONS if rng.random() < (0.15 if one in ("parquetExport", "verification") else 0.6)
    ] or ["collection"]
