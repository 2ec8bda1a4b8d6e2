"""Batches that stand in the catalog: visible at once, asked as any other, and gathered into files."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.rows import dict_row

from tests.integration.maintenance import Json, Stand, ask, head, ingest, make_stand, outcome, policy, run
from tests.service import ALL_TIME, Service, batch, numbers_of

QUESTIONS: list[Json] = [
    {},
    {"columns": ["n", "timestamp"], "limit": 7},
    {"timeRange": {"start": "2024-01-01T00:00:05Z", "end": "2024-01-01T00:00:21Z"}},
    {"filters": {"partitionKey": {"window": ["even"]}}},
    {
        "downsample": {
            "intervalUnit": "second",
            "intervalSize": 10,
            "aggregations": [
                {"fn": "count"},
                {"fn": "avg", "column": "value"},
                {"fn": "max", "column": "n"},
                {"fn": "median", "column": "n"},
                {"fn": "min", "column": "place"},
                {"fn": "count_distinct", "column": "place"},
            ],
        }
    },
]


@pytest.fixture(scope="module")
def stand(
    make_service: Callable[..., Service], postgres_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stand]:
    root = tmp_path_factory.mktemp("inline") / "storage"
    made = make_stand(make_service, postgres_url, root, TIMESTORE_LIFECYCLE_COMPACTION_FAN_OUT="2")
    yield made
    assert made.service.stop() == 0


def made(service: Service, slug: str | None = None, write_format: str = "auto") -> str:
    """The slug of a new dataset."""
    slug = slug or f"i-{uuid4().hex[:8]}"
    ask(service, "POST", "/admin/datasets", {"slug": slug, "writeFormat": write_format}, status=201)
    return slug


def rows_of(stand: Stand, statement: str, *values: Any) -> list[Mapping[str, Any]]:
    """The catalog's rows."""
    url, schema = stand.settings["TIMESTORE_DATABASE_URL"], stand.settings["TIMESTORE_PG_SCHEMA"]
    with psycopg.connect(url, options=f"-c search_path={schema}", row_factory=dict_row) as connection:
        return connection.execute(statement, values).fetchall()


def blobs(stand: Stand, slug: str) -> int:
    """How many of the dataset's partitions have their bytes in the catalog, removed ones included."""
    statement = (
        "SELECT count(*) AS n FROM dataset_partition_blobs b JOIN dataset_partitions p ON p.id = b.partition_id "
        "JOIN datasets d ON d.id = p.dataset_id WHERE d.slug = %s"
    )
    count: int = rows_of(stand, statement, slug)[0]["n"]
    return count


def formats(stand: Stand, slug: str) -> list[str]:
    """The formats of the current snapshot's partitions, sorted."""
    statement = (
        "SELECT p.file_format FROM dataset_partitions p JOIN datasets d ON d.id = p.dataset_id "
        "WHERE d.slug = %s AND p.removed_version IS NULL"
    )
    return sorted(one["file_format"] for one in rows_of(stand, statement, slug))


def uneven_batch(number: int, rng: random.Random) -> Json:
    """Ten rows whose columns are not those of every other batch: one comes, one widens, some values are missing."""
    fields = [{"name": "timestamp", "type": "timestamp"}, {"name": "n", "type": "integer"}]
    fields.append({"name": "value", "type": "integer" if number < 3 else "double"})
    if number % 2:
        fields.append({"name": "place", "type": "string"})
    rows = []
    for n in range(number * 10, number * 10 + 10):
        value: Any = rng.randrange(100) if number < 3 else rng.choice([None, rng.random()])
        row: Json = {"timestamp": f"2024-01-01T00:{n // 60:02}:{n % 60:02}Z", "n": n, "value": value}
        if number % 2:
            row["place"] = rng.choice([None, "hall", "roof", "ångström"])
        rows.append(row)
    times = [row["timestamp"] for row in rows]
    key = {"window": "odd" if number % 2 else "even"}
    return {
        "schema": {"fields": fields},
        "partition": {"key": key, "timeRange": {"start": times[0], "end": times[-1]}},
        "rows": rows,
    }


def answers(service: Service, slug: str) -> list[Json]:
    """What the dataset answers to every question."""
    found = []
    for question in QUESTIONS:
        answer = service.query(slug, {"timeRange": ALL_TIME, **question})
        assert answer.status_code == 200, answer.text
        found.append(answer.json())
    return found


def test_it_answers_as_files_do_before_and_after_it_is_gathered(stand: Stand) -> None:
    service, slug, files = stand.service, made(stand.service), made(stand.service, write_format="duckdb")
    seeds = random.Random(7), random.Random(7)
    for number in range(8):
        for name, rng in zip((slug, files), seeds, strict=True):
            ingest(service, name, uneven_batch(number, rng))
        if number:
            assert answers(service, slug) == answers(service, files)

    assert formats(stand, slug) == ["inline"] * 8
    assert stand.files_of(slug) == set()
    assert outcome(service, slug, "verification")["status"] == "completed"
    assert outcome(service, slug, "compaction")["status"] == "completed"
    assert formats(stand, slug) == ["duckdb"] * 2
    assert answers(service, slug) == answers(service, files)


