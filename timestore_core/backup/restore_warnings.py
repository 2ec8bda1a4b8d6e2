"""What an operator should know of a restored dataset before its next maintenance does."""

from __future__ import annotations

from collections.abc import Iterator

from timestore_core.errors import Conflict, NotFound
from timestore_core.lifecycle.clock import expiry_time
from timestore_core.lifecycle.live import live_partitions
from timestore_core.lifecycle.policy import policy_of
from timestore_core.lifecycle.retention import find_expired
from timestore_core.model import Dataset
from timestore_core.runtime import Runtime


def warnings_of(runtime: Runtime, dataset: Dataset) -> Iterator[str]:
    """A line for each thing that will not go on as it did where the backup was taken."""
    try:
        policy = policy_of(runtime, dataset)
    except Conflict as error:
        yield error.message
        return
    if policy.cold_target_id is not None:
        try:
            runtime.targets.get(policy.cold_target_id)
        except NotFound:
            yield f"old partitions are to move to the storage target {policy.cold_target_id}, which is not here"
    if dataset.status != "active":
        return
    live = live_partitions(runtime.database, dataset.id)
    expired = find_expired(live, policy, expiry_time(runtime.database))
    if expired:
        yield (
            f"retention removes {len(expired)} of its {len(live)} partitions at its next run: they are past the age "
            "or the size of its policy (or of the settings' default); store a policy of its own first, or make it "
            "inactive"
        )
