"""The backups of a place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from timestore_core.backup.archive import read_document
from timestore_core.backup.documents import Begun, Finished
from timestore_core.backup.layout import FOLDER, Layout
from timestore_core.backup.place import Place
from timestore_core.backup.problems import DamagedError
from timestore_core.errors import NotFound


@dataclass(frozen=True, slots=True)
class Listed:
    """A backup as `--list` shows it. `rows` is None where it is not complete, `bytes` what its files take."""

    name: str
    begun_at: str | None
    finished_at: str | None
    datasets: int | None
    rows: int | None
    bytes: int
    problem: str | None = None

    @property
    def state(self) -> str:
        if self.problem is not None:
            return "damaged"
        return "incomplete" if self.finished_at is None else "complete"

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "state": self.state,
            "begunAt": self.begun_at,
            "finishedAt": self.finished_at,
            "datasets": self.datasets,
            "rows": self.rows,
            "bytes": self.bytes,
            **({} if self.problem is None else {"problem": self.problem}),
        }


def list_backups(place: Place) -> list[Listed]:
    """Every backup of the place, by name."""
    sizes: dict[str, int] = {}
    names = set()
    with place.errors():
        for file in place.driver.list(FOLDER):
            parts = file.key.split("/")
            if len(parts) > 2:
                sizes[parts[1]] = sizes.get(parts[1], 0) + file.size_bytes
            # On a storage target the folder may be a dataset's too.
            if len(parts) == 3 and file.key in (Layout(parts[1]).begun, Layout(parts[1]).finished):
                names.add(parts[1])
    return [_listed(place, name, sizes[name]) for name in sorted(names)]


def find_backup(place: Place, name: str) -> Finished:
    """The complete backup of that name. Raises NotFound where there is none, DamagedError where it was altered."""
    layout = Layout(name)
    finished = read_document(place, layout.finished, Finished)
    if finished is not None:
        return finished
    if read_document(place, layout.begun, Begun) is not None:
        raise NotFound(f"the backup {name} is not complete; `timestore backup` with --name {name} goes on with it")
    known = [one.name for one in list_backups(place)]
    there = f"there are {', '.join(known[-20:])}" if known else "there is none"
    raise NotFound(f"NAME: {place.label} has no backup {name}; {there}")


def _listed(place: Place, name: str, size_bytes: int) -> Listed:
    layout = Layout(name)
    try:
        finished = read_document(place, layout.finished, Finished)
        begun = read_document(place, layout.begun, Begun) if finished is None else None
    except DamagedError as error:
        return Listed(name, None, None, None, None, size_bytes, error.message)
    if finished is not None:
        rows = sum(one.rows for one in finished.datasets)
        return Listed(name, finished.begun_at, finished.finished_at, len(finished.datasets), rows, size_bytes)
    datasets = None if begun is None else len(begun.datasets)
    return Listed(name, None if begun is None else begun.begun_at, None, datasets, None, size_bytes)