def test_the_answer_to_a_batch_is_that_of_a_file(stand: Stand) -> None:
    service, slug, files = stand.service, made(stand.service), made(stand.service, write_format="duckdb")
    for number in (3, 1, 2):
        inline, file = (ingest(service, name, batch([number]), "k" * number) for name in (slug, files))
    partition = inline["manifest"]["partitions"][0]

    assert partition["filePath"] == f"inline:{partition['id']}"
    assert inline["manifest"].keys() == file["manifest"].keys()
    for name in ("version", "status", "summary", "metadata", "partitionCount", "totalRows", "createdBy"):
        assert inline["manifest"][name] == file["manifest"][name]
    for name in ("startTime", "endTime", "rowCount"):
        assert inline["manifest"]["statistics"][name] == file["manifest"]["statistics"][name]
    assert inline["manifest"]["totalBytes"] == inline["manifest"]["statistics"]["fileSizeBytes"]
    assert inline["dataset"]["updatedAt"] >= inline["manifest"]["publishedAt"]
    assert head(service, slug) == {**inline["manifest"], "partitions": head(service, slug)["partitions"]}


def test_a_repeated_key_counts_once_also_after_it_was_gathered_and_collected(stand: Stand) -> None:
    service, slug = stand.service, made(stand.service)
    policy(service, slug)
    first = ingest(service, slug, batch([1, 2]), "one")
    ingest(service, slug, batch([3]), "two")
    again = service.ingest(slug, batch([1, 2]), "one")
    assert again.headers["idempotent-replayed"] == "true"
    assert again.json()["manifest"] == first["manifest"]
    run(service, slug, "compaction", "collection")

    assert blobs(stand, slug) == 0
    again = service.ingest(slug, batch([1, 2]), "one")
    assert again.status_code == 201
    assert again.headers["idempotent-replayed"] == "true"
    other = service.ingest(slug, batch([9]), "one")
    assert other.status_code == 409
    assert other.json()["code"] == "idempotency_key_reused"
    assert numbers_of(service, slug) == [1, 2, 3]


def test_a_batch_above_the_limit_is_a_file(stand: Stand) -> None:
    service, slug = stand.service, made(stand.service)
    rng = random.Random(1)
    body = batch(list(range(3000)))
    body["schema"] = {"fields": [*body["schema"]["fields"], {"name": "noise", "type": "string"}]}
    for row in body["rows"]:
        row["noise"] = rng.randbytes(30).hex()
    ingest(service, slug, body)
    ingest(service, slug, batch([5000]))

    assert formats(stand, slug) == ["duckdb", "inline"]
    assert numbers_of(service, slug) == [*range(3000), 5000]


def test_earlier_versions_and_pins_keep_it_and_a_version_is_restored(stand: Stand) -> None:
    service, slug = stand.service, made(stand.service)
    policy(service, slug)
    for number in range(3):
        ingest(service, slug, batch([number]))
    ask(service, "PUT", f"/admin/datasets/{slug}/pins/second", {"version": 2}, status=201)
    run(service, slug, "compaction", "collection")
    assert blobs(stand, slug) == 2

    pinned = service.query(slug, {"timeRange": ALL_TIME, "asOf": "second"})
    assert [row["n"] for row in pinned.json()["rows"]] == [0, 1]
    ask(service, "POST", f"/admin/datasets/{slug}/restore", {"version": 2})
    assert numbers_of(service, slug) == [0, 1]
    ask(service, "DELETE", f"/admin/datasets/{slug}/pins/second")
    run(service, slug, "collection")
    assert blobs(stand, slug) == 2
    assert numbers_of(service, slug) == [0, 1]
    assert formats(stand, slug) == ["inline", "inline"]
    assert outcome(service, slug, "verification")["status"] == "completed"


def test_rows_of_a_range_are_deleted_out_of_it(stand: Stand) -> None:
    service, slug = stand.service, made(stand.service)
    for start in (0, 10, 20):
        ingest(service, slug, batch(list(range(start, start + 10))))
    time_range = {"start": "2024-01-01T00:00:05Z", "end": "2024-01-01T00:00:19Z"}
    done = ask(service, "POST", f"/admin/datasets/{slug}/delete-rows", {"timeRange": time_range})

    assert done["rows"] == 15
    assert numbers_of(service, slug) == [*range(5), *range(20, 30)]
    assert formats(stand, slug) == ["duckdb", "inline"]


def test_it_is_exported(stand: Stand) -> None:
    service, slug = stand.service, made(stand.service)
    for number in range(5):
        ingest(service, slug, batch([number]))
    exported = outcome(service, slug, "parquetExport", force=True)

    assert exported["status"] == "completed"
    assert (stand.root / exported["filePath"]).is_file()


