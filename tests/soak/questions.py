"""What the readers ask, and what the answer has to be over a version that the model knows."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.integration.model import aggregate
from tests.soak.batches import COLUMNS, Batch, moment
from tests.soak.model import Held, Model
from timestore_core.times import parse_time_us

UNITS_US = {"second": 1_000_000, "minute": 60_000_000, "hour": 3_600_000_000, "day": 86_400_000_000}
AGGREGATIONS = (
    {"fn": "count", "alias": "rows"},
    {"fn": "count", "column": "note", "alias": "notes"},
    {"fn": "sum", "column": "value", "alias": "total"},
    {"fn": "sum", "column": "row", "alias": "row_total"},
    {"fn": "min", "column": "batch", "alias": "first_batch"},
    {"fn": "max", "column": "value", "alias": "largest"},
    {"fn": "median", "column": "value", "alias": "middle"},
)
ALL_TIME_US = (-62_135_596_800_000_000, 253_402_300_799_000_000)


@dataclass(frozen=True, slots=True)
class Question:
    """A query; times in microseconds since 1970, both ends inclusive."""

    start_us: int
    end_us: int
    wanted: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    columns: tuple[str, ...] | None = None
    limit: int | None = None
    unit: str | None = None
    size: int = 1
    asked: tuple[Mapping[str, Any], ...] = ()

    def body(self) -> dict[str, Any]:
        """The query's body."""
        body: dict[str, Any] = {"timeRange": {"start": moment(self.start_us), "end": moment(self.end_us)}}
        if self.wanted:
            body["filters"] = {"partitionKey": {name: list(values) for name, values in self.wanted.items()}}
        if self.columns is not None:
            body["columns"] = list(self.columns)
        if self.limit is not None:
            body["limit"] = self.limit
        if self.unit is not None:
            body["downsample"] = {"intervalUnit": self.unit, "intervalSize": self.size, "aggregations": [*self.asked]}
        return body

    def __str__(self) -> str:
        return json.dumps(self.body())

    def answer(self, model: Model, version: int) -> dict[str, Any]:
        """The whole answer over this version."""
        rows = rows_of(model.batches, model.rows_in(version, self.start_us, self.end_us, self.wanted))
        if self.unit is not None:
            names = ["timestamp", *(one["alias"] for one in self.asked)]
            return {"rows": self._buckets(rows), "columns": names, "mode": "downsampled"}
        names = list(COLUMNS if self.columns is None else self.columns)
        if self.columns is not None:
            rows = [{name: row[name] for name in names} for row in rows]
        return {"rows": rows[: self.limit], "columns": names, "mode": "raw"}

    def _buckets(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        assert self.unit is not None
        width_us = UNITS_US[self.unit] * self.size
        groups: dict[int, list[Any]] = defaultdict(list)
        for row in rows:
            groups[parse_time_us(row["timestamp"]) // width_us * width_us].append(row)
        return [
            {
                "timestamp": moment(start_us),
                **{one["alias"]: aggregate(dict(one), groups[start_us]) for one in self.asked},
            }
            for start_us in sorted(groups)
        ]


def rows_of(batches: Mapping[int, Batch], held: Held) -> list[dict[str, Any]]:
    """The rows by time, which no two of a dataset share."""
    chosen = sorted((batches[number].start_us, number) for number in held)
    return [row for _, number in chosen for row in batches[number].rows(held[number])]


def random_question(rng: random.Random, model: Model) -> Question:
    """Some question over what the dataset holds now, or held a while ago."""
    start_us, end_us = _range(rng, model)
    wanted = _filter(rng, model)
    shape = rng.random()
    if shape < 0.25:
        return Question(start_us, end_us, wanted, limit=rng.choice([1, 2, 10, 100, 1000]))
    if shape < 0.35:
        others = rng.sample(["timestamp", "dataset", "value", "note"], rng.randint(0, 4))
        return Question(start_us, end_us, wanted, columns=("batch", "row", *others))
    if shape < 0.55:
        return Question(start_us, end_us, wanted)
    unit = rng.choice(list(UNITS_US))
    asked = tuple(rng.sample(AGGREGATIONS, rng.randint(1, len(AGGREGATIONS))))
    return Question(start_us, end_us, wanted, unit=unit, size=rng.choice([1, 1, 2, 7, 30]), asked=asked)


def _range(rng: random.Random, model: Model) -> tuple[int, int]:
    numbers = [number for part in model.layout(model.version).values() for number in part.held]
    if not numbers or rng.random() < 0.3:
        return ALL_TIME_US
    one, other = (model.batches[rng.choice(numbers)] for _ in range(2))
    # Off the rows' own times now and then, and in the middle of a batch.
    start_us = min(one.start_us, other.start_us) + rng.choice([0, 0, 1, one.step_us, one.step_us * (one.count // 2)])
    return start_us, max(start_us, max(one.end_us, other.end_us) + rng.choice([0, 0, -1, 1_000_000]))


def _filter(rng: random.Random, model: Model) -> dict[str, tuple[str, ...]]:
    parts = list(model.layout(model.version).values())
    if not parts or rng.random() < 0.5:
        return {}
    pairs = rng.choice(parts).key
    name, value = rng.choice(pairs)
    return {name: (value, "nobody")} if rng.random() < 0.3 else {pair[0]: (pair[1],) for pair in pairs}
