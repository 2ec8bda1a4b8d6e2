"""Backups: one version of each dataset, brought back elsewhere or beside the original, and what they refuse."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Lock
from typing import Any

import pytest

from tests.backups import NO_GRACE, Json, Store, flip_a_byte, is_replayed, make_store, parts, send
from tests.integration.maintenance import answers, changed, hard_batch
from tests.service import Service, batch, numbers_of, wait_until

HOUR_S = 3600


@pytest.fixture(scope="module")
def store(
    make_service: Callable[..., Service], postgres_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Store]:
    """Where backups are taken: shared by the tests of this module; use slugs of your own."""
    made = make_store(make_service, postgres_url, tmp_path_factory.mktemp("backup") / "storage", **NO_GRACE)
    yield made
    made.service.kill()


@pytest.fixture(scope="module")
def elsewhere(
    make_service: Callable[..., Service], postgres_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Store]:
    """Another catalog with storage of its own, to restore to."""
    made = make_store(make_service, postgres_url, tmp_path_factory.mktemp("elsewhere") / "storage")
    yield made
    made.service.kill()


@pytest.fixture
def new_store(make_service: Callable[..., Service], postgres_url: str, tmp_path: Path) -> Iterator[Callable[[], Store]]:
    """Makes stores over an empty catalog and an empty root."""
    made: list[Store] = []

    def make() -> Store:
        made.append(make_store(make_service, postgres_url, tmp_path / f"storage-{len(made)}"))
        return made[-1]

    yield make
    for one in made:
        one.service.kill()


def one_of(report: Json, slug: str) -> Json:
    """The dataset's part of a report."""
    (found,) = [one for one in report["datasets"] if one["slug"] == slug]
    dataset: Json = found
    return dataset


def published(store: Store, slug: str) -> Json:
    """The published manifest as the catalog has it."""
    (row,) = store.rows(
        "SELECT m.version, m.total_rows, m.total_bytes, m.partition_count, m.statistics, m.summary, s.schema, "
        "s.version AS schema_version, d.current_version, d.readable_from, d.status, d.name, d.description, "
        "d.write_format, d.metadata - 'restoredFrom' AS metadata, p.policy FROM datasets d "
        "JOIN dataset_manifests m ON m.dataset_id = d.id AND m.status = 'published' "
        "LEFT JOIN dataset_schema_versions s ON s.id = m.schema_version_id "
        "LEFT JOIN dataset_retention_policies p ON p.dataset_id = d.id WHERE d.slug = %s",
        slug,
    )
    return row


def partition_rows(store: Store, slug: str) -> list[Json]:
    """What the catalog says of the current partitions, without what a restore makes anew."""
    return store.rows(
        "SELECT partition_key, file_format, file_size_bytes, row_count, start_time, end_time, checksum, "
        "p.metadata - 'dataVersion' AS metadata, coalesce((p.metadata ->> 'dataVersion')::int, added_version) AS v, "
        "columns, p.created_at FROM dataset_partitions p JOIN datasets d ON d.id = p.dataset_id "
        "WHERE d.slug = %s AND removed_version IS NULL ORDER BY start_time, checksum, p.id",
        slug,
    )


def keys_of(store: Store, slug: str) -> list[Json]:
    return store.rows(
        "SELECT idempotency_key, content_hash, b.job_id, b.created_at FROM ingestion_batches b "
        "JOIN datasets d ON d.id = b.dataset_id WHERE d.slug = %s ORDER BY idempotency_key",
        slug,
    )


class Load:
    """Batches that are sent with repeats, from several threads, until `stop`; each with the version that it came in."""

    def __init__(self, store: Store, slugs: list[str]) -> None:
        self.store, self.slugs = store, slugs
        self.stop = Event()
        self.versions: dict[tuple[str, int], int] = {}
        self._lock = Lock()

    def write(self, thread: int) -> None:
        number = thread
        while not self.stop.is_set():
            slug = self.slugs[number % len(self.slugs)]
            version = send(self.store, slug, self.body(number), self.key(number))["manifest"]["version"]
            with self._lock:
                self.versions[slug, number] = version
            assert is_replayed(self.store, slug, self.body(number), self.key(number))
            number += 4

    def maintain(self) -> None:
        while not self.stop.is_set():
            for slug in self.slugs:
                self.store.maintain(slug, "compaction", "collection")

    def of(self, slug: str, *, up_to: int | None = None, after: int = 0) -> list[int]:
        """The batches of the dataset whose version is in the range."""
        return sorted(
            number
            for (one, number), version in self.versions.items()
            if one == slug and after < version and (up_to is None or version <= up_to)
        )

    @staticmethod
    def body(number: int) -> Json:
        return batch([number * 2, number * 2 + 1])

    @staticmethod
    def key(number: int) -> str:
        return f"batch {number}\nof a load, é"


