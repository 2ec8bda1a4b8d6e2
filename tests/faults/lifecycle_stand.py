"""Maintenance to break: commands beside a service, and what the catalog names held against what storage holds."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.faults.stand import Stand
from tests.service import ALL_TIME, FIELDS, Service, batch, wait_until
from timestore_core.lifecycle.sweep import sweep_storage
from timestore_core.plugins import load_plugins
from timestore_core.runtime import Runtime
from timestore_core.settings import load_settings

SCHEMA = {"fields": [*FIELDS, {"name": "value", "type": "double"}, {"name": "text", "type": "string"}]}
MINUTES = {"intervalUnit": "minute", "aggregations": [{"fn": "count"}, {"fn": "sum", "column": "value"}]}
HOURS = {
    "intervalUnit": "hour",
    "aggregations": [{"fn": "avg", "column": "value"}, {"fn": "median", "column": "n"}, {"fn": "max", "column": "n"}],
}
QUESTIONS: tuple[Mapping[str, Any], ...] = ({}, {"downsample": MINUTES}, {"downsample": HOURS})
# Long before any age that counts.
LONG_AGO_S = 1_000_000_000
# For what ends by itself, however busy the machine is.
WAIT_S = 600
# What is removed may be collected at once.
NO_GRACE = {"TIMESTORE_LIFECYCLE_RETENTION_DELETE_GRACE_MINUTES": "0"}


@dataclass(frozen=True)
class LifecycleStand(Stand):
    """A stand whose storage is looked at to the last file; `cold` is the root of a second target."""

    settings: Mapping[str, str]
    home: Path

    @property
    def cold(self) -> Path:
        return self.home / "cold"

    def started(self, *arguments: str, **changes: str) -> subprocess.Popen[str]:
        """A `timestore` command that runs."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith("TIMESTORE_")}
        environment = {**kept, "REDIS_URL": "inline", "COLUMNS": "500", **self.settings, **changes}
        return subprocess.Popen(
            [sys.executable, "-c", "from timestore_workers.cli import main; main()", *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def command(self, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
        """A `timestore` command, run to its end."""
        process = self.started(*arguments, **changes)
        output, errors = process.communicate(timeout=WAIT_S)
        return subprocess.CompletedProcess(arguments, process.returncode, output, errors)

    def maintained(self, slug: str, operations: str, **changes: str) -> subprocess.CompletedProcess[str]:
        """`timestore lifecycle run` with these operations."""
        return self.command("lifecycle", "run", slug, "--operations", operations, **changes)

    def maintain(self, slug: str, *operations: str, **body: Any) -> dict[str, Any]:
        """The operations by name as the service reports them, all of them well."""
        answer = self.service.client.post(
            "/admin/lifecycle/run", json={"datasetSlug": slug, "operations": operations, **body}
        )
        assert answer.status_code == 200, answer.text
        done = {one["operation"]: one for one in answer.json()["report"]["operations"]}
        assert not [one for one in done.values() if one["status"] == "failed"], done
        return done

    def admin(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        answer = self.service.client.request(method, f"/admin/{path}", json=body)
        assert answer.status_code in (200, 201), answer.text
        found: dict[str, Any] = answer.json()
        return found

    @contextmanager
    def runtime(self, **changes: str) -> Iterator[Runtime]:
        """A runtime of this process on the stand's catalog and storage."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in {"REDIS_URL": "inline", **self.settings, **changes}.items():
                patch.setenv(name, value)
            runtime = Runtime(load_settings(), load_plugins())
        try:
            yield runtime
        finally:
            runtime.close()

    def ingest(self, slug: str, first: int, batches: int = 1, rows: int = 40) -> None:
        """Batches of that many rows, each a minute's or more, one after the other."""
        for number in range(batches):
            answer = self.service.ingest(slug, measured(first + number * rows, rows))
            assert answer.status_code == 201, answer.text

    def answers(self, slug: str) -> tuple[bytes, ...]:
        """The bytes that the questions are answered with."""
        found = [self.service.query(slug, {"timeRange": ALL_TIME, **one}) for one in QUESTIONS]
        assert [one.status_code for one in found] == [200] * len(found), [one.text[:300] for one in found]
        return tuple(one.content for one in found)

    def live(self, slug: str) -> list[dict[str, Any]]:
        """The dataset's partitions as the catalog has them, oldest first, each with its target's `root`."""
        with self.catalog() as catalog:
            return catalog.execute(
                "SELECT p.*, t.config ->> 'root' AS root FROM dataset_partitions p "
                "JOIN datasets d ON d.id = p.dataset_id JOIN storage_targets t ON t.id = p.storage_target_id "
                "WHERE d.slug = %s AND p.removed_version IS NULL ORDER BY p.added_version, p.id",
                [slug],
            ).fetchall()

    def version(self, slug: str) -> int:
        with self.catalog() as catalog:
            row = catalog.execute("SELECT current_version FROM datasets WHERE slug = %s", [slug]).fetchone()
        assert row is not None
        version: int = row["current_version"]
        return version

    def runs(self, slug: str) -> list[dict[str, Any]]:
        """The dataset's job runs, oldest first."""
        with self.catalog() as catalog:
            return catalog.execute(
                "SELECT r.* FROM lifecycle_job_runs r JOIN datasets d ON d.id = r.dataset_id WHERE d.slug = %s "
                "ORDER BY r.created_at",
                [slug],
            ).fetchall()

    def named(self, slug: str) -> set[Path]:
        """Every file that a row of the catalog names for the dataset: its partitions', and its exports'."""
        with self.catalog() as catalog:
            rows = catalog.execute(
                "SELECT t.config ->> 'root' AS root, p.file_path AS key FROM dataset_partitions p "
                "JOIN datasets d ON d.id = p.dataset_id JOIN storage_targets t ON t.id = p.storage_target_id "
                "WHERE d.slug = %(slug)s UNION SELECT t.config ->> 'root', e ->> 'filePath' FROM dataset_manifests m "
                "JOIN datasets d ON d.id = m.dataset_id AND m.status = 'published', "
                "jsonb_array_elements(m.metadata #> '{lifecycle,exports,history}') e "
                "JOIN storage_targets t ON t.id = e ->> 'storageTargetId' WHERE d.slug = %(slug)s",
                {"slug": slug},
            ).fetchall()
        return {Path(row["root"]) / row["key"] for row in rows}

    def stored(self, slug: str) -> set[Path]:
        """Every file of the dataset under a final key, on both targets."""
        folders = [root / folder for root in (self.root, self.cold) for folder in (slug, f"exports/{slug}")]
        return {path for folder in folders for path in folder.rglob("*") if path.is_file()}

    def all_staged(self) -> list[Path]:
        """What is being written to either target, or was left there."""
        return [path for root in (self.root, self.cold) for path in (root / ".tmp" / "staging").glob("*")]

    def age(self) -> None:
        """Let every file be as old as any leftover has to be."""
        for root in (self.root, self.cold):
            for path in root.rglob("*"):
                if path.is_file():
                    os.utime(path, (LONG_AGO_S, LONG_AGO_S))

    def leave_behind(self, slug: str) -> Path:
        """A file as a writer leaves it that was killed before its commit, long ago."""
        source = path_of(self.live(slug)[0])
        left = source.with_name(f"part-{uuid4()}.duckdb")
        left.write_bytes(source.read_bytes())
        os.utime(left, (LONG_AGO_S, LONG_AGO_S))
        return left

    def assert_verified(self, slug: str) -> None:
        """`timestore verify --deep` finds nothing at all."""
        verified = self.command("verify", slug, "--deep", "--json")
        assert verified.returncode == 0, verified
        (report,) = json.loads(verified.stdout)
        assert (report["isWhole"], report["findings"]) == (True, [])

    def assert_nothing_leaks(self, slug: str) -> None:
        """Once leftovers are old and collected, storage holds exactly what the catalog names."""
        self.age()
        self.maintain(slug, "collection")
        with self.runtime() as runtime:
            assert sweep_storage(runtime) is not None
        assert self.stored(slug) == self.named(slug)
        assert {path_of(one) for one in self.live(slug)} <= self.stored(slug)
        assert self.all_staged() == []

    def assert_whole(self, slug: str) -> None:
        """Every file that the current version names is there as it was written."""
        for partition in self.live(slug):
            content = path_of(partition).read_bytes()
            assert len(content) == partition["file_size_bytes"]
            assert hashlib.sha1(content, usedforsecurity=False).hexdigest() == partition["checksum"]

    def wait_until_no_maintenance_holds_its_lock(self) -> None:
        """PostgreSQL gives a dead client's locks free as soon as it notices."""

        def is_free() -> bool:
            with self.catalog() as catalog:
                return catalog.execute("SELECT 1 FROM pg_locks WHERE locktype = 'advisory'").fetchone() is None

        wait_until(is_free, "the locks of a killed process to be free")


def path_of(partition: Mapping[str, Any]) -> Path:
    """Where the file of a partition from `live` stands."""
    return Path(partition["root"]) / partition["file_path"]


def measured(first: int, rows: int = 40) -> dict[str, Any]:
    """A batch of rows with values, texts and NULLs, one a second from that many seconds after 2024-01-01."""
    body = batch(list(range(first, first + rows)), schema=SCHEMA)
    for row in body["rows"]:
        n = row["n"]
        row |= {"value": None if n % 11 == 0 else n / 7, "text": f"host-{n % 3}"}
    return body


def make_lifecycle_stand(
    make_service: Callable[..., Service], postgres_url: str, home: Path, **settings: str
) -> LifecycleStand:
    """A stand over a new schema; its service is not started yet."""
    given = {
        "TIMESTORE_DATABASE_URL": postgres_url,
        "TIMESTORE_PG_SCHEMA": f"l_{uuid4().hex[:12]}",
        "TIMESTORE_STORAGE_ROOT": str(home / "storage"),
        "TIMESTORE_TEMP_DIR": str(home / "temp"),
        **NO_GRACE,
        **settings,
    }
    service = make_service(**given)
    # Some are answered only when the test lets the service go on.
    service.client.timeout = httpx.Timeout(WAIT_S)
    root = Path(given["TIMESTORE_STORAGE_ROOT"])
    return LifecycleStand(service, root, given["TIMESTORE_DATABASE_URL"], given["TIMESTORE_PG_SCHEMA"], given, home)
