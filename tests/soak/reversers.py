"""Rows are deleted and versions restored, in a loop, and what is answered is held against the model."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import httpx

from tests.soak.batches import Batch, moment
from tests.soak.caller import Caller, admin_path
from tests.soak.history import History
from tests.soak.model import Model
from tests.soak.plans import Plan
from tests.soak.questions import ALL_TIME_US, Question
from tests.soak.readers import ask_as_of
from tests.soak.watch import Watch

_PAUSE_S = 1.0


@dataclass(frozen=True)
class Span:
    """The rows that a deletion means: a range of time, both ends inclusive, and a filter by partition key."""

    start_us: int
    end_us: int
    wanted: dict[str, tuple[str, ...]]

    def body(self, *, dry_run: bool) -> dict[str, Any]:
        body: dict[str, Any] = {
            "timeRange": {"start": moment(self.start_us), "end": moment(self.end_us)},
            "dryRun": dry_run,
        }
        if self.wanted:
            body["filters"] = {"partitionKey": {name: list(values) for name, values in self.wanted.items()}}
        return body

    def rows(self, model: Model, version: int) -> dict[int, int]:
        return dict(model.rows_in(version, self.start_us, self.end_us, self.wanted))


@dataclass(frozen=True)
class Reverser:
    """Deletes, pins and restores."""

    base: str
    watch: Watch
    history: History
    plans: tuple[Plan, ...]
    rng: random.Random

    def run(self) -> None:
        with Caller(self.base, self.watch) as caller:
            while not self.watch.stop.is_set():
                slug, choice = self.rng.choice(self.plans).slug, self.rng.random()
                if choice < 0.5:
                    self._delete(caller, slug, self._some_span(slug))
                elif choice < 0.6:
                    self._preview(caller, slug, self._some_span(slug))
                elif choice < 0.7:
                    self._restore_recent(caller, slug)
                else:
                    self._take_back(caller, slug)
                self.watch.stop.wait(self.rng.uniform(0, 2 * _PAUSE_S))

    def _some_span(self, slug: str) -> Span:
        """Around one batch mostly, so that partitions are cut; now and then of one key only."""
        model = self.history.model(slug)
        parts = list(model.layout(model.version).values())
        if not parts:
            return Span(*ALL_TIME_US, {})
        part = self.rng.choice(parts)
        one: Batch = model.batches[self.rng.choice(list(part.held))]
        start_us = one.start_us + one.step_us * self.rng.randint(0, one.count // 2)
        end_us = start_us + self.rng.choice([0, one.step_us * one.count, 1_000_000, 3_000_000])
        return Span(start_us, end_us, {pair[0]: (pair[1],) for pair in part.key} if self.rng.random() < 0.4 else {})

    def _preview(self, caller: Caller, slug: str, span: Span) -> None:
        answer = self._ask_to_delete(caller, slug, span, dry_run=True)
        if answer is not None:
            self._hold_exactly(slug, span, answer["version"], answer["rows"])

    def _delete(self, caller: Caller, slug: str, span: Span) -> None:
        floor = self.watch.highest(slug)
        answer = self._ask_to_delete(caller, slug, span, dry_run=False)
        if answer is None:
            return
        version, model = answer["version"], self.history.model(slug, answer["version"])
        if not answer["rows"]:
            self._hold_exactly(slug, span, version, 0)
            return
        self.watch.saw(slug, version, floor + 1)
        self.watch.count("deletions answered")
        if not any(floor < restored <= version for restored in model.restored):
            left = [number for number in span.rows(model, version) if model.published[number] <= floor]
            if left:
                self.watch.problem(f"{slug!r} version {version}: {span} was deleted, rows of batches {left} are there")

    def _ask_to_delete(self, caller: Caller, slug: str, span: Span, *, dry_run: bool) -> dict[str, Any] | None:
        path, body = admin_path(slug, "delete-rows"), span.body(dry_run=dry_run)
        answer = caller.send("POST", path, body, expected=(200, 409))
        if answer is None:
            return None
        if answer.status_code == 409:
            # It looks five times; whoever changes a dataset all the time may be faster.
            self.watch.count("deletions overtaken")
            return None
        found: dict[str, Any] = answer.json()
        return found

    def _hold_exactly(self, slug: str, span: Span, version: int, rows: int) -> None:
        """The version has as many rows in the span as it was answered."""
        model = self.history.model(slug, version)
        right = sum(bits.bit_count() for bits in span.rows(model, version).values())
        if right != rows:
            self.watch.problem(f"{slug!r} version {version}: {span} has {right} rows, delete-rows finds {rows}")

    def _restore_recent(self, caller: Caller, slug: str) -> None:
        version = max(1, self.watch.highest(slug) - self.rng.randint(1, 6))
        # 410 is right for a version whose grace period, of no length at all, is over.
        answer = caller.send("POST", admin_path(slug, "restore"), {"version": version}, expected=(200, 409, 410))
        self._restored(slug, answer)

    def _take_back(self, caller: Caller, slug: str) -> None:
        """Pin a version, delete much of it, and bring it back: a pin keeps what collection would take."""
        name = f"soak-{self.rng.randint(0, 10**9)}"
        pinned = caller.send("PUT", admin_path(slug, f"pins/{name}"), {}, expected=(200, 201))
        if pinned is None:
            return
        version = pinned.json()["pin"]["version"]
        floor = self.watch.highest(slug)
        deleted = self._ask_to_delete(caller, slug, Span(*ALL_TIME_US, {}), dry_run=False)
        if deleted is not None and deleted["rows"]:
            self.watch.saw(slug, deleted["version"], floor + 1)
        self.watch.stop.wait(self.rng.uniform(0, 3))
        ask_as_of(caller, self.history, slug, Question(*ALL_TIME_US), version, expected=(200,))
        answer = caller.send("POST", admin_path(slug, "restore"), {"version": version}, expected=(200, 409))
        self._restored(slug, answer)
        caller.send("DELETE", admin_path(slug, f"pins/{name}"), expected=(200, 404))

    def _restored(self, slug: str, answer: httpx.Response | None) -> None:
        if answer is None:
            return
        if answer.status_code != 200:
            if answer.json()["code"] not in ("nothing_to_restore", "version_expired"):
                self.watch.problem(f"{slug!r}: restoring was answered {answer.text[:500]}")
            return
        manifest = answer.json()["manifest"]
        model = self.history.model(slug, manifest["version"])
        self.watch.count("restores answered")
        if manifest["totalRows"] != model.totals[manifest["version"]]:
            self.watch.problem(f"{slug!r}: restored {manifest}, it must have {model.totals[manifest['version']]} rows")
