"""What can go wrong with a backup, beside what can go wrong anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from timestore_core.errors import TimestoreError

_SHOWN = 1000


class BackupError(TimestoreError):
    """The backup cannot be written or read; the message names the place and says why."""

    default_code = "backup"


class DamagedError(BackupError):
    """A file is missing, is not what was written, or cannot be understood; the message names it."""

    default_code = "backup_damaged"


@dataclass(slots=True)
class Failures:
    """Files and datasets that could not be copied while the others were: all are counted, the first ones told."""

    count: int = 0
    texts: list[str] = field(default_factory=list)

    def add(self, text: str) -> None:
        self.count += 1
        if len(self.texts) < _SHOWN:
            self.texts.append(text)

    def __iter__(self) -> Iterator[str]:
        return iter(self.texts)

    def to_json(self) -> dict[str, Any]:
        return {"failed": self.count, "failures": self.texts}
