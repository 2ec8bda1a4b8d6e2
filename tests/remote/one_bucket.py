"""What every kind of remote store must keep: a dataset written, read, compacted, collected and verified there."""

from __future__ import annotations

import shutil

from tests.integration.maintenance import changed, hard_batch, head, ingest, outcome
from tests.remote.conftest import RemoteStand

BATCHES = 8


def lives_there(stand: RemoteStand) -> None:
    """Every answer stays the same, with the cache and without it, and nothing is left in the store but what counts."""
    for number in range(BATCHES):
        ingest(stand.service, "life", hard_batch(number), f"key-{number}")
    assert stand.service.ingest("life", hard_batch(0), "key-0").headers["idempotent-replayed"] == "true"
    before = stand.answers("life")
    assert len(stand.cached()) == BATCHES

    assert stand.service.stop() == 0
    shutil.rmtree(stand.cache)
    stand.service.start()
    assert changed(before, stand.answers("life")) == []
    assert len(stand.cached()) == BATCHES
    assert outcome(stand.service, "life", "compaction")["status"] == "completed"
    assert changed(before, stand.answers("life")) == []
    collected = outcome(stand.service, "life", "collection")
    assert (collected["status"], collected["partitions"]) == ("completed", BATCHES)
    assert len(head(stand.service, "life")["partitions"]) < BATCHES
    assert outcome(stand.service, "life", "verification")["findings"] == []
    verified = stand.command("verify", "life", "--deep")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert changed(before, stand.answers("life")) == []
