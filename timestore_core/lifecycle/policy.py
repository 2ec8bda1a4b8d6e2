"""How long a dataset's rows stay, where, and for how long what was removed can be taken back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from timestore_core.errors import Conflict
from timestore_core.model import Dataset
from timestore_core.runtime import Runtime
from timestore_core.settings import Settings

# A thousand years: what can still be taken off today's date.
_LONGEST_GRACE_HOURS = 8_766_000

READ_POLICY = "SELECT policy, updated_at FROM dataset_retention_policies WHERE dataset_id = %s"


@dataclass(frozen=True, slots=True)
class Policy:
    """What is in force for a dataset; None where there is no limit."""

    max_age: timedelta | None
    max_total_bytes: int | None
    grace: timedelta
    cold_after: timedelta | None
    cold_target_id: str | None


def default_policy(settings: Settings) -> dict[str, Any]:
    """What is in force for a dataset that has no policy of its own."""
    return {
        "mode": "hybrid",
        "rules": {
            "maxAgeHours": settings.lifecycle_retention_max_age_hours,
            "maxTotalBytes": settings.lifecycle_retention_max_total_bytes,
        },
        "deleteGraceMinutes": settings.lifecycle_retention_delete_grace_minutes,
    }


def policy_of(runtime: Runtime, dataset: Dataset) -> Policy:
    """The dataset's policy. Raises Conflict where one that another service stored cannot be understood."""
    row = runtime.database.read(lambda connection: connection.execute(READ_POLICY, [dataset.id]).fetchone())
    stored = row["policy"] if row is not None else default_policy(runtime.settings)
    policy: Mapping[str, Any] = stored if isinstance(stored, Mapping) else {}
    mode, rules = policy.get("mode", "hybrid"), policy.get("rules") or {}
    if mode not in ("time", "size", "hybrid") or not isinstance(rules, Mapping):
        raise Conflict(f"the retention policy of {dataset.slug} is not understood; store it anew", code="policy")
    hours = _amount(rules, "maxAgeHours") if mode in ("time", "hybrid") else None
    size_bytes = _amount(rules, "maxTotalBytes") if mode in ("size", "hybrid") else None
    grace_minutes = _amount(policy, "deleteGraceMinutes")
    if grace_minutes is None:
        grace_minutes = runtime.settings.lifecycle_retention_delete_grace_minutes
    cold_hours = _amount(policy, "coldStorageAfterHours")
    metadata = policy.get("metadata")
    of_policy = metadata.get("coldStorageTargetId") if isinstance(metadata, Mapping) else None
    cold_target = of_policy or dataset.metadata.get("coldStorageTargetId")
    return Policy(
        max_age=None if hours is None else _hours(hours),
        max_total_bytes=None if size_bytes is None else int(size_bytes),
        grace=_hours(min(grace_minutes / 60, _LONGEST_GRACE_HOURS)),
        cold_after=None if cold_hours is None else _hours(cold_hours),
        cold_target_id=cold_target if isinstance(cold_target, str) else None,
    )


def _amount(values: Mapping[str, Any], name: str) -> float | None:
    value = values.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise Conflict(f"the retention policy's {name} is no amount; store the policy anew", code="policy")
    return float(value)


def _hours(hours: float) -> timedelta:
    """The time, at most some thousand years: beyond that there is nothing to expire."""
    return timedelta(hours=min(hours, 20_000_000))