def test_it_moves_to_another_target(stand: Stand, tmp_path: Path) -> None:
    service, slug = stand.service, made(stand.service)
    target = ask(
        service,
        "POST",
        "/admin/storage-targets",
        {"name": slug, "kind": "local", "config": {"root": str(tmp_path / "cold")}},
        status=201,
    )["storageTarget"]
    for number in range(3):
        ingest(service, slug, batch([number]))
    moved = stand.command("storage", "move", slug, "--to", target["name"])
    assert moved.returncode == 0, moved.stderr

    assert numbers_of(service, slug) == [0, 1, 2]
    assert len(list((tmp_path / "cold").rglob("part-*.arrow"))) == 3
    assert outcome(service, slug, "verification")["status"] == "completed"
    assert outcome(service, slug, "compaction")["status"] == "completed"
    assert numbers_of(service, slug) == [0, 1, 2]


def test_a_backup_has_it_and_gives_it_back(stand: Stand, tmp_path: Path) -> None:
    service, slug = stand.service, made(stand.service)
    for number in range(4):
        ingest(service, slug, batch([number]), f"key-{number}")
    place = tmp_path / "backups"
    taken = stand.command("backup", str(place), "--name", "one", "--dataset", slug)
    assert taken.returncode == 0, taken.stderr
    restored = stand.command("restore", str(place), "one", "--dataset", slug, "--as", f"{slug}-2")
    assert restored.returncode == 0, restored.stderr

    assert numbers_of(service, f"{slug}-2") == [0, 1, 2, 3]
    assert outcome(service, f"{slug}-2", "verification")["status"] == "completed"
    again = service.ingest(f"{slug}-2", batch([2]), "key-2")
    assert again.headers["idempotent-replayed"] == "true"
    ingest(service, f"{slug}-2", batch([4]))
    run(service, f"{slug}-2", "compaction")
    assert numbers_of(service, f"{slug}-2") == [0, 1, 2, 3, 4]


def test_damaged_and_missing_bytes_are_noticed(stand: Stand) -> None:
    service, slug = stand.service, made(stand.service)
    damaged = ingest(service, slug, batch([1]))["manifest"]["partitions"][0]["id"]
    missing = ingest(service, slug, batch([2]))["manifest"]["partitions"][0]["id"]
    rows_of(
        stand,
        "UPDATE dataset_partition_blobs SET content = overlay(content PLACING 'x'::bytea FROM 200) "
        "WHERE partition_id = %s RETURNING 1",
        damaged,
    )
    rows_of(stand, "DELETE FROM dataset_partition_blobs WHERE partition_id = %s RETURNING 1", missing)

    answer = service.query(slug, {"timeRange": ALL_TIME})
    assert answer.status_code == 500
    assert answer.json()["code"] == "partition_unreadable"
    verified = stand.command("verify", slug, "--deep", "--json")
    assert verified.returncode == 1
    assert damaged in verified.stdout
    assert missing in verified.stdout


def test_a_deleted_dataset_takes_its_batches_out_of_the_catalog(stand: Stand) -> None:
    service, slug = stand.service, made(stand.service)
    policy(service, slug)
    for number in range(3):
        ingest(service, slug, batch([number]))
    dataset_id = rows_of(stand, "SELECT id FROM datasets WHERE slug = %s", slug)[0]["id"]
    ask(service, "POST", f"/admin/datasets/{slug}/archive")
    ask(service, "DELETE", f"/admin/datasets/{slug}", confirm=slug)
    swept = stand.command("lifecycle", "sweep")
    assert swept.returncode == 0, swept.stderr

    left = rows_of(stand, "SELECT 1 FROM dataset_partitions WHERE dataset_id = %s", dataset_id)
    assert left == []
    orphans = "SELECT 1 FROM dataset_partition_blobs WHERE partition_id NOT IN (SELECT id FROM dataset_partitions)"
    assert rows_of(stand, orphans) == []


def test_it_is_read_by_sql(stand: Stand) -> None:
    service, slug, files = stand.service, made(stand.service), made(stand.service, write_format="duckdb")
    seeds = random.Random(11), random.Random(11)
    for number in range(6):
        for name, rng in zip((slug, files), seeds, strict=True):
            ingest(service, name, uneven_batch(number, rng))
    statement = "SELECT place, count(*) AS rows, sum(n) AS n, max(value) AS value FROM dataset GROUP BY 1 ORDER BY 1"
    asked = {"sql": statement, "timeRange": {"start": "2024-01-01T00:00:05Z", "end": "2024-01-01T00:00:47Z"}}
    first, second = (service.client.post(f"/datasets/{name}/sql", json=asked) for name in (slug, files))

    assert first.status_code == 200, first.text
    assert first.json() == second.json()
    assert sum(row["rows"] for row in first.json()["rows"]) == 43
