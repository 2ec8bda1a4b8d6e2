"""Services to back up and to restore to, and what stands in a backup."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
from psycopg.rows import dict_row

from tests.service import Service

Json = dict[str, Any]
# Every version but the current one, and its history, goes with the next collection.
NO_GRACE = {"TIMESTORE_LIFECYCLE_RETENTION_DELETE_GRACE_MINUTES": "0", "TIMESTORE_SNAPSHOT_RETENTION_HOURS": "0"}


@dataclass(frozen=True)
class Store:
    """A running service with a catalog and a storage root of its own, and commands beside it."""

    service: Service
    root: Path
    settings: dict[str, str]

    def command(self, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """A `timestore` command on the service's settings, at its end."""
        process = self.start(*arguments, **settings)
        output, errors = process.communicate(timeout=300)
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)

    def start(self, *arguments: str, **settings: str) -> subprocess.Popen[str]:
        """The command, running."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("TIMESTORE_")}
        return subprocess.Popen(
            [sys.executable, "-c", "from timestore_workers.cli import main; main()", *arguments],
            env={**environment, "REDIS_URL": "inline", "COLUMNS": "500", **self.settings, **settings},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def backup(self, *arguments: str) -> Json:
        """The report of a backup that succeeds."""
        return self.report("backup", *arguments)

    def restore(self, *arguments: str) -> Json:
        """The report of a restore that succeeds."""
        return self.report("restore", *arguments)

    def report(self, *arguments: str, status: int = 0) -> Json:
        """What the command says with --json; it ends with this status."""
        ended = self.command(*arguments, "--json")
        assert ended.returncode == status, (ended.returncode, ended.stdout, ended.stderr)
        found: Json = json.loads(ended.stdout)
        return found

    def rows(self, query: str, *values: Any) -> list[Json]:
        """What the catalog answers."""
        with self.catalog() as catalog:
            return catalog.execute(query, values).fetchall()

    def catalog(self) -> psycopg.Connection[Json]:
        """A connection to the service's schema; each statement is a transaction."""
        schema = self.settings["TIMESTORE_PG_SCHEMA"]
        return psycopg.connect(
            self.settings["TIMESTORE_DATABASE_URL"],
            row_factory=dict_row,
            options=f"-c search_path={schema}",
            autocommit=True,
        )

    def pins(self) -> list[Json]:
        return self.rows("SELECT dataset_id, name, version FROM dataset_pins ORDER BY name")

    def files(self) -> list[str]:
        """Every partition file below the root, restored ones too."""
        found = [*self.root.rglob("*.duckdb"), *self.root.rglob("*.parquet")]
        return sorted(path.relative_to(self.root).as_posix() for path in found if ".tmp" not in path.parts)

    def staged(self) -> list[Path]:
        return [path for path in (self.root / ".tmp" / "staging").glob("*") if path.is_file()]

    def maintain(self, slug: str, *operations: str) -> None:
        """Run the operations of the lifecycle on the dataset, now."""
        body = {"datasetSlug": slug, "operations": list(operations)}
        answer = self.service.client.post("/admin/lifecycle/run", json=body)
        assert answer.status_code == 200, answer.text
        assert answer.json()["status"] != "failed", answer.text


def make_store(make_service: Callable[..., Service], postgres_url: str, root: Path, **settings: str) -> Store:
    """A running store."""
    given = {
        "TIMESTORE_DATABASE_URL": postgres_url,
        "TIMESTORE_PG_SCHEMA": f"b_{uuid4().hex[:12]}",
        "TIMESTORE_STORAGE_ROOT": str(root),
        **settings,
    }
    return Store(make_service(**given).start(), root, given)


def send(store: Store, slug: str, body: Json, key: str | None = None) -> Json:
    """The answer to a batch that is published now, and not a repeated one's."""
    answer = store.service.ingest(slug, _keyed(body, key))
    assert answer.status_code == 201, answer.text
    assert "idempotent-replayed" not in answer.headers
    found: Json = answer.json()
    return found


def is_replayed(store: Store, slug: str, body: Json, key: str) -> bool:
    """Send a batch; whether it had been published before."""
    answer = store.service.ingest(slug, _keyed(body, key))
    assert answer.status_code == 201, answer.text
    return answer.headers.get("idempotent-replayed") == "true"


def _keyed(body: Json, key: str | None) -> Json:
    """In the body a key may be any text; in a header it may not."""
    return body if key is None else {**body, "idempotencyKey": key}


def flip_a_byte(path: Path, at: int | None = None) -> None:
    """Change one bit of one byte, in the middle by default."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if at is None else at] ^= 1
    path.write_bytes(content)


def parts(target: Path, name: str) -> dict[str, Path]:
    """The files of a backup, by their keys below its folder."""
    folder = target / "backups" / name
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
