"""One row per series and time, the last written: however often a batch comes, and whatever becomes of its partition."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from tests.integration.model import iso
from tests.service import Service

START = datetime(2024, 1, 1, tzinfo=UTC)
FIELDS = {"timestamp": "timestamp", "host": "string", "a": "double", "b": "string"}
RANGE = {"start": "2024-01-01T00:00:00Z", "end": "2024-01-02T00:00:00Z"}
Rows = list[dict[str, Any]]


class Kept:
    """A dataset that keeps one row per host and time, and the plain model of it."""

    def __init__(self, service: Service, merge: str, write_format: str) -> None:
        self.service, self.merge, self.slug = service, merge, f"kept-{uuid4().hex[:8]}"
        self.rows: dict[tuple[str, Any], dict[str, Any]] = {}
        body = {
            "slug": self.slug,
            "writeFormat": write_format,
            "metadata": {"dedupe": {"columns": ["host"], "merge": merge}},
        }
        answer = service.client.post("/admin/datasets", json=body)
        assert answer.status_code == 201, answer.text

    def write(self, rows: Rows, key: str = "") -> None:
        times = [row["timestamp"] for row in rows if row["timestamp"] is not None]
        body = {
            "schema": {"fields": [{"name": name, "type": type_} for name, type_ in FIELDS.items()]},
            "partition": {"key": {}, "timeRange": {"start": min(times), "end": max(times)}},
            "rows": rows,
        }
        answer = self.service.ingest(self.slug, body, key or None)
        assert answer.status_code == 201, answer.text
        for row in rows:
            place = (row["timestamp"], row.get("host"))
            whole = {name: row.get(name) for name in FIELDS}
            if self.merge == "fields" and place in self.rows:
                given = {name: value for name, value in whole.items() if value is not None}
                whole = {**self.rows[place], **given}
            self.rows[place] = whole

    def random_batch(self, chance: random.Random, size: int = 12) -> Rows:
        return [
            {
                "timestamp": iso(START + timedelta(minutes=chance.randrange(20))),
                "host": chance.choice(["a", "b", None]),
                "a": chance.choice([None, float(chance.randrange(1000))]),
                "b": chance.choice([None, "x", "y"]),
            }
            for _ in range(size)
        ]

    def ask(self, **body: Any) -> Rows:
        answer = self.service.query(self.slug, {"timeRange": RANGE, **body})
        assert answer.status_code == 200, answer.text
        return answer.json()["rows"]

    def maintain(self, *operations: str) -> None:
        answer = self.service.client.post(
            "/admin/lifecycle/run", json={"datasetSlug": self.slug, "operations": list(operations)}
        )
        assert answer.status_code == 200, answer.text
        assert "failed" not in answer.text, answer.text

    def check(self) -> None:
        """Every kind of question is answered as if what was replaced had never been."""
        expected = list(self.rows.values())
        found = self.ask()
        assert sorted(map(repr, found)) == sorted(map(repr, expected))
        assert self.ask(aggregations=[{"fn": "count"}]) == [{"count": len(expected)}]
        chosen = [row for row in expected if row["a"] is not None and row["a"] > 500]
        filtered = self.ask(filters={"columns": {"a": {"gt": 500}}})
        assert sorted(map(repr, filtered)) == sorted(map(repr, chosen))
        of_host = self.ask(filters={"columns": {"host": {"eq": "a"}}}, columns=["a"])
        assert len(of_host) == sum(row["host"] == "a" for row in expected)
        answer = self.service.client.post(
            f"/datasets/{self.slug}/sql", json={"sql": "SELECT count(*) AS n, sum(a) AS s FROM dataset"}
        )
        assert answer.status_code == 200, answer.text
        known = [row["a"] for row in expected if row["a"] is not None]
        assert answer.json()["rows"] == [{"n": len(expected), "s": sum(known) if known else None}]


@pytest.fixture
def make_kept(service: Service) -> Callable[..., Kept]:
    return lambda merge="rows", write_format="duckdb": Kept(service, merge, write_format)


@pytest.mark.parametrize("write_format", ["duckdb", "parquet", "auto"])
@pytest.mark.parametrize("merge", ["rows", "fields"])
def test_the_last_row_counts_before_and_after_compaction(
    make_kept: Callable[..., Kept], merge: str, write_format: str
) -> None:
    kept, chance = make_kept(merge, write_format), random.Random(f"{merge}{write_format}")
    for round_ in range(3):
        for _ in range(4):
            kept.write(kept.random_batch(chance))
        kept.check()
        kept.maintain("compaction")
        kept.check()
        if round_ == 1:
            kept.maintain("parquetExport")
            kept.maintain("verification")


@pytest.mark.parametrize("merge", ["rows", "fields"])
def test_a_version_brought_back_is_older_than_what_came_after_it(make_kept: Callable[..., Kept], merge: str) -> None:
    kept, chance = make_kept(merge), random.Random(merge)
    kept.write(kept.random_batch(chance))
    kept.write(kept.random_batch(chance))
    before = dict(kept.rows)
    kept.write(kept.random_batch(chance))
    kept.maintain("compaction")
    answer = kept.service.client.post(f"/admin/datasets/{kept.slug}/restore", json={"version": 2})
    assert answer.status_code == 200, answer.text
    kept.rows = before
    kept.check()
    kept.write(kept.random_batch(chance))
    kept.check()


def test_deleted_rows_leave_what_is_kept_as_it_is(make_kept: Callable[..., Kept]) -> None:
    kept, chance = make_kept(), random.Random(7)
    for _ in range(3):
        kept.write(kept.random_batch(chance))
    kept.maintain("compaction")
    kept.write(kept.random_batch(chance))
    end = iso(START + timedelta(minutes=9))
    answer = kept.service.client.post(
        f"/admin/datasets/{kept.slug}/delete-rows", json={"timeRange": {"start": RANGE["start"], "end": end}}
    )
    assert answer.status_code == 200, answer.text
    kept.rows = {place: row for place, row in kept.rows.items() if place[0] > end}
    kept.check()
    kept.write(kept.random_batch(chance))
    kept.maintain("compaction")
    kept.check()


def test_rows_that_are_kept_by_one_time_are_not_deleted_by_another(service: Service) -> None:
    database = f"db{uuid4().hex[:6]}"
    slug = f"{database}.m"
    assert service.client.post(f"/write?db={database}", content="m,host=a x=1 1704067200000000000").status_code == 204
    body = {
        "schema": {"fields": [{"name": name, "type": "timestamp"} for name in ("timestamp", "seen")]},
        "partition": {"key": {}, "timeRange": {"start": iso(START), "end": iso(START)}},
        "rows": [{"timestamp": iso(START), "seen": iso(START)}],
    }
    assert service.ingest(slug, body).status_code == 201
    answer = service.client.post(
        f"/admin/datasets/{slug}/delete-rows", json={"timeRange": RANGE, "timestampColumn": "seen"}
    )
    assert (answer.status_code, answer.json()["details"][0]["path"]) == (400, "timestampColumn")


def test_datasets_become_so_with_what_they_have(service: Service) -> None:
    kept = Kept(service, "rows", "duckdb")
    patched = service.client.patch(f"/admin/datasets/{kept.slug}", json={"metadata": {"dedupe": None}})
    assert patched.status_code == 200, patched.text
    same = {"timestamp": iso(START), "host": "a", "b": None}
    kept.write([{**same, "a": 1.0}, {**same, "a": 2.0}])
    kept.write([{**same, "a": 3.0}, {**same, "a": 4.0}])
    assert len(kept.ask()) == 4
    rule = {"dedupe": {"columns": ["host"], "merge": "rows"}}
    assert service.client.patch(f"/admin/datasets/{kept.slug}", json={"metadata": rule}).status_code == 200
    kept.check()
    kept.maintain("compaction")
    kept.check()


@pytest.mark.parametrize(
    ("rule", "path"),
    [
        ([], "metadata.dedupe"),
        ({"columns": "host"}, "metadata.dedupe.columns"),
        ({"columns": [1]}, "metadata.dedupe.columns"),
        ({"columns": [], "merge": "both"}, "metadata.dedupe.merge"),
        ({"columns": [], "timeColumn": 7}, "metadata.dedupe.timeColumn"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(service: Service, rule: Any, path: str) -> None:
    answer = service.client.post(
        "/admin/datasets", json={"slug": f"no-{uuid4().hex[:8]}", "metadata": {"dedupe": rule}}
    )

    assert (answer.status_code, answer.json()["details"][0]["path"]) == (400, path)


def test_more_overlapping_partitions_than_may_be_attached_are_one_answer(make_service: Callable[..., Service]) -> None:
    service = make_service(TIMESTORE_QUERY_MAX_ATTACHED="3").start()
    for merge in ("rows", "fields"):
        kept, chance = Kept(service, merge, "duckdb"), random.Random(merge)
        for _ in range(7):
            kept.write(kept.random_batch(chance))
        found = kept.ask()
        assert sorted(map(repr, found)) == sorted(map(repr, kept.rows.values()))
        assert kept.ask(aggregations=[{"fn": "count"}]) == [{"count": len(kept.rows)}]


def patched(kept: Kept, **metadata: Any) -> None:
    answer = kept.service.client.patch(f"/admin/datasets/{kept.slug}", json={"metadata": metadata})
    assert answer.status_code == 200, answer.text


def row(minute: int, host: str | None, a: float | None = None, b: str | None = None) -> dict[str, Any]:
    return {"timestamp": iso(START + timedelta(minutes=minute)), "host": host, "a": a, "b": b}


@pytest.mark.parametrize("write_format", ["duckdb", "parquet", "auto"])
def test_rows_from_before_the_rule_have_an_order_too(make_kept: Callable[..., Kept], write_format: str) -> None:
    kept = make_kept("rows", write_format)
    patched(kept, dedupe=None)
    kept.write([row(0, "h", 0.0), row(0, "h", 1.0), row(0, "h", 2.0)])
    patched(kept, dedupe={"columns": ["host"], "merge": "rows"})
    kept.check()
    kept.maintain("compaction")
    kept.check()


def test_another_rule_counts_from_then_on(make_kept: Callable[..., Kept]) -> None:
    kept = make_kept()
    patched(kept, dedupe={"columns": ["host", "b"], "merge": "rows"})
    kept.write([row(0, "h", 1.0, "x"), row(0, "h", 2.0, "y")])
    assert len(kept.ask()) == 2
    answer = kept.service.query(kept.slug, {"timeRange": RANGE})
    patched(kept, dedupe={"columns": ["host"], "merge": "rows"})

    assert [one["b"] for one in kept.ask()] == ["y"]
    again = kept.service.client.post(
        f"/datasets/{kept.slug}/query", json={"timeRange": RANGE}, headers={"If-None-Match": answer.headers["etag"]}
    )
    assert again.status_code == 200


def test_the_newest_row_is_one_that_was_not_replaced(make_kept: Callable[..., Kept]) -> None:
    kept = make_kept()
    for one in (row(1, "h", 1.0, "x"), row(10, "h", 2.0, "x"), row(10, "h", 3.0, "y")):
        kept.write([one])

    found = kept.ask(latest=True, groupBy=["b"])
    assert [(one["b"], one["a"]) for one in found] == [("x", 1.0), ("y", 3.0)]
    [of_x] = kept.ask(latest=True, filters={"columns": {"b": {"eq": "x"}}})
    assert of_x["a"] == 1.0


def test_rows_without_a_time_are_one_wherever_they_stand(make_kept: Callable[..., Kept]) -> None:
    kept = make_kept()
    kept.write([row(1, "h"), {**row(1, "h", 1.0), "timestamp": None}])
    kept.write([row(5, "h"), {**row(5, "h", 2.0), "timestamp": None}])

    def counted() -> Any:
        sql = {"sql": "SELECT count(*) AS n FROM dataset"}
        return kept.service.client.post(f"/datasets/{kept.slug}/sql", json=sql).json()["rows"]

    assert counted() == [{"n": 3}]
    kept.maintain("compaction")
    assert counted() == [{"n": 3}]


@pytest.mark.parametrize("write_format", ["duckdb", "parquet", "auto"])
@pytest.mark.parametrize("name", ["rowid", "file_row_number", "bin", "stored", "newest", "written"])
def test_columns_may_be_called_as_the_engine_calls_its_own(service: Service, name: str, write_format: str) -> None:
    slug = f"named-{uuid4().hex[:8]}"
    made = {"slug": slug, "writeFormat": write_format, "metadata": {"dedupe": {"columns": ["host"]}}}
    assert service.client.post("/admin/datasets", json=made).status_code == 201
    for value in ("5", "1"):
        body = {
            "schema": {
                "fields": [
                    {"name": "timestamp", "type": "timestamp"},
                    {"name": "host", "type": "string"},
                    {"name": name, "type": "string"},
                ]
            },
            "partition": {"key": {}, "timeRange": {"start": iso(START), "end": iso(START)}},
            "rows": [{"timestamp": iso(START), "host": "h", name: value}],
        }
        assert service.ingest(slug, body).status_code == 201
    for _ in range(2):
        answer = service.query(slug, {"timeRange": RANGE, "latest": True, "groupBy": [name]})
        assert answer.status_code == 200, answer.text
        assert [one[name] for one in answer.json()["rows"]] == ["1"]
        service.client.post("/admin/lifecycle/run", json={"datasetSlug": slug, "operations": ["compaction"]})


def test_a_tag_that_comes_while_others_are_gathered_is_part_of_the_key(service: Service) -> None:
    database = f"db{uuid4().hex[:6]}"

    def write(line: str) -> None:
        answer = service.client.post(f"/write?db={database}", content=line)
        assert answer.status_code == 204, answer.text

    write("m,host=a x=1 1704067200000000000")
    write("m,host=a,dc=e x=2 1704067200000000000\nm,host=a,dc=f x=3 1704067200000000000")
    for _ in range(2):
        found = service.query(f"{database}.m", {"timeRange": RANGE}).json()["rows"]
        assert sorted(one["x"] for one in found) == [1, 2, 3]
        service.client.post("/admin/lifecycle/run", json={"datasetSlug": f"{database}.m", "operations": ["compaction"]})


def test_another_time_column_may_be_null_throughout_a_partition(service: Service) -> None:
    slug = f"later-{uuid4().hex[:6]}"
    rule = {"dedupe": {"columns": ["host"]}}
    assert service.client.post("/admin/datasets", json={"slug": slug, "metadata": rule}).status_code == 201
    for number, seen in enumerate((None, iso(START))):
        body = {
            "schema": {
                "fields": [
                    *({"name": name, "type": "timestamp"} for name in ("timestamp", "seen")),
                    {"name": "host", "type": "string"},
                ]
            },
            "partition": {"key": {}, "timeRange": {"start": iso(START), "end": iso(START)}},
            "rows": [{"timestamp": iso(START), "seen": seen, "host": str(number)}],
        }
        assert service.ingest(slug, body).status_code == 201
    for question in ({}, {"aggregations": [{"fn": "count"}]}, {"latest": True}):
        answer = service.query(slug, {"timeRange": RANGE, "timestampColumn": "seen", **question})
        assert answer.status_code == 200, answer.text
        assert answer.json()["rows"][0].get("count", 1) == 1