def test_a_backup_under_load_restores_to_exactly_one_version(store: Store, elsewhere: Store, tmp_path: Path) -> None:
    load = Load(store, ["load-a", "load-b"])
    with ThreadPoolExecutor(5) as pool:
        running = [pool.submit(load.write, thread) for thread in range(4)]

        def has_sent(count: int) -> bool:
            for one in running:
                if one.done():
                    one.result()
            return len(load.versions) >= count

        try:
            wait_until(lambda: has_sent(10), "both datasets")
            running.append(pool.submit(load.maintain))
            wait_until(lambda: has_sent(60), "some batches")
            report = store.backup(str(tmp_path), "--name", "loaded", "--dataset", "load-a", "--dataset", "load-b")
            count = len(load.versions)
            wait_until(lambda: has_sent(count + 20), "batches after the backup")
        finally:
            load.stop.set()
        for one in running:
            one.result()
    assert report["complete"]
    assert [one for one in store.pins() if one["name"] == "backup:loaded"] == []
    restored = elsewhere.restore(str(tmp_path), "loaded", "--verify")

    assert restored["isWhole"]
    for slug in load.slugs:
        version = one_of(report, slug)["version"]
        before, after = load.of(slug, up_to=version), load.of(slug, after=version)
        assert before
        assert after
        there = published(elsewhere, slug)
        assert (there["version"], there["current_version"], there["readable_from"]) == (version, version, version)
        assert numbers_of(elsewhere.service, slug) == sorted(n for one in before for n in (one * 2, one * 2 + 1))
        assert [row["idempotency_key"] for row in keys_of(elsewhere, slug)] == sorted(map(load.key, before))
        assert all(is_replayed(elsewhere, slug, load.body(one), load.key(one)) for one in before)
        assert not any(is_replayed(elsewhere, slug, load.body(one), load.key(one)) for one in after)
        assert numbers_of(elsewhere.service, slug) == numbers_of(store.service, slug)
        assert published(elsewhere, slug)["version"] == version + len(after)


def test_hard_values_settings_and_statistics_come_back_as_they_were(
    store: Store, elsewhere: Store, tmp_path: Path
) -> None:
    slug = "hard values"
    store.service.client.post(
        "/admin/datasets",
        json={"slug": slug, "name": "Hard", "description": "é", "metadata": {"a": 1e300, "b": [2**53 + 1]}},
    )
    for number in range(6):
        send(store, slug, hard_batch(number), f"hard {number}")
    store.maintain(slug, "compaction")
    store.service.client.patch(f"/admin/datasets/{slug}", json={"writeFormat": "parquet"})
    for number in range(6, 10):
        send(store, slug, hard_batch(number), f"hard {number}")
    store.service.client.put(f"/admin/datasets/{slug}/retention", json={"deleteGraceMinutes": 7, "rules": {}})
    store.service.client.post(f"/admin/datasets/{slug}/archive")
    before = answers(store.service, slug)
    store.backup(str(tmp_path), "--name", "hard", "--dataset", slug)
    restored = one_of(elsewhere.restore(str(tmp_path), "hard", "--verify"), slug)

    assert changed(before, answers(elsewhere.service, slug)) == []
    assert partition_rows(elsewhere, slug) == partition_rows(store, slug)
    assert keys_of(elsewhere, slug) == keys_of(store, slug)
    there, here = published(elsewhere, slug), published(store, slug)
    assert there | {"readable_from": 0} == here | {"readable_from": 0}
    assert (there["status"], there["policy"]["deleteGraceMinutes"]) == ("inactive", 7)
    (audit,) = elsewhere.rows(
        "SELECT * FROM lifecycle_audit_log WHERE event_type = 'restore.dataset.restored' AND dataset_id = %s",
        restored["id"],
    )
    assert (audit["payload"]["backup"], audit["payload"]["sourceDatasetSlug"]) == ("hard", slug)
    assert (audit["payload"]["rowCount"], audit["payload"]["idempotencyKeys"]) == (200, 10)
    refused = elsewhere.service.client.get(f"/admin/datasets/{slug}/manifest", params={"version": 1})
    assert refused.status_code in (404, 410)


