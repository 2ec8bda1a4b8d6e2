"""A Node deployment is taken over in place: its ids stay, and every row that it ever acknowledged is visible."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import duckdb
import psycopg
import pytest

from tests.service import ALL_TIME, Service, batch, numbers_of
from timestore_core.catalog.migrate import migrations_dir

TARGET = "st-00000000-0000-4000-8000-000000000001"

# What the Node service's tables have beside the columns: its own bookkeeping, and checks that we relax.
NODE_ONLY = """
CREATE TABLE schema_migrations (id text PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now());
INSERT INTO schema_migrations (id) VALUES ('001'), ('002'), ('003');
ALTER TABLE storage_targets ADD CONSTRAINT storage_targets_kind_check
    CHECK (kind IN ('local', 's3', 'gcs', 'azure_blob'));
ALTER TABLE datasets ADD CONSTRAINT datasets_write_format_check CHECK (write_format IN ('duckdb', 'parquet'));
ALTER TABLE dataset_partitions ADD CONSTRAINT dataset_partitions_file_format_check
    CHECK (file_format IN ('duckdb', 'parquet'));
ALTER TABLE ingestion_batches ADD CONSTRAINT ingestion_batches_manifest_id_fkey
    FOREIGN KEY (manifest_id) REFERENCES dataset_manifests (id) ON DELETE CASCADE;
"""


@dataclass
class NodeDeployment:
    """The contract's tables and files, written as the Node service leaves them behind."""

    connection: psycopg.Connection[Any]
    schema: str
    root: Path
    ids: dict[str, str] = field(default_factory=dict)

    def create(self) -> None:
        tables = next(migrations_dir().glob("0001.*tables.sql")).read_text(encoding="utf-8")
        self.connection.execute(f"CREATE SCHEMA {self.schema}")
        self.connection.execute(f"SET search_path TO {self.schema}")
        self.connection.execute(tables)
        self.connection.execute(NODE_ONLY)
        config = {"root": str(self.root)}
        self.insert("storage_targets", id=TARGET, name="timestore-default-local", kind="local", config=config)

    def insert(self, table: str, **values: Any) -> None:
        given = [json.dumps(value) if isinstance(value, dict) else value for value in values.values()]
        marks = ", ".join(["%s"] * len(given))
        self.connection.execute(f"INSERT INTO {table} ({', '.join(values)}) VALUES ({marks})", given)

    def dataset(self, slug: str) -> str:
        dataset_id, schema_id = f"ds-{uuid4()}", f"dsv-{uuid4()}"
        self.ids[slug] = dataset_id
        self.ids[f"{slug} schema"] = schema_id
        self.insert("datasets", id=dataset_id, slug=slug, name=slug, default_storage_target_id=TARGET)
        fields = {"fields": [{"name": "timestamp", "type": "timestamp"}, {"name": "n", "type": "integer"}]}
        self.insert("dataset_schema_versions", id=schema_id, dataset_id=dataset_id, version=1, schema=fields)
        return dataset_id

    def manifest(self, slug: str, version: int, status: str = "superseded") -> str:
        manifest_id = f"dm-{uuid4()}"
        self.insert(
            "dataset_manifests",
            id=manifest_id,
            dataset_id=self.ids[slug],
            version=version,
            status=status,
            schema_version_id=self.ids[f"{slug} schema"],
            statistics={"rowCount": 0},
            partition_count=1,
        )
        return manifest_id

    def partition(self, slug: str, manifest_id: str, numbers: list[int], **metadata: Any) -> str:
        partition_id = f"part-{uuid4()}"
        path = self.root / slug / "window=w" / f"{partition_id}.duckdb"
        path.parent.mkdir(parents=True, exist_ok=True)
        with duckdb.connect(path) as connection:
            connection.execute("CREATE TABLE records (timestamp TIMESTAMP, n BIGINT)")
            row = "INSERT INTO records SELECT TIMESTAMP '2024-01-01' + to_seconds(n), n FROM (SELECT ?::BIGINT AS n)"
            connection.executemany(row, [(number,) for number in numbers])
        self.insert(
            "dataset_partitions",
            id=partition_id,
            dataset_id=self.ids[slug],
            manifest_id=manifest_id,
            partition_key={"window": "w"},
            storage_target_id=TARGET,
            file_format="duckdb",
            file_path=str(path.relative_to(self.root)),
            file_size_bytes=path.stat().st_size,
            row_count=len(numbers),
            start_time="2024-01-01T00:00:00Z",
            end_time="2024-01-02T00:00:00Z",
            checksum=hashlib.sha1(path.read_bytes()).hexdigest(),
            metadata={"tableName": "records", **metadata},
        )
        return partition_id


@pytest.fixture
def node(postgres_url: str, tmp_path: Path) -> Any:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        deployment = NodeDeployment(connection, f"node_{uuid4().hex[:12]}", tmp_path / "storage")
        deployment.create()
        yield deployment


