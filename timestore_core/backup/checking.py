"""Is a dataset of a complete backup still what was written?"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

from timestore_core.backup.archive import fetched_part, read_listed
from timestore_core.backup.copying import checksum_of, in_parallel
from timestore_core.backup.documents import Copy, DatasetDocument, Summary
from timestore_core.backup.layout import DatasetLayout
from timestore_core.backup.lines import read_lines
from timestore_core.backup.place import Place
from timestore_core.backup.problems import DamagedError, Failures


def check_dataset(
    place: Place, layout: DatasetLayout, summary: Summary, failures: Failures, tell: Callable[[], None]
) -> None:
    """Read every byte that the backup has of the dataset; what is missing or altered is added to the failures."""

    def work(line: Copy) -> str | None:
        key = layout.file(line.file)
        with place.errors():
            stored = place.driver.stat(key)
            if stored is None:
                return f"{key} is missing"
            whole = stored.size_bytes == line.size_bytes and checksum_of(place, key) == line.checksum
            return None if whole else f"{key} is not what was written"

    try:
        document = read_listed(place, layout.document, DatasetDocument, summary.document)
        with fetched_part(place, layout.keys, document.keys, place):
            pass
        with fetched_part(place, layout.partitions, document.partitions, place) as path:
            lines = read_lines(path, Copy, layout.partitions)
            with closing(in_parallel(work, lines)) as results:
                for wrong in results:
                    tell()
                    if wrong is not None:
                        failures.add(f"{summary.slug}: {wrong}")
    except DamagedError as error:
        failures.add(f"{summary.slug}: {error.message}")