def test_every_dataset_that_is_not_deleted_comes_along(make_store_of_kinds: Store, tmp_path: Path) -> None:
    store = make_store_of_kinds
    report = store.backup(str(tmp_path))
    name = report["name"]

    assert [(one["slug"], one["version"], one["rows"]) for one in report["datasets"]] == [
        ("active", 2, 2),
        ("archived", 1, 1),
        ("emptied", 2, 0),
        ("new", 0, 0),
    ]
    restored = store.restore(str(tmp_path), name, "--prefix", "copy of ")
    assert [one["slug"] for one in restored["datasets"]] == [f"copy of {one['slug']}" for one in report["datasets"]]
    assert numbers_of(store.service, "copy of archived") == [5]
    assert numbers_of(store.service, "copy of emptied") == []
    assert store.service.ingest("copy of archived", batch([6])).status_code == 409
    for slug, version in (("active", 3), ("emptied", 3), ("new", 1)):
        assert send(store, f"copy of {slug}", batch([9]))["manifest"]["version"] == version
    assert not is_replayed(store, "copy of new", batch([10]), "k")
    assert is_replayed(store, "copy of emptied", batch([7]), "k")


@pytest.fixture
def make_store_of_kinds(new_store: Callable[[], Store]) -> Store:
    """A store with a dataset of each kind: active, archived, deleted, without rows, and without a snapshot."""
    store = new_store()
    client = store.service.client
    for slug, numbers in (("active", [1, 2]), ("archived", [5]), ("deleted", [6])):
        for number in numbers:
            send(store, slug, batch([number]))
    for slug in ("archived", "deleted"):
        assert client.post(f"/admin/datasets/{slug}/archive").status_code == 200
    assert client.delete("/admin/datasets/deleted", params={"confirm": "deleted"}).status_code == 200
    client.post("/admin/datasets", json={"slug": "new"})
    send(store, "emptied", batch([7]), "k")
    body = {"timeRange": {"start": "2024-01-01T00:00:00Z", "end": "2024-12-31T00:00:00Z"}}
    assert client.post("/admin/datasets/emptied/delete-rows", json=body).status_code == 200
    return store


def test_a_copy_beside_the_original_shares_nothing_with_it(store: Store, tmp_path: Path) -> None:
    for number in range(3):
        send(store, "original", batch([number]), f"key {number}")
    store.backup(str(tmp_path), "--name", "beside", "--dataset", "original")
    send(store, "original", batch([3]), "key 3")
    store.restore(str(tmp_path), "beside", "--dataset", "original", "--as", "Original")
    paths = store.rows(
        "SELECT d.slug, p.id, p.file_path FROM dataset_partitions p JOIN datasets d ON d.id = p.dataset_id "
        "WHERE d.slug IN ('original', 'Original')"
    )

    assert len(paths) == len({row["id"] for row in paths}) == len({row["file_path"] for row in paths}) == 7
    assert numbers_of(store.service, "Original") == [0, 1, 2]
    replay = store.service.ingest("Original", batch([1]), "key 1")
    assert replay.headers["idempotent-replayed"] == "true"
    assert replay.json()["manifest"]["datasetId"] == replay.json()["dataset"]["id"]
    assert store.service.ingest("Original", batch([100]), "key 1").status_code == 409
    assert not is_replayed(store, "Original", batch([3]), "key 3")
    store.maintain("Original", "compaction", "collection")
    store.maintain("original", "compaction", "collection")
    store.service.client.post("/admin/datasets/Original/archive")
    store.service.client.delete("/admin/datasets/Original", params={"confirm": "Original"})
    assert store.command("lifecycle", "sweep").returncode == 0
    assert numbers_of(store.service, "original") == [0, 1, 2, 3]
    assert is_replayed(store, "original", batch([1]), "key 1")
    assert json.loads(store.command("verify", "original", "--deep", "--json").stdout)[0]["isWhole"]


