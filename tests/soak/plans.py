"""The datasets of the scenario: their keys, formats and policies, so that everything has something to do."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.soak.batches import Key


@dataclass(frozen=True, slots=True)
class Plan:
    """A dataset. Ages are in seconds, since the scenario's hours are short."""

    slug: str
    keys: tuple[Key, ...]
    write_format: str = "duckdb"
    metadata: Mapping[str, Any] = field(default_factory=dict)
    max_age_s: float | None = None
    max_total_bytes: int | None = None
    cold_after_s: float | None = None

    @property
    def max_age_hours(self) -> float | None:
        return None if self.max_age_s is None else self.max_age_s / 3600

    def policy(self, cold_target_id: str) -> dict[str, Any]:
        """The body of `PUT …/retention`: what is removed may be collected at once."""
        rules = {"maxAgeHours": self.max_age_hours, "maxTotalBytes": self.max_total_bytes}
        mode = "size" if self.max_age_s is None else "time" if self.max_total_bytes is None else "hybrid"
        policy: dict[str, Any] = {
            "mode": mode,
            "rules": {name: value for name, value in rules.items() if value is not None},
            "deleteGraceMinutes": 0,
        }
        if self.cold_after_s is not None:
            policy |= {
                "coldStorageAfterHours": self.cold_after_s / 3600,
                "metadata": {"coldStorageTargetId": cold_target_id},
            }
        return policy


def make_plans(seconds: float) -> tuple[Plan, ...]:
    """Datasets whose ages fit to a run of this length. Two of them share a folder on disk."""
    age_s = min(max(seconds / 4, 8.0), 30.0)
    lines: tuple[Key, ...] = tuple(
        (("line", line), ("site", site)) for site in ("North", "South ✓") for line in ("1", "2")
    )
    return (
        Plan("rivers", _sites("north", "south"), max_age_s=age_s),
        Plan("tower 7", lines, write_format="parquet", max_total_bytes=300_000),
        Plan(
            "tower_7",
            _sites("a", "b", "a/b"),
            metadata={"compactedFormat": "parquet"},
            max_age_s=4 * age_s,
            max_total_bytes=3_000_000,
            cold_after_s=age_s / 2,
        ),
        Plan("Meters", _sites("one"), max_age_s=2 * age_s, cold_after_s=age_s / 3),
    )


def pick(rng: random.Random, plans: tuple[Plan, ...]) -> tuple[Plan, Key]:
    """Some dataset and one of its keys."""
    plan = rng.choice(plans)
    return plan, rng.choice(plan.keys)


def _sites(*names: str) -> tuple[Key, ...]:
    return tuple((("site", name),) for name in names)
