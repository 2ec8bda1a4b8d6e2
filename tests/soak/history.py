"""Feeds the models from the catalog: what the audit log says of each version, and which partitions came with it.

Collection deletes the rows of partitions long before the end, so a trigger keeps a copy of each as it is inserted.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from psycopg.rows import dict_row

from tests.faults.stand import Stand
from tests.soak.model import CHANGES, Added, Change, Model
from timestore_core.times import to_us

_WITNESS = """
CREATE SCHEMA {witness};
CREATE TABLE {witness}.partitions (LIKE {schema}.dataset_partitions);
CREATE INDEX ON {witness}.partitions (dataset_id, added_version);
CREATE FUNCTION {witness}.remember() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN INSERT INTO {witness}.partitions SELECT NEW.*; RETURN NULL; END';
CREATE TRIGGER soak_witness AFTER INSERT ON {schema}.dataset_partitions
    FOR EACH ROW EXECUTE FUNCTION {witness}.remember();
"""

# A version's lines are written in one transaction; `since` only spares reading the whole log each time.
_EVENTS = """
SELECT event_type, payload, created_at, (payload ->> 'version')::integer AS version FROM lifecycle_audit_log
WHERE dataset_id = %(dataset)s AND event_type = ANY(%(types)s) AND created_at > %(since)s
    AND (payload ->> 'version')::integer > %(known)s
ORDER BY version, created_at, id
"""

_ADDED = """
SELECT id, file_path, partition_key, start_time, row_count, added_version FROM {witness}.partitions
WHERE dataset_id = %(dataset)s AND added_version > %(known)s AND added_version <= %(last)s
"""

# Longer than any transaction waits for its dataset.
_OVERLAP = timedelta(minutes=2)


class History:
    """Thread-safe. The models of all datasets by slug, each as far as the catalog was read."""

    def __init__(self, stand: Stand, report: Callable[[str], None]) -> None:
        self.models: dict[str, Model] = {}
        self._stand = stand
        self._report = report
        self.ids: dict[str, str] = {}
        self._since: dict[str, datetime] = {}
        self._lock = threading.Lock()
        self._witness = f"{stand.schema}_witness"
        with stand.catalog() as catalog:
            catalog.execute(_WITNESS.format(witness=self._witness, schema=stand.schema))
        self._catalog = self._connect()

    def close(self) -> None:
        self._catalog.close()

    def follow(self, dataset_id: str, model: Model) -> None:
        """Feed this dataset's model from now on."""
        self.ids[model.slug] = dataset_id
        self._since[model.slug] = datetime(2000, 1, 1, tzinfo=UTC)
        self.models[model.slug] = model

    def model(self, slug: str, version: int = 0) -> Model:
        """The dataset's model, which knows this version; one that the catalog does not know is a problem."""
        model = self.models[slug]
        if model.version < version:
            with self._lock:
                self._read(model)
            if model.version < version:
                self._report(f"{slug!r} version {version} was answered, the catalog knows none after {model.version}")
        return model

    def catch_up(self) -> None:
        """Read all that there is."""
        with self._lock:
            for model in self.models.values():
                self._read(model)

    def paths(self) -> set[str]:
        """Every name that a partition's file has ever had."""
        with self._stand.catalog() as catalog:
            return {row["file_path"] for row in catalog.execute(f"SELECT file_path FROM {self._witness}.partitions")}

    def _read(self, model: Model) -> None:
        values: dict[str, Any] = {
            "dataset": self.ids[model.slug],
            "types": list(CHANGES),
            "since": self._since[model.slug] - _OVERLAP,
            "known": model.version,
        }
        events = self._catalog.execute(_EVENTS, values).fetchall()
        if not events:
            return
        values["last"] = events[-1]["version"]
        added: Mapping[int, list[Added]] = defaultdict(list)
        for row in self._catalog.execute(_ADDED.format(witness=self._witness), values):
            key = tuple(sorted(row["partition_key"].items()))
            one = Added(row["id"], row["file_path"], key, to_us(row["start_time"]), row["row_count"])
            added[row["added_version"]].append(one)
        by_version: Mapping[int, list[tuple[str, Any]]] = defaultdict(list)
        for row in events:
            by_version[row["version"]].append((row["event_type"], row["payload"]))
            self._since[model.slug] = max(self._since[model.slug], row["created_at"])
        for version, lines in by_version.items():
            model.apply(Change(version, lines, added.get(version, ())))

    def _connect(self) -> psycopg.Connection[dict[str, Any]]:
        return psycopg.connect(
            self._stand.database_url,
            row_factory=dict_row,
            options=f"-c search_path={self._stand.schema}",
            autocommit=True,
        )