def test_a_dataset_that_was_deleted_is_restored_again_with_files_of_its_own(store: Store, tmp_path: Path) -> None:
    send(store, "twice", batch([1, 2]))
    store.backup(str(tmp_path), "--name", "twice", "--dataset", "twice")
    restore = ["restore", str(tmp_path), "twice", "--dataset", "twice", "--as", "back"]
    first = store.report(*restore)
    store.service.client.post("/admin/datasets/back/archive")
    store.service.client.delete("/admin/datasets/back", params={"confirm": "back"})
    second = store.report(*restore)
    assert store.command("lifecycle", "sweep").returncode == 0

    assert first["filesCopied"] == second["filesCopied"] == 1
    assert first["datasets"][0]["id"] != second["datasets"][0]["id"]
    assert numbers_of(store.service, "back") == [1, 2]
    assert store.report(*restore)["datasets"][0]["alreadyThere"]


def test_a_taken_slug_is_refused_before_anything_is_copied(store: Store, tmp_path: Path) -> None:
    for slug in ("taken-a", "taken-b"):
        send(store, slug, batch([1]))
    store.backup(str(tmp_path), "--name", "taken", "--dataset", "taken-a", "--dataset", "taken-b")
    files = store.files()
    send(store, "of taken-b", batch([2]))
    before = store.files()
    ended = store.command("restore", str(tmp_path), "taken", "--prefix", "of ")

    assert_one_line(ended.stderr, "the slug of taken-b is taken", "--as", "--prefix")
    assert ended.returncode == 1
    assert store.files() == before
    assert len(before) == len(files) + 1
    assert store.rows("SELECT 1 FROM datasets WHERE slug = 'of taken-a'") == []


def test_an_altered_byte_of_a_backup_is_named_and_nothing_is_restored(
    store: Store, elsewhere: Store, tmp_path: Path
) -> None:
    for slug in ("altered-a", "altered-b"):
        for number in range(2):
            send(store, slug, batch([number]), f"key {number}")
    store.backup(str(tmp_path), "--name", "altered", "--dataset", "altered-a", "--dataset", "altered-b")
    read = {key: path for key, path in parts(tmp_path, "altered").items() if Path(key).name not in UNREAD}
    assert len(read) == 1 + 2 * 5
    second = json.loads(read["backup.json"].read_bytes())["content"]["datasets"][1]["id"]
    for key, path in read.items():
        if key != "backup.json" and second not in key:
            continue
        whole = path.read_bytes()
        for harm in (flip_a_byte, Path.unlink):
            harm(path)
            for copied in elsewhere.root.glob("altered-*/**/restored-*"):
                copied.unlink()
            ended = elsewhere.command("restore", str(tmp_path), "altered")
            assert ended.returncode == 1, (key, harm)
            assert (key if path.exists() or key != "backup.json" else "not complete") in ended.stderr
            assert "Traceback" not in ended.stderr
            path.write_bytes(whole)
    assert elsewhere.rows("SELECT 1 FROM datasets WHERE slug LIKE 'altered-%%'") == []
    restored = elsewhere.restore(str(tmp_path), "altered")

    assert restored["filesCopied"] + restored["filesAlreadyThere"] == 4
    assert numbers_of(elsewhere.service, "altered-b") == [0, 1]


# What only a further run of the backup reads.
UNREAD = {"begun.json", "fixed.json"}


def test_verify_finds_an_altered_byte_of_a_complete_backup(store: Store, tmp_path: Path) -> None:
    send(store, "looked-at", batch([1]), "key")
    store.backup(str(tmp_path), "--name", "looked-at", "--dataset", "looked-at")
    (path,) = (path for key, path in parts(tmp_path, "looked-at").items() if key.endswith(".duckdb"))
    again = store.backup(str(tmp_path), "--name", "looked-at", "--verify")
    flip_a_byte(path)
    found = store.report("backup", str(tmp_path), "--name", "looked-at", "--verify", status=1)

    assert again["complete"]
    assert len(found["failures"]) == 1
    assert path.name in found["failures"][0]


