"""What must be so once everything has stopped, and collection has taken what nobody needs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tests.faults.lifecycle_stand import LifecycleStand
from tests.integration.model import iso
from tests.service import wait_until
from tests.soak.batches import COLUMNS
from tests.soak.caller import Caller, admin_path, dataset_path
from tests.soak.history import History
from tests.soak.judge import faults
from tests.soak.ledger import Ledger
from tests.soak.maintainers import note
from tests.soak.model import Model
from tests.soak.questions import ALL_TIME_US, Question, rows_of
from tests.soak.watch import Watch, log
from tests.soak.writers import send
from timestore_core.partitions.paths import fold_segment

_ALL = Question(*ALL_TIME_US)
_EXPORTS = "SELECT payload FROM lifecycle_audit_log WHERE event_type = 'export.parquet.created'"
_BAD_RUNS = """
SELECT id, operations, trigger_source, status, error, metadata FROM lifecycle_job_runs
WHERE status NOT IN ('completed', 'skipped') AND error IS DISTINCT FROM 'its process ended before it did'
"""
# Lines of the logs that tell of an error that nobody foresaw.
_CRASHES = ("request.crashed", "schedule.failed", "Traceback")
_FILES = """
SELECT t.config ->> 'root' AS root, p.file_path FROM dataset_partitions p
JOIN storage_targets t ON t.id = p.storage_target_id
"""


@dataclass(frozen=True)
class Ending:
    """The checks, one after the other; what is wrong is a problem like any other."""

    stand: LifecycleStand
    watch: Watch
    ledger: Ledger
    history: History
    worker_log: Path

    def run(self) -> None:
        self.stand.wait_until_no_maintenance_holds_its_lock()
        with Caller(self.stand.service.base, self.watch) as caller:
            self._settle(caller)
            self.history.catch_up()
            self._acknowledged()
            self._tidy_up(caller)
            self.history.catch_up()
            for model in self.history.models.values():
                log.info("the end's checks of %r, version %s", model.slug, model.version)
                self._answers(caller, model)
                self._totals(caller, model)
                self._exports(model)
        self._verified()
        self._storage()
        self._runs()

    def _settle(self, caller: Caller) -> None:
        """What was never acknowledged is sent until it is: it is there once then."""
        for batch in self.ledger.unacknowledged():
            wait_until(partial(send, caller, self.ledger, batch), f"{batch} to be taken")
            self.watch.count("acknowledged at the end")

    def _acknowledged(self) -> None:
        for batch, version in self.ledger.acknowledged().items():
            published = self.history.model(batch.slug).published.get(batch.number)
            if published != version:
                text = f"acknowledged in version {version}, published in version {published}"
                self.watch.problem(f"{'lost: ' if published is None else ''}{batch}: {text}")

    def _tidy_up(self, caller: Caller) -> None:
        """No pins, everything old enough, collection and sweep."""
        self.stand.age()
        for slug in self.history.models:
            for pin in _json(caller, "GET", admin_path(slug, "pins"))["pins"]:
                _json(caller, "DELETE", admin_path(slug, f"pins/{pin['name']}"))
            asked = {"datasetSlug": slug, "operations": ["collection"]}
            note(self.watch, _json(caller, "POST", "/admin/lifecycle/run", asked)["report"], "over HTTP")
        swept = self.stand.command("lifecycle", "sweep")
        if swept.returncode != 0:
            self.watch.problem(f"the sweep ended with {swept.returncode}: {swept.stdout}")

    def _answers(self, caller: Caller, model: Model) -> None:
        """The whole content, of the current version."""
        answer = caller.send("POST", dataset_path(model.slug, "query"), _ALL.body())
        version = int(answer.headers["x-timestore-version"]) if answer is not None else None
        if answer is None or version != model.version:
            self.watch.problem(f"{model.slug!r} answers version {version} at its end, the catalog has {model.version}")
            return
        for fault in faults(_ALL, answer.json(), model, version):
            self.watch.problem(fault)

    def _totals(self, caller: Caller, model: Model) -> None:
        """The catalog's sums, of the current version and of each earlier one."""
        manifest = _json(caller, "GET", admin_path(model.slug, "manifest"))["manifest"]
        partitions, layout = manifest["partitions"], model.layout(model.version)
        found = (
            manifest["partitionCount"],
            manifest["totalBytes"],
            {one["id"]: one["rowCount"] for one in partitions},
        )
        right = (
            len(layout),
            sum(one["fileSizeBytes"] for one in partitions),
            {one.id: one.rows for one in layout.values()},
        )
        if found != right:
            self.watch.problem(f"{model.slug!r}: the catalog says {found}, right is {right}")
        seen = set()
        for one in _versions(caller, model.slug):
            version = one["version"]
            seen.add(version)
            totals = (model.totals[version], len(model.layout(version)))
            if (one["totalRows"], one["partitionCount"]) != totals:
                self.watch.problem(f"{model.slug!r} version {version}: the manifest says {one}, right is {totals}")
        if seen != set(range(1, model.version + 1)):
            self.watch.problem(f"{model.slug!r}: of {model.version} versions {len(seen)} are in its history")

    def _exports(self, model: Model) -> None:
        """Each export holds exactly the rows of its version."""
        for export in self._noted_exports(model.slug):
            path = self.stand.root / export["filePath"]
            if not path.is_file():
                self.watch.problem(f"the export {path} is not there")
                continue
            held = model.rows_in(export["version"], *ALL_TIME_US, {})
            table = pq.read_table(path)
            found = [{**row, "timestamp": iso(row["timestamp"])} for row in table.to_pylist()]
            found.sort(key=lambda row: (row["timestamp"], row["batch"], row["row"]))
            right = rows_of(model.batches, held)
            right = sorted(right, key=lambda row: (row["timestamp"], row["batch"], row["row"]))
            if tuple(table.column_names) != COLUMNS or found != right or export["rowCount"] != len(right):
                self.watch.problem(
                    f"the export {export} has {len(found)} rows, its version {len(right)}, or other ones"
                )
            self.watch.count("exports checked")

    def _verified(self) -> None:
        verified = self.stand.command("verify", "--deep", "--json")
        reports = json.loads(verified.stdout[verified.stdout.index("[") :]) if verified.returncode in (0, 1) else []
        if len(reports) != len(self.history.models) or any(one["findings"] or not one["isWhole"] for one in reports):
            self.watch.problem(f"verify --deep ended with {verified.returncode}: {verified.stdout[-3000:]}")

    def _storage(self) -> None:
        """Nothing but what the catalog names, exports, and the mark of its owner."""
        with self.stand.catalog() as catalog:
            named = {Path(row["root"]) / row["file_path"] for row in catalog.execute(_FILES)}
            collecting = catalog.execute(
                "SELECT 1 FROM dataset_partitions WHERE removed_version IS NOT NULL"
            ).fetchone()
        stored = {path for root in (self.stand.root, self.stand.cold) for path in files_below(root)}
        exports = {
            self.stand.root / one["filePath"] for slug in self.history.models for one in self._noted_exports(slug)
        }
        strange = stored - named
        for path in sorted(strange):
            relative = path.relative_to(self.stand.cold if path.is_relative_to(self.stand.cold) else self.stand.root)
            if relative.parts[0] == ".timestore" and len(relative.parts) == 3:
                self.watch.count("owner markers")
            elif path not in exports and not self._is_killed_export(path, relative):
                self.watch.problem(f"storage holds {path}, which nothing names")
        for path in sorted(named - stored):
            self.watch.problem(f"the catalog names {path}, which is not there")
        if collecting is not None:
            self.watch.problem("removed partitions are left in the catalog after collection")
        for path in self.stand.all_staged():
            self.watch.problem(f"{path} was left in the staging directory")
        self.watch.count("files at the end", len(stored))

    def _runs(self) -> None:
        """Each run of maintenance ended well, or with its process; and no process met what nobody foresaw."""
        with self.stand.catalog() as catalog:
            for run in catalog.execute(_BAD_RUNS):
                self.watch.problem(f"a run of maintenance ended badly, or not at all: {run}")
        for path in (self.stand.service.log, self.worker_log):
            for line in path.read_text().splitlines():
                if any(one in line for one in _CRASHES):
                    self.watch.problem(f"{path.name}: {line[:2000]}")

    def _is_killed_export(self, path: Path, relative: Path) -> bool:
        """Stored whole by a process that was killed before it could note it."""
        folders = {("exports", fold_segment(slug)) for slug in self.history.models}
        if relative.parts[:2] not in folders or len(relative.parts) != 3 or not path.name.startswith("snapshot-"):
            return False
        pq.read_table(path)
        self.watch.count("exports that nothing names")
        return True

    def _noted_exports(self, slug: str) -> list[dict[str, Any]]:
        with self.stand.catalog() as catalog:
            payloads = [row["payload"] for row in catalog.execute(_EXPORTS)]
        ids = self.history.ids
        return [one for one in payloads if one["datasetId"] == ids[slug]]


def _versions(caller: Caller, slug: str) -> Iterator[dict[str, Any]]:
    cursor = ""
    while True:
        page = _json(caller, "GET", admin_path(slug, f"manifests?limit=100{cursor}"))
        yield from page["manifests"]
        if page["nextCursor"] is None:
            return
        cursor = f"&cursor={page['nextCursor']}"


def _json(caller: Caller, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """The answer's JSON, where nothing is left to kill the service."""
    answer = caller.send(method, path, body)
    assert answer is not None, f"{method} {path} was not answered"
    found: dict[str, Any] = answer.json()
    return found


def files_below(root: Path) -> Iterator[Path]:
    """Every file below a storage root that is no temporary one."""
    for directory, names, files in os.walk(root):
        if Path(directory) == root and ".tmp" in names:
            names.remove(".tmp")
        yield from (Path(directory) / name for name in files)
