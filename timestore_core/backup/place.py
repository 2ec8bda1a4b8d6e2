"""Where backups go: a storage target of the catalog, or any directory of this machine."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from timestore_core.backup.problems import BackupError
from timestore_core.catalog.datasets import list_storage_targets
from timestore_core.errors import InsufficientStorage, NotFound, TimestoreError
from timestore_core.model import StorageTarget
from timestore_core.runtime import Runtime
from timestore_core.storage import StorageDriver

FULL_ERRORS = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, slots=True)
class Place:
    """An opened target, and what it is called when it has to be spoken of."""

    driver: StorageDriver
    label: str

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn what the store raises into an error that names the place."""
        try:
            yield
        except TimestoreError:
            raise
        except OSError as error:
            if error.errno in FULL_ERRORS:
                raise InsufficientStorage(f"{self.label} is full") from error
            raise BackupError(f"{self.label} cannot be used: {error.strerror or str(error)[:300]}") from error

    def tidy(self, age_s: float) -> None:
        """Remove temporary files that killed runs left and nobody wrote to for so long."""
        with self.errors():
            for path in self.driver.staging_dir().iterdir():
                with suppress(FileNotFoundError):
                    if path.is_file() and time.time() - path.stat().st_mtime > age_s:
                        path.unlink()


def open_place(runtime: Runtime, text: str, *, to_write: bool) -> Place:
    """The place that the text names. Raises NotFound, and BackupError or Unavailable where it cannot be opened."""
    if Path(text).is_absolute():
        if not to_write and not Path(text).is_dir():
            raise NotFound(f"TARGET: there is no directory {text}")
        driver = runtime.plugins.storage_kind("local").open({"root": text})
        return Place(driver, text)
    target = find_target(runtime, text)
    if target is None:
        known = ", ".join(one.name for one in list_storage_targets(runtime.database))
        raise NotFound(f"TARGET: {text!r} is neither the absolute path of a directory nor a storage target ({known})")
    return Place(runtime.targets.driver(target), f"the storage target {target.name}")


def find_target(runtime: Runtime, text: str) -> StorageTarget | None:
    """The storage target of this id or name, or None."""
    targets = list_storage_targets(runtime.database)
    return next((one for one in targets if one.id == text), None) or next(
        (one for one in targets if one.name == text), None
    )