def test_sources_that_cannot_be_trusted_are_named_while_the_others_are_copied(
    store: Store, elsewhere: Store, tmp_path: Path
) -> None:
    for number in range(6):
        send(store, "harmed", batch([number]), f"key {number}")
    rows = store.rows(
        "SELECT p.id, file_path FROM dataset_partitions p JOIN datasets d ON d.id = p.dataset_id "
        "WHERE slug = 'harmed' ORDER BY p.id"
    )
    paths = [store.root / row["file_path"] for row in rows[:4]]
    whole = [path.read_bytes() for path in paths]
    altered, short, missing, replaced = paths
    flip_a_byte(altered)
    os.truncate(short, 100)
    missing.unlink()
    replaced.unlink()
    replaced.mkdir()
    options = [str(tmp_path), "--name", "harmed", "--dataset", "harmed"]
    failed = store.report("backup", *options, status=1)
    told = store.command("backup", *options)
    listed = store.report("backup", "--list", str(tmp_path))

    assert (failed["failed"], failed["filesCopied"], failed["complete"]) == (4, 2, False)
    reasons = ("is not what was written", "has 100 bytes instead of", "is missing", "cannot be read")
    for row, failure, reason in zip(rows, failed["failures"], reasons, strict=False):
        assert row["id"] in failure
        assert row["file_path"] in failure
        assert reason in failure
        assert failure in told.stderr
    assert told.returncode == 1
    assert "--name harmed" in told.stderr
    assert "backup.json" not in parts(tmp_path, "harmed")
    assert [(one["name"], one["state"], one["rows"]) for one in listed] == [("harmed", "incomplete", None)]
    assert_one_line(elsewhere.command("restore", str(tmp_path), "harmed").stderr, "the backup harmed is not complete")
    replaced.rmdir()
    for path, content in zip(paths, whole, strict=True):
        path.write_bytes(content)
    done = store.backup(*options)
    assert (done["filesCopied"], done["filesAlreadyThere"]) == (4, 2)
    elsewhere.restore(str(tmp_path), "harmed")
    assert numbers_of(elsewhere.service, "harmed") == list(range(6))


def test_files_of_another_service_get_what_the_catalog_lacks(store: Store, elsewhere: Store, tmp_path: Path) -> None:
    for number in range(3):
        send(store, "taken over", batch([number]), f"key {number}")
    with store.catalog() as catalog:
        catalog.execute(
            "UPDATE dataset_partitions SET columns = NULL, checksum = NULL, file_size_bytes = NULL "
            "WHERE dataset_id = (SELECT id FROM datasets WHERE slug = 'taken over')"
        )
        catalog.execute("UPDATE ingestion_batches SET content_hash = NULL")
    store.backup(str(tmp_path), "--name", "taken-over", "--dataset", "taken over")
    restored = elsewhere.restore(str(tmp_path), "taken-over", "--verify")

    assert restored["isWhole"]
    assert numbers_of(elsewhere.service, "taken over") == [0, 1, 2]
    assert all(row["checksum"] and row["file_size_bytes"] for row in partition_rows(elsewhere, "taken over"))
    assert is_replayed(elsewhere, "taken over", batch([1]), "key 1")


