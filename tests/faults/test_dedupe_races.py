"""A rule that changes while a batch is under way: no row is merged into one that is another by the new rule."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.faults.hinder import make_hinder
from tests.service import Service

TIME = "2024-01-01T00:00:00.000Z"
NS = 1_704_067_200_000_000_000
RANGE = {"start": TIME, "end": "2024-01-02T00:00:00.000Z"}


@pytest.mark.parametrize("write_format", ["auto", "duckdb"])
def test_a_tag_that_comes_while_rows_are_merged_tells_them_apart(
    make_service: Callable[..., Service], postgres_url: str, tmp_path: Path, write_format: str
) -> None:
    hinder = make_hinder(tmp_path / "plugin")
    own_schema = f"rule_races_{write_format}"
    service = make_service(TIMESTORE_DATABASE_URL=postgres_url, TIMESTORE_PG_SCHEMA=own_schema, **hinder.settings)
    service.start()
    with ThreadPoolExecutor() as pool, hinder.letting_go_at_last():
        rule = {"dedupe": {"columns": ["host"], "merge": "fields"}}
        made = service.client.post(
            "/admin/datasets", json={"slug": "db.m", "writeFormat": write_format, "metadata": rule}
        )
        assert made.status_code == 201, made.text
        names = {"timestamp": "timestamp", "host": "string", "dc": "string", "x": "double"}
        rows = [{"timestamp": TIME, "host": "a", "dc": dc, "x": x} for dc, x in (("e", 1.0), ("f", 2.0), ("f", 3.0))]
        body = {
            "schema": {"fields": [{"name": name, "type": type_} for name, type_ in names.items()]},
            "partition": {"key": {}, "timeRange": {"start": TIME, "end": TIME}},
            "rows": rows,
        }
        # Where the rows are merged already, and not yet published.
        hinder.arm("ingest.encoded" if write_format == "auto" else "ingest.file_stored")
        sent = pool.submit(service.ingest, "db.m", body)
        hinder.wait_until_held()
        answer = service.client.post("/write?db=db", content=f"m,host=b,dc=e x=4 {NS}")
        assert answer.status_code == 204, answer.text
        hinder.let_go()
        assert sent.result().status_code == 201, sent.result().text

        found = service.query("db.m", {"timeRange": RANGE}).json()["rows"]
        assert sorted((one["host"], one["dc"], one["x"]) for one in found) == [
            ("a", "e", 1.0),
            ("a", "f", 3.0),
            ("b", "e", 4.0),
        ]


def test_a_rule_that_changes_while_rows_are_gathered_is_the_one_that_counts(
    make_service: Callable[..., Service], postgres_url: str, tmp_path: Path
) -> None:
    hinder = make_hinder(tmp_path / "plugin")
    service = make_service(TIMESTORE_DATABASE_URL=postgres_url, TIMESTORE_PG_SCHEMA="rule_gathered", **hinder.settings)
    service.start()
    with ThreadPoolExecutor() as pool, hinder.letting_go_at_last():
        made = service.client.post(
            "/admin/datasets", json={"slug": "gathered", "metadata": {"dedupe": {"columns": ["host"]}}}
        )
        assert made.status_code == 201, made.text
        names = {"timestamp": "timestamp", "host": "string", "dc": "string", "x": "double"}
        for dc, x in (("e", 1.0), ("f", 2.0)):
            body = {
                "schema": {"fields": [{"name": name, "type": type_} for name, type_ in names.items()]},
                "partition": {"key": {}, "timeRange": {"start": TIME, "end": TIME}},
                "rows": [{"timestamp": TIME, "host": "a", "dc": dc, "x": x}],
            }
            assert service.ingest("gathered", body).status_code == 201
        hinder.arm("compaction.file_stored")
        asked = {"datasetSlug": "gathered", "operations": ["compaction"]}
        running = pool.submit(service.client.post, "/admin/lifecycle/run", json=asked, timeout=120)
        hinder.wait_until_held()
        rule = {"metadata": {"dedupe": {"columns": ["host", "dc"]}}}
        assert service.client.patch("/admin/datasets/gathered", json=rule).status_code == 200
        hinder.let_go()
        assert running.result().status_code == 200, running.result().text

        found = service.query("gathered", {"timeRange": RANGE}).json()["rows"]
        assert [one["x"] for one in found] == [1.0, 2.0]
