"""The version of each dataset that goes into a backup: held by a pin, and fixed when its keys are stored."""

from __future__ import annotations

from contextlib import closing

from timestore_core.backup.archive import read_document, store_lines, write_document, written_lines
from timestore_core.backup.documents import Chosen, Fixed, Part
from timestore_core.backup.layout import DatasetLayout
from timestore_core.backup.place import Place
from timestore_core.backup.problems import BackupError
from timestore_core.backup.versions import Held, HistoryGoneError, hold, hold_again, keys_up_to
from timestore_core.runtime import Runtime

# A history that ends within moments of each version (no grace period at all) may be overtaken some times in a row.
_TRIES = 20


def fix_version(
    runtime: Runtime, place: Place, layout: DatasetLayout, chosen: Chosen, backup: str
) -> tuple[Held, Fixed] | None:
    """The held version and its stored keys, by this run or an earlier one; None where the dataset was deleted before.

    Raises BackupError where the version that an earlier run fixed is gone.
    """
    fixed = read_document(place, layout.fixed, Fixed)
    if fixed is not None:
        return hold_again(runtime.database, chosen.id, chosen.slug, fixed.version, backup), fixed
    held = hold(runtime.database, chosen.id, backup)
    for _ in range(_TRIES):
        if held is None:
            return None
        runtime.plugins.step("backup.pinned")
        try:
            keys = _store_keys(runtime, place, layout, held)
        except HistoryGoneError:
            held = hold(runtime.database, chosen.id, backup, afresh=True)
            continue
        runtime.plugins.step("backup.keys_stored")
        fixed = Fixed(held.version, keys)
        write_document(place, layout.fixed, fixed)
        runtime.plugins.step("backup.version_fixed")
        return held, fixed
    raise BackupError(
        f"{chosen.slug}: its versions are forgotten faster than their keys are read; set a longer deleteGraceMinutes "
        "or TIMESTORE_SNAPSHOT_RETENTION_HOURS"
    )


def _store_keys(runtime: Runtime, place: Place, layout: DatasetLayout, held: Held) -> Part:
    with written_lines(place) as writer:
        with closing(keys_up_to(runtime.database, held)) as keys:
            for key in keys:
                writer.add(key)
        return store_lines(place, layout.keys, writer)