def test_a_storage_target_holds_backups_that_no_collection_takes(
    new_store: Callable[[], Store], tmp_path: Path
) -> None:
    store = new_store()
    made = store.service.client.post(
        "/admin/storage-targets",
        json={"name": "away", "kind": "local", "config": {"root": str(tmp_path / "away"), "password": "hunter2"}},
    ).json()["storageTarget"]
    # A dataset whose folder is that of the backups.
    for number in range(2):
        send(store, "backups", batch([number], storageTargetId=made["id"]))
    store.backup("away", "--name", "by-name")
    store.backup(store.rows("SELECT id FROM storage_targets WHERE name = 'away'")[0]["id"], "--name", "by-id")
    store.backup("timestore-default-local", "--name", "at-home")
    for root in (tmp_path / "away", store.root):
        for path in root.rglob("*"):
            os.utime(path, (time.time() - 1000 * HOUR_S,) * 2)
    names = {name: sorted(parts(tmp_path / "away", name)) for name in ("by-name", "by-id")}
    store.maintain("backups", "collection")
    swept = store.report("lifecycle", "sweep")

    assert swept["leftovers"] == []
    assert {name: sorted(parts(tmp_path / "away", name)) for name in names} == names
    listed = store.report("backup", "--list", "away")
    assert [(one["name"], one["state"], one["datasets"], one["rows"]) for one in listed] == [
        ("by-id", "complete", 1, 2),
        ("by-name", "complete", 1, 2),
    ]
    assert all(one["bytes"] > 2 * 10_000 for one in listed)
    restored = store.restore("away", "by-id", "--prefix", "r-", "--to", "away")
    assert restored["isWhole"]
    target = store.rows(
        "SELECT t.name FROM datasets d JOIN storage_targets t ON t.id = default_storage_target_id "
        "WHERE slug = 'r-backups'"
    )
    assert target == [{"name": "away"}]
    assert store.restore("timestore-default-local", "at-home", "--prefix", "h-")["isWhole"]
    held = [path.read_bytes() for name in names for path in parts(tmp_path / "away", name).values()]
    assert not any(b"hunter2" in content for content in held)


def test_keys_by_the_hundred_thousand_come_along(store: Store, elsewhere: Store, tmp_path: Path) -> None:
    send(store, "many keys", batch([1]), "first")
    with store.catalog() as catalog:
        catalog.execute(
            "INSERT INTO ingestion_batches (id, dataset_id, idempotency_key, manifest_id, content_hash, job_id) "
            "SELECT 'many-' || n, d.id, 'key ' || n, 'dm-gone-' || n, md5(n::text), 'ingest-' || n "
            "FROM datasets d, generate_series(1, 150000) n WHERE slug = 'many keys'"
        )
    report = store.backup(str(tmp_path), "--name", "keys", "--dataset", "many keys")
    elsewhere.restore(str(tmp_path), "keys")
    store.restore(str(tmp_path), "keys", "--prefix", "another ")

    assert one_of(report, "many keys")["keys"] == 150_001
    assert keys_of(elsewhere, "many keys") == keys_of(store, "many keys")
    # A job's id is made from the slug: it stays the original's where both are.
    assert {row["job_id"] for row in keys_of(store, "another many keys")} == {None}
    assert is_replayed(elsewhere, "many keys", batch([1]), "first")


def test_what_will_not_go_on_as_it_did_is_told(store: Store, elsewhere: Store, tmp_path: Path) -> None:
    send(store, "old", batch([1]))
    policy = {"mode": "time", "rules": {"maxAgeHours": 1}, "coldStorageAfterHours": 5}
    target = store.rows("SELECT id FROM storage_targets")[0]["id"]
    policy |= {"metadata": {"coldStorageTargetId": target}}
    answer = store.service.client.put("/admin/datasets/old/retention", json=policy)
    assert answer.status_code == 200, answer.text
    store.backup(str(tmp_path), "--name", "old", "--dataset", "old")
    warnings = elsewhere.restore(str(tmp_path), "old")["datasets"][0]["warnings"]

    assert len(warnings) == 2
    assert target in warnings[0]
    assert "retention removes 1 of its 1 partitions" in warnings[1]


def test_one_backup_is_written_by_one_process(store: Store, tmp_path: Path) -> None:
    lock = f"timestore-{store.settings['TIMESTORE_PG_SCHEMA']}-backup-contested"
    with store.catalog() as catalog:
        catalog.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", [lock])
        ended = store.command("backup", str(tmp_path), "--name", "contested")

    assert ended.returncode == 1
    assert_one_line(ended.stderr, "contested is running in another process")


def assert_one_line(errors: str, *texts: str) -> None:
    """One line says what is wrong, and nothing else is said."""
    lines = [line for line in errors.splitlines() if line and not line.startswith("backup ")]
    assert len(lines) == 1, errors
    assert all(text in lines[0] for text in texts), errors


