"""Compaction changes files and nothing else: every answer stays the same, to the byte."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.integration.maintenance import (
    KEYS,
    Json,
    answers,
    ask,
    changed,
    events,
    hard_batch,
    head,
    ingest,
    outcome,
    policy,
    run,
)
from tests.service import ALL_TIME, Service, batch, numbers_of


def rows_of(service: Service, slug: str, **query: Any) -> list[Json]:
    answer = service.query(slug, {"timeRange": ALL_TIME, **query})
    assert answer.status_code == 200, answer.text
    rows: list[Json] = answer.json()["rows"]
    return rows


def test_every_answer_is_the_same_to_the_byte(service: Service) -> None:
    for number in range(60):
        ingest(service, "same", hard_batch(number))
    before, totals = answers(service, "same"), head(service, "same")
    done = outcome(service, "same", "compaction")

    assert done["status"] == "completed"
    assert done["partitions"] >= 60
    assert changed(before, answers(service, "same")) == []
    compacted = head(service, "same")
    assert compacted["totalRows"] == totals["totalRows"] == 60 * 20
    assert compacted["partitionCount"] == len(compacted["partitions"]) == len(KEYS)
    assert compacted["totalBytes"] == sum(one["fileSizeBytes"] for one in compacted["partitions"])
    assert compacted["schemaVersionId"] == totals["schemaVersionId"]
    assert compacted["statistics"]["startTime"] == totals["statistics"]["startTime"]
    assert compacted["statistics"]["endTime"] == totals["statistics"]["endTime"]


def test_partitions_of_different_keys_are_never_mixed(service: Service) -> None:
    for number in range(24):
        ingest(service, "unmixed", hard_batch(number))
    before = Counter(str(sorted(one["partitionKey"].items())) for one in head(service, "unmixed")["partitions"])
    run(service, "unmixed", "compaction")

    after = head(service, "unmixed")["partitions"]
    assert sorted(str(sorted(one["partitionKey"].items())) for one in after) == sorted(before)
    for key in KEYS:
        accepted = {name: [value] for name, value in key.items()}
        found = rows_of(service, "unmixed", filters={"partitionKey": accepted}, columns=["timestamp", "site"])
        assert {row["site"] for row in found} == {key["site"]}
        sent = [row for number in range(24) if KEYS[number % 4] == key for row in hard_batch(number)["rows"]]
        assert len(found) == sum(row["timestamp"] is not None for row in sent)


def test_tables_and_targets_are_never_mixed(service: Service, tmp_path_factory: pytest.TempPathFactory) -> None:
    second = {"name": "unmixed", "kind": "local", "config": {"root": str(tmp_path_factory.mktemp("second"))}}
    target = ask(service, "POST", "/admin/storage-targets", second, status=201)["storageTarget"]["id"]
    for number in range(12):
        changes: Json = {"tableName": f"table_{number % 2}"}
        if number % 3 == 1:
            changes["storageTargetId"] = target
        ingest(service, "apart", batch([number], **changes))
    run(service, "apart", "compaction")

    after = head(service, "apart")["partitions"]
    assert sorted(
        (one["metadata"]["tableName"], one["storageTargetId"] == target, one["rowCount"]) for one in after
    ) == [
        ("table_0", False, 4),
        ("table_0", True, 2),
        ("table_1", False, 4),
        ("table_1", True, 2),
    ]
    assert numbers_of(service, "apart") == list(range(12))


def test_what_comes_late_and_overlaps_is_gathered_too(service: Service) -> None:
    for number in range(20):
        ingest(service, "late", hard_batch(number))
    run(service, "late", "compaction")
    for number in (3, 17, 40, 5, 3, 60, 7):
        ingest(service, "late", hard_batch(number))
    before = answers(service, "late")
    for _ in range(3):
        run(service, "late", "compaction")
        assert changed(before, answers(service, "late")) == []


def test_there_is_an_end_to_it(service: Service) -> None:
    for number in range(40):
        ingest(service, "ended", batch([number]))
        if number % 8 == 0:
            run(service, "ended", "compaction")
    run(service, "ended", "compaction")
    version = head(service, "ended")["version"]

    again = outcome(service, "ended", "compaction")

    assert again == {
        "operation": "compaction",
        "status": "skipped",
        "message": "no small partition groups found for compaction",
    }
    assert head(service, "ended")["version"] == version
    assert numbers_of(service, "ended") == list(range(40))


def test_a_dry_run_says_what_would_be_gathered_and_changes_nothing(service: Service) -> None:
    made = [ingest(service, "dry", batch([number]))["manifest"]["partitions"][0]["id"] for number in range(5)]
    before = head(service, "dry")
    would = outcome(service, "dry", "compaction", dryRun=True)

    assert (would["status"], would["dryRun"], would["count"], would["partitions"], would["rows"]) == (
        "completed",
        True,
        1,
        5,
        5,
    )
    assert [one["id"] for one in would["groups"][0]] == made
    assert head(service, "dry") == before
    assert events(service, "dry", "compaction.group.compacted") == []


def test_each_group_has_its_line_in_the_audit_log(service: Service) -> None:
    made = [ingest(service, "audited", batch([number]))["manifest"]["partitions"][0]["id"] for number in range(5)]
    report = run(service, "audited", "compaction")

    (replacement,) = head(service, "audited")["partitions"]
    (entry,) = report["auditLogEntries"]
    assert entry["eventType"] == "compaction.group.compacted"
    assert entry["manifestId"] == head(service, "audited")["id"]
    assert entry["payload"]["sourcePartitionIds"] == made
    assert entry["payload"]["replacementPartitionId"] == replacement["id"]
    assert events(service, "audited", "compaction.group.compacted") == [entry["payload"]]
    assert replacement["metadata"]["lifecycle"]["compaction"]["sourcePartitionIds"] == made


def test_keys_of_gathered_batches_still_replay_and_conflict(service: Service) -> None:
    first = {number: ingest(service, "keyed", batch([number]), f"key-{number}") for number in range(6)}
    run(service, "keyed", "compaction")

    for number, answer in first.items():
        again = service.ingest("keyed", batch([number]), f"key-{number}")
        assert (again.status_code, again.headers["idempotent-replayed"]) == (201, "true")
        assert again.json()["manifest"] == answer["manifest"]
        other = service.ingest("keyed", batch([number + 100]), f"key-{number}")
        assert (other.status_code, other.json()["code"]) == (409, "idempotency_key_reused")
    assert numbers_of(service, "keyed") == list(range(6))

    policy(service, "keyed")
    assert outcome(service, "keyed", "collection")["status"] == "completed"
    for number, answer in first.items():
        again = service.ingest("keyed", batch([number]), f"key-{number}")
        assert (again.status_code, again.headers["idempotent-replayed"]) == (201, "true")
        assert again.json()["manifest"]["id"] == answer["manifest"]["id"]
        assert service.ingest("keyed", batch([number + 100]), f"key-{number}").status_code == 409
    assert numbers_of(service, "keyed") == list(range(6))


def test_schemas_that_grew_and_widened_are_gathered_in_one_file(service: Service) -> None:
    def fields(**types: str) -> Json:
        return {
            "fields": [{"name": name, "type": type_} for name, type_ in {"timestamp": "timestamp", **types}.items()]
        }

    sent: list[tuple[Json, Json]] = [
        (fields(n="integer"), {"n": 1}),
        (fields(n="integer", s="string"), {"n": 2**53, "s": ""}),
        (fields(n="double", b="boolean"), {"n": 0.5, "b": True}),
        (fields(s="string"), {"s": "only"}),
        (fields(n="double", t="timestamp"), {"n": -0.0, "t": "2024-05-05T05:05:05.050505Z"}),
        (fields(empty="integer"), {"empty": None}),
        (fields(n="integer"), {"n": None}),
    ]
    for number, (schema, row) in enumerate(sent):
        made = batch([number], schema=schema)
        made["rows"] = [{"timestamp": made["rows"][0]["timestamp"], **row}]
        ingest(service, "grown", made)
    asked = [{"fn": fn, "column": "n", "alias": fn} for fn in ("sum", "avg", "min", "max", "median", "count")]
    queries: list[Json] = [
        {},
        {"downsample": {"intervalUnit": "day", "aggregations": asked}},
        {"columns": ["timestamp", "empty", "n"]},
        {"limit": 3},
    ]
    before = [service.query("grown", {"timeRange": ALL_TIME, **one}).content for one in queries]
    run(service, "grown", "compaction")

    assert head(service, "grown")["partitionCount"] == 1
    assert [service.query("grown", {"timeRange": ALL_TIME, **one}).content for one in queries] == before
    assert [row["n"] for row in rows_of(service, "grown")] == [1, 2**53, 0.5, None, 0, None, None]
    assert [row["s"] for row in rows_of(service, "grown")] == [None, "", None, "only", None, None, None]
    page = ask(service, "GET", "/admin/datasets/grown/partitions")
    assert [(one["name"], one["type"]) for one in page["partitions"][0]["columns"]] == [
        ("timestamp", "timestamp"),
        ("n", "double"),
        ("s", "string"),
        ("b", "boolean"),
        ("t", "timestamp"),
        ("empty", "integer"),
    ]


def test_integers_of_a_group_stay_integers_until_a_double_comes(service: Service) -> None:
    exact = [2**53 + 1, 2**63 - 1, -(2**63), 2**60 + 7]
    for number, value in enumerate(exact):
        made = batch([number])
        made["rows"][0]["n"] = value
        ingest(service, "exact", made)
    run(service, "exact", "compaction")

    assert [row["n"] for row in rows_of(service, "exact")] == exact
    wider = batch([9], schema={"fields": [{"name": "timestamp", "type": "timestamp"}, {"name": "n", "type": "double"}]})
    assert service.ingest("exact", wider).status_code == 409


def test_rows_without_a_time_and_batches_without_rows_survive(service: Service) -> None:
    for number in range(6):
        made = batch([number])
        made["rows"] = [] if number == 2 else [{"timestamp": None, "n": number}, *made["rows"]]
        ingest(service, "timeless", made)
    run(service, "timeless", "compaction")

    manifest = head(service, "timeless")
    assert (manifest["partitionCount"], manifest["totalRows"]) == (1, 10)
    assert numbers_of(service, "timeless") == [0, 1, 3, 4, 5]
    page = ask(service, "GET", "/admin/datasets/timeless/partitions")
    assert {one["name"]: one["nulls"] for one in page["partitions"][0]["columns"]} == {"timestamp": 5, "n": 0}


def test_a_group_that_cannot_be_read_is_named_and_the_others_go_on(
    make_service: Callable[..., Service], tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("broken")
    service = make_service(TIMESTORE_STORAGE_ROOT=str(root)).start()
    paths = defaultdict[str, list[str]](list)
    for number in range(12):
        made = batch([number])
        made["partition"]["key"] = {"site": f"site-{number % 3}"}
        (partition,) = ingest(service, "broken", made)["manifest"]["partitions"]
        paths[f"site-{number % 3}"].append(partition["filePath"])
    broken = root / paths["site-1"][2]
    content = broken.read_bytes()
    broken.write_bytes(content[: len(content) // 2])

    report = ask(service, "POST", "/admin/lifecycle/run", {"datasetSlug": "broken", "operations": ["compaction"]})
    (done,) = report["report"]["operations"]

    assert (report["status"], done["status"], done["count"]) == ("failed", "failed", 2)
    assert broken.name.removesuffix(".duckdb") in done["message"]
    assert head(service, "broken")["partitionCount"] == 2 + 4
    broken.write_bytes(content)
    assert outcome(service, "broken", "compaction")["status"] == "completed"
    assert head(service, "broken")["partitionCount"] == 3
    assert numbers_of(service, "broken") == list(range(12))


def test_an_unknown_format_for_compacted_files_is_named(service: Service) -> None:
    for number in range(3):
        ingest(service, "unformatted", batch([number]))
    ask(service, "PATCH", "/admin/datasets/unformatted", {"metadata": {"compactedFormat": "csv"}})

    done = outcome(service, "unformatted", "compaction")

    assert done["status"] == "failed"
    assert "'csv'" in done["message"]
    assert numbers_of(service, "unformatted") == [0, 1, 2]


def test_batches_and_queries_go_on_while_files_are_gathered_and_deleted(service: Service) -> None:
    ingest(service, "busy", batch([0]))
    policy(service, "busy")

    def write(number: int) -> int:
        return service.ingest("busy", batch([number]), f"key-{number}").status_code

    def look(_: int) -> tuple[int, bool]:
        answer = service.query("busy", {"timeRange": ALL_TIME})
        found = [row["n"] for row in answer.json().get("rows", [])]
        return answer.status_code, len(found) == len(set(found)) and 0 in found

    def maintain(_: int) -> set[str]:
        return {one["status"] for one in run(service, "busy", "compaction", "collection")["operations"]}

    with ThreadPoolExecutor(6) as pool:
        written = [pool.submit(write, number) for number in range(1, 81)]
        maintained = [pool.submit(maintain, number) for number in range(12)]
        looked = [pool.submit(look, number) for number in range(60)]
        statuses = {one.result() for one in written}
        seen = {one.result() for one in looked}
        kinds = set[str]().union(*(one.result() for one in maintained))

    assert statuses == {201}
    assert seen == {(200, True)}
    assert kinds <= {"completed", "skipped"}
    assert numbers_of(service, "busy") == list(range(81))
