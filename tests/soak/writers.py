"""Writers: they send, lose the answer, send again, at once or much later, alone or two at the same time."""

from __future__ import annotations

import json
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from tests.soak.batches import Batch
from tests.soak.caller import Caller, dataset_path
from tests.soak.ledger import Ledger
from tests.soak.plans import Plan, pick
from tests.soak.watch import Watch

_PAUSE_S = 0.25
_SIZES = (1, 2, 7, 20, 60, 60, 150, 400)


@dataclass(frozen=True)
class Writer:
    """One of the writers, with what it knows."""

    base: str
    watch: Watch
    ledger: Ledger
    plans: tuple[Plan, ...]
    rng: random.Random

    def run(self) -> None:
        with Caller(self.base, self.watch) as caller, Caller(self.base, self.watch) as other:
            while not self.watch.stop.is_set():
                choice = self.rng.random()
                if choice < 0.55:
                    self._settle(caller, self._draw())
                elif choice < 0.67:
                    self._cut(caller, self._draw())
                elif choice < 0.79:
                    self._together(caller, other, self._draw())
                elif choice < 0.94:
                    self._again(caller)
                else:
                    self._forge(caller)
                self.watch.stop.wait(self.rng.uniform(0, 2 * _PAUSE_S))

    def _draw(self) -> Batch:
        plan, key = pick(self.rng, self.plans)
        return self.ledger.draw(plan.slug, key, self.rng, self.rng.choice(_SIZES))

    def _settle(self, caller: Caller, batch: Batch) -> None:
        """Send until it is acknowledged, or everything stops: the end's checks send it then."""
        while not send(caller, self.ledger, batch) and not self.watch.stop.is_set():
            self.watch.stop.wait(self.rng.uniform(0, 0.5))
        if self.rng.random() < 0.15:
            send(caller, self.ledger, batch)

    def _cut(self, caller: Caller, batch: Batch) -> None:
        """Go away before the answer, or in the middle of the body, and come back, or leave it open for long."""
        body, headers = json.dumps(batch.body()).encode(), {"idempotency-key": batch.idempotency_key}
        share = 1.0 if self.rng.random() < 0.7 else self.rng.random()
        caller.begin(dataset_path(batch.slug, "ingest"), body, headers, share, self.rng.choice([0, 0.005, 0.02, 0.1]))
        self.watch.count("connections cut")
        if self.rng.random() < 0.7:
            self._settle(caller, batch)

    def _together(self, caller: Caller, other: Caller, batch: Batch) -> None:
        """Two clients with the same key at the same time."""
        with ThreadPoolExecutor(2) as pool:
            both = [pool.submit(send, one, self.ledger, batch) for one in (caller, other)]
            sent = sum(one.result() for one in both)
        self.watch.count("sent twice at once", sent == 2)
        if not sent:
            self._settle(caller, batch)

    def _again(self, caller: Caller) -> None:
        """An old key once more: its rows may have been compacted, removed or restored since."""
        batch = self.ledger.some(self.rng)
        if batch is not None and send(caller, self.ledger, batch):
            self.watch.count("sent again later")

    def _forge(self, caller: Caller) -> None:
        """A known key with other rows is refused."""
        batch = self.ledger.some(self.rng)
        if batch is not None:
            other = replace(batch, count=batch.count + 1)
            path, headers = dataset_path(batch.slug, "ingest"), {"idempotency-key": batch.idempotency_key}
            caller.send("POST", path, other.body(), expected=(409,), headers=headers)


def send(caller: Caller, ledger: Ledger, batch: Batch) -> bool:
    """Send the batch and note what is answered; False where nobody answered."""
    body, headers = batch.body(), {}
    if batch.number % 2:
        headers["idempotency-key"] = batch.idempotency_key
    else:
        body["idempotencyKey"] = batch.idempotency_key
    floor = caller.watch.highest(batch.slug)
    answer = caller.send("POST", dataset_path(batch.slug, "ingest"), body, expected=(201,), headers=headers)
    if answer is None:
        return False
    caller.watch.count("acknowledgements")
    manifest = answer.json()["manifest"]
    replayed = answer.headers.get("idempotent-replayed") == "true"
    ledger.told(batch, manifest["version"], replayed=replayed)
    if not replayed:
        # What was published just now comes after everything that anybody had seen before.
        caller.watch.saw(batch.slug, manifest["version"], floor + 1)
    return True