def taken_over(make_service: Callable[..., Service], node: NodeDeployment) -> Service:
    return make_service(TIMESTORE_PG_SCHEMA=node.schema, TIMESTORE_STORAGE_ROOT=str(node.root)).start()


def test_rows_that_a_later_ingest_hid_are_visible(make_service: Callable[..., Service], node: NodeDeployment) -> None:
    dataset_id = node.dataset("hidden")
    for version, numbers in ((1, [1, 2]), (2, [3]), (3, [4, 5, 6])):
        manifest = node.manifest("hidden", version, "published" if version == 3 else "superseded")
        node.partition("hidden", manifest, numbers)
        key = {"idempotency_key": f"k{version}", "manifest_id": manifest}
        node.insert("ingestion_batches", id=f"ing-{uuid4()}", dataset_id=dataset_id, **key)
    service = taken_over(make_service, node)

    assert numbers_of(service, "hidden") == [1, 2, 3, 4, 5, 6]
    found = service.client.get("/admin/datasets/hidden/manifest").json()["manifest"]
    assert (found["id"], found["version"], found["totalRows"], found["partitionCount"]) == (manifest, 3, 6, 3)
    assert service.client.get("/admin/datasets/hidden").json()["dataset"]["id"] == dataset_id
    assert service.client.get("/admin/datasets/hidden/manifest?version=1").json()["manifest"]["totalRows"] == 2
    replay = service.ingest("hidden", batch([1, 2]), "k1")
    assert (replay.status_code, replay.headers["idempotent-replayed"]) == (201, "true")
    added = service.ingest("hidden", batch([7])).json()["manifest"]
    assert (added["version"], added["totalRows"], added["statistics"]["rowCount"]) == (4, 7, 7)
    assert numbers_of(service, "hidden") == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("trace", ["metadata", "audit"])
def test_partitions_that_a_compaction_replaced_stay_replaced(
    make_service: Callable[..., Service], node: NodeDeployment, trace: str
) -> None:
    dataset_id = node.dataset("compacted")
    sources = [node.partition("compacted", node.manifest("compacted", version), [version]) for version in (1, 2)]
    compaction = node.manifest("compacted", 3)
    lifecycle = {"lifecycle": {"compaction": {"sourcePartitionIds": sources}}} if trace == "metadata" else {}
    replacement = node.partition("compacted", compaction, [1, 2], **lifecycle)
    if trace == "audit":
        payload = {"partitionIds": sources, "replacementPartitionId": replacement}
        event = {"event_type": "compaction.group.compacted", "payload": payload}
        node.insert("lifecycle_audit_log", id=f"la-{uuid4()}", dataset_id=dataset_id, **event)
    node.partition("compacted", node.manifest("compacted", 4, "published"), [3])
    service = taken_over(make_service, node)

    assert numbers_of(service, "compacted") == [1, 2, 3]
    found = service.client.get("/admin/datasets/compacted/manifest").json()["manifest"]
    assert (found["totalRows"], found["partitionCount"]) == (3, 2)


def test_a_file_that_is_missing_is_named_and_not_hidden(
    make_service: Callable[..., Service], node: NodeDeployment
) -> None:
    node.dataset("torn")
    lost = node.partition("torn", node.manifest("torn", 1), [1])
    node.partition("torn", node.manifest("torn", 2, "published"), [2])
    next(node.root.rglob(f"{lost}.duckdb")).unlink()
    service = taken_over(make_service, node)

    answer = service.query("torn", {"timeRange": ALL_TIME})

    assert answer.status_code == 500
    assert answer.json()["code"] == "partition_unreadable"
    assert lost in answer.json()["message"]


def test_drafts_are_no_snapshot_and_their_versions_are_not_taken_again(
    make_service: Callable[..., Service], node: NodeDeployment
) -> None:
    node.dataset("drafted")
    node.partition("drafted", node.manifest("drafted", 1, "published"), [1])
    node.partition("drafted", node.manifest("drafted", 2, "draft"), [99])
    service = taken_over(make_service, node)

    assert numbers_of(service, "drafted") == [1]
    assert service.ingest("drafted", batch([2])).json()["manifest"]["version"] == 3
    assert numbers_of(service, "drafted") == [1, 2]


def test_taking_over_twice_changes_nothing_more(make_service: Callable[..., Service], node: NodeDeployment) -> None:
    node.dataset("twice")
    for version, status in ((1, "superseded"), (2, "published")):
        node.partition("twice", node.manifest("twice", version, status), [version])
    first = taken_over(make_service, node)
    before = first.client.get("/admin/datasets/twice/manifest").json()
    first.stop()
    second = taken_over(make_service, node)

    assert second.client.get("/admin/datasets/twice/manifest").json() == before
    assert numbers_of(second, "twice") == [1, 2]
