"""How far a run is: files copied, and files that an earlier run had brought."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from timestore_core.backup.copying import Copied
from timestore_core.lifecycle.operation import Progress


@dataclass(slots=True)
class Counts:
    """What a run has copied, and what was there already."""

    files: int = 0
    bytes: int = 0
    were_there: int = 0

    def add(self, copied: Copied) -> None:
        if copied.was_there:
            self.were_there += 1
        else:
            self.files += 1
            self.bytes += copied.size_bytes


def file_counter(progress: Progress, total: int) -> Callable[[], None]:
    """Tells the progress of one more file each time it is called."""
    done = 0

    def tell() -> None:
        nonlocal done
        done += 1
        progress("files", done, max(total, done))

    return tell