@pytest.fixture(scope="module")
def complete(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a complete backup `complete` of the dataset `known`."""
    target = tmp_path_factory.mktemp("complete")
    send(store, "known", batch([1]))
    store.backup(str(target), "--name", "complete", "--dataset", "known")
    (target / "a file").write_text("")
    return target


WRONG: list[tuple[list[str], str]] = [
    (["backup", "nowhere"], "TARGET: 'nowhere' is neither the absolute path of a directory nor a storage target"),
    (["backup", "./backups"], "TARGET: './backups' is neither the absolute path"),
    (["backup", "TARGET/a file"], "a file cannot be used"),
    (["backup", "TARGET", "--name", "../up"], "--name: must be 1 to 100 letters"),
    (["backup", "TARGET", "--name", ""], "--name: must be 1 to 100 letters"),
    (["backup", "TARGET", "--dataset", "unknown"], "--dataset: there is no dataset unknown"),
    (["backup", "TARGET", "--list", "--verify"], "--list: shows what is there"),
    (["backup", "--list", "TARGET/nowhere"], "TARGET: there is no directory"),
    (["restore", "relative/path", "complete"], "TARGET: 'relative/path' is neither the absolute path"),
    (["restore", "TARGET/nowhere", "complete"], "TARGET: there is no directory"),
    (["restore", "TARGET", "unknown"], "has no backup unknown; there are complete"),
    (["restore", "TARGET", "../complete"], "NAME: must be 1 to 100 letters"),
    (["restore", "TARGET", "complete"], "the slug known is taken"),
    (["restore", "TARGET", "complete", "--dataset", "unknown"], "--dataset: the backup complete has no dataset"),
    (["restore", "TARGET", "complete", "--as", "other"], "--as: is for a single dataset"),
    (["restore", "TARGET", "complete", "--dataset", "known", "--as", ""], "must not be empty"),
    (["restore", "TARGET", "complete", "--prefix", "x" * 300], "datasetSlug: has 305 characters"),
    (["restore", "TARGET", "complete", "--prefix", "p", "--to", "nowhere"], "--to: there is no storage target nowhere"),
]


@pytest.mark.parametrize(("arguments", "text"), WRONG, ids=[" ".join(one)[:60] for one, _ in WRONG])
def test_what_cannot_be_done_is_said_in_a_line(store: Store, complete: Path, arguments: list[str], text: str) -> None:
    before = parts(complete, "complete"), store.files()
    ended = store.command(*[one.replace("TARGET", str(complete)) for one in arguments])

    assert ended.returncode == 1
    assert_one_line(ended.stderr, text)
    assert (parts(complete, "complete"), store.files()) == before


def test_a_name_belongs_to_one_catalog_and_one_choice(
    store: Store, new_store: Callable[[], Store], complete: Path, tmp_path: Path
) -> None:
    other = new_store()
    send(other, "known", batch([1]))
    foreign = other.command("backup", str(complete), "--name", "complete")
    send(store, "chosen", batch([1]))
    path = store.root / store.rows("SELECT file_path FROM dataset_partitions ORDER BY created_at DESC")[0]["file_path"]
    whole = path.read_bytes()
    flip_a_byte(path)
    store.report("backup", str(tmp_path), "--name", "mine", "--dataset", "chosen", status=1)
    chosen = store.command("backup", str(tmp_path), "--name", "mine", "--dataset", "known")
    path.write_bytes(whole)

    assert_one_line(foreign.stderr, "the backup complete is of another catalog")
    assert_one_line(chosen.stderr, "the backup mine was begun with --dataset chosen")
    # Without a choice it goes on with what was chosen.
    assert [one["slug"] for one in store.backup(str(tmp_path), "--name", "mine")["datasets"]] == ["chosen"]


def test_a_listing_tells_damaged_backups_from_whole_ones(store: Store, tmp_path: Path) -> None:
    send(store, "listed", batch([1, 2, 3]))
    for name in ("a", "b"):
        store.backup(str(tmp_path), "--name", name, "--dataset", "listed")
    flip_a_byte(parts(tmp_path, "b")["backup.json"])
    listed: list[Any] = store.report("backup", str(tmp_path), "--list")  # type: ignore[assignment]
    told = store.command("backup", str(tmp_path), "--list").stdout

    assert [(one["name"], one["state"], one["rows"]) for one in listed] == [
        ("a", "complete", 3),
        ("b", "damaged", None),
    ]
    assert told.startswith("a: complete, 20")
    assert "1 datasets, 3 rows" in told
    assert store.command("backup", str(tmp_path / "backups"), "--list").stdout == "there is no backup\n"
