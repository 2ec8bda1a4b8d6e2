"""What an operation of the lifecycle is given, and what it says when it is done."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from timestore_core.catalog.database import Row
from timestore_core.model import Dataset
from timestore_core.runtime import Runtime

Status = Literal["completed", "skipped", "failed"]
Trigger = Literal["schedule", "manual", "retry", "api"]
Progress = Callable[[str, int, int], None]


def no_progress(what: str, done: int, total: int) -> None:
    """For runs that nobody watches."""


@dataclass(frozen=True, slots=True)
class Maintenance:
    """One run over one dataset.

    `dry_run` changes nothing and says what would be done. `asked` says that somebody wants this very run, now: it
    may remove more than a scheduled one. `force` exports and verifies again before the interval is over. `stop`
    ends the run after its current step; `progress` is told what is done, how much of it, and of how much.
    """

    runtime: Runtime
    dataset: Dataset
    trigger: Trigger
    dry_run: bool = False
    force: bool = False
    stop: threading.Event = field(default_factory=threading.Event)
    progress: Progress = no_progress

    @property
    def asked(self) -> bool:
        return self.trigger in ("api", "manual")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an operation did: to how many things, partitions and bytes, and its lines in the audit log.

    `details` is more for whoever reads the report, such as what a dry run would do.
    """

    status: Status
    message: str | None = None
    count: int = 0
    partitions: int = 0
    bytes: int = 0
    audit: tuple[Row, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self, operation: str) -> dict[str, Any]:
        shown: dict[str, Any] = {"operation": operation, "status": self.status}
        if self.message is not None:
            shown["message"] = self.message
        if self.count or self.partitions or self.bytes:
            shown |= {"count": self.count, "partitions": self.partitions, "bytes": self.bytes}
        return shown | dict(self.details)
