"""What is too old or too much leaves, what is old moves, and either can be looked at before and taken back after."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.integration.maintenance import (
    Json,
    Stand,
    answers,
    ask,
    changed,
    events,
    hard_batch,
    head,
    ingest,
    make_stand,
    outcome,
    policy,
    run,
)
from tests.service import ALL_TIME, Service, batch, numbers_of


@pytest.fixture(scope="module")
def stand(make_service: Callable[..., Service], postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Stand:
    return make_stand(make_service, postgres_url, tmp_path_factory.mktemp("retention"))


def aged(hours: float, number: int, *, until_hours: float | None = None) -> Json:
    """A batch of one row of so many hours ago; its envelope may reach further."""
    row, end = (f"{_ago(one):%Y-%m-%dT%H:%M:%S.%fZ}" for one in (hours, until_hours or hours))
    made = batch([], rows=[{"timestamp": row, "n": number}])
    made["partition"]["timeRange"] = {"start": row, "end": end}
    return made


def _ago(hours: float) -> datetime:
    return datetime.now(UTC) - timedelta(hours=hours)


def test_partitions_past_their_age_leave_and_their_events_say_why(stand: Stand) -> None:
    parts = {}
    for number, hours in enumerate((100, 72, 47, 1)):
        (parts[number],) = ingest(stand.service, "aged", aged(hours, number))["manifest"]["partitions"]
    ask(stand.service, "PUT", "/admin/datasets/aged/retention", {"mode": "time", "rules": {"maxAgeHours": 48}})
    before = head(stand.service, "aged")
    would = outcome(stand.service, "aged", "retention", dryRun=True)

    assert (would["dryRun"], would["count"], would["rows"]) == (True, 2, 2)
    assert would["partitionsToRemove"] == [
        {
            "id": parts[number]["id"],
            "partitionKey": {"window": "w"},
            "rowCount": 1,
            "fileSizeBytes": parts[number]["fileSizeBytes"],
            "reason": "maxAgeHours",
        }
        for number in (0, 1)
    ]
    assert head(stand.service, "aged") == before
    report = run(stand.service, "aged", "retention")

    (done,) = report["operations"]
    assert (done["status"], done["partitions"], done["rows"]) == ("completed", 2, 2)
    assert done["bytes"] == sum(parts[number]["fileSizeBytes"] for number in (0, 1))
    assert numbers_of(stand.service, "aged") == [2, 3]
    after = head(stand.service, "aged")
    assert (after["version"], after["totalRows"], after["partitionCount"]) == (5, 2, 2)
    assert after["totalBytes"] == before["totalBytes"] - done["bytes"]
    assert after["statistics"]["startTime"] == parts[2]["startTime"]
    payloads = events(stand.service, "aged", "retention.partition.deleted")
    assert len(payloads) == 2
    assert all(one["payload"] in payloads for one in report["auditLogEntries"])
    for number, payload in zip((0, 1), sorted(payloads, key=lambda one: one["startTime"]), strict=True):
        assert payload | {"judgedAt": None} == {
            "datasetId": before["datasetId"],
            "datasetSlug": "aged",
            "version": 5,
            "partitionId": parts[number]["id"],
            "reason": "maxAgeHours",
            "limit": 48,
            "judgedAt": None,
            "rowCount": 1,
            "fileSizeBytes": parts[number]["fileSizeBytes"],
            "startTime": parts[number]["startTime"],
            "endTime": parts[number]["endTime"],
            "storageTargetId": parts[number]["storageTargetId"],
        }
    assert outcome(stand.service, "aged", "retention")["status"] == "skipped"


def test_a_partition_is_as_old_as_its_last_row_or_its_envelope(stand: Stand) -> None:
    ingest(stand.service, "lasting", aged(100, 1, until_hours=47))
    late = aged(100, 2)
    late["rows"].append(aged(47, 3)["rows"][0])
    ingest(stand.service, "lasting", late)
    ingest(stand.service, "lasting", aged(100, 4))
    policy(stand.service, "lasting", mode="time", rules={"maxAgeHours": 48})
    run(stand.service, "lasting", "retention")

    assert numbers_of(stand.service, "lasting") == [1, 2, 3]


def test_beyond_the_size_the_oldest_leave_first(stand: Stand) -> None:
    sizes = {}
    for number, hours in enumerate((5, 80, 3, 90, 1)):
        (made,) = ingest(stand.service, "sized", aged(hours, number))["manifest"]["partitions"]
        sizes[number] = made["fileSizeBytes"]
    total = sum(sizes.values())
    policy(stand.service, "sized", mode="size", rules={"maxTotalBytes": total, "maxAgeHours": 1})
    assert outcome(stand.service, "sized", "retention")["status"] == "skipped"
    limit = total - sizes[3] - 1
    policy(stand.service, "sized", mode="size", rules={"maxTotalBytes": limit, "maxAgeHours": 1})
    done = outcome(stand.service, "sized", "retention")

    assert done["partitions"] == 2
    assert numbers_of(stand.service, "sized") == [0, 2, 4]
    payloads = events(stand.service, "sized", "retention.partition.deleted")
    assert {(one["reason"], one["limit"]) for one in payloads} == {("maxTotalBytes", limit)}
    assert head(stand.service, "sized")["totalBytes"] <= limit


def test_a_hybrid_policy_asks_for_both(stand: Stand) -> None:
    sizes = []
    for number, hours in enumerate((100, 90, 5, 3, 1)):
        (made,) = ingest(stand.service, "hybrid", aged(hours, number))["manifest"]["partitions"]
        sizes.append(made["fileSizeBytes"])
    policy(stand.service, "hybrid", mode="hybrid", rules={"maxAgeHours": 48, "maxTotalBytes": sum(sizes[3:])})
    would = outcome(stand.service, "hybrid", "retention", dryRun=True)

    assert [one["reason"] for one in would["partitionsToRemove"]] == ["maxAgeHours", "maxAgeHours", "maxTotalBytes"]
    assert outcome(stand.service, "hybrid", "retention")["partitions"] == 3
    assert numbers_of(stand.service, "hybrid") == [3, 4]


def test_the_default_policy_is_the_one_of_the_settings(stand: Stand) -> None:
    ingest(stand.service, "default", aged(721, 1))
    ingest(stand.service, "default", aged(719, 2))
    effective = ask(stand.service, "GET", "/admin/datasets/default/retention")["effectivePolicy"]

    assert effective["rules"]["maxAgeHours"] == 720
    run(stand.service, "default", "retention")
    assert numbers_of(stand.service, "default") == [2]


def test_a_policy_without_rules_keeps_everything(stand: Stand) -> None:
    ingest(stand.service, "kept", batch([1]))
    policy(stand.service, "kept", mode="time", rules={})

    assert outcome(stand.service, "kept", "retention")["status"] == "skipped"
    assert numbers_of(stand.service, "kept") == [1]


def test_everything_may_leave_and_batches_go_on(stand: Stand) -> None:
    made = ingest(stand.service, "emptied", batch([1, 2]), "key")["manifest"]
    policy(stand.service, "emptied", mode="time", rules={"maxAgeHours": 1}, deleteGraceMinutes=5)
    run(stand.service, "emptied", "retention")

    after = head(stand.service, "emptied")
    assert (after["partitionCount"], after["totalRows"], after["totalBytes"], after["partitions"]) == (0, 0, 0, [])
    answer = stand.service.query("emptied", {"timeRange": ALL_TIME}).json()
    assert answer == {"rows": [], "columns": ["timestamp", "n"], "mode": "raw"}
    report = run(stand.service, "emptied", "compaction", "parquetExport", "verification")
    assert [one["status"] for one in report["operations"]] == ["skipped", "skipped", "completed"]
    # Its key still counts: repeating it brings nothing back.
    again = stand.service.ingest("emptied", batch([1, 2]), "key")
    assert (again.status_code, again.json()["manifest"]["id"]) == (201, made["id"])
    assert numbers_of(stand.service, "emptied") == []
    ingest(stand.service, "emptied", batch([3]))
    assert numbers_of(stand.service, "emptied") == [3]


def test_the_version_before_can_be_restored(stand: Stand) -> None:
    for number in range(12):
        ingest(stand.service, "taken-back", hard_batch(number))
    before, version = answers(stand.service, "taken-back"), head(stand.service, "taken-back")["version"]
    # The grace is five minutes by default.
    ask(stand.service, "PUT", "/admin/datasets/taken-back/retention", {"mode": "time", "rules": {"maxAgeHours": 1}})
    run(stand.service, "taken-back", "retention", "collection")
    assert stand.service.query("taken-back", {"timeRange": ALL_TIME}).json()["rows"] == []
    path = "/admin/datasets/taken-back/restore"
    preview = ask(stand.service, "POST", path, {"version": version, "dryRun": True})

    assert (preview["dryRun"], preview["added"], preview["removed"]) == (
        True,
        {"partitions": 12, "rows": 240},
        {"partitions": 0, "rows": 0},
    )
    assert "manifest" not in preview
    restored = ask(stand.service, "POST", path, {"version": version})
    assert {**restored, "dryRun": True} == {**preview, "manifest": restored["manifest"]}
    assert changed(before, answers(stand.service, "taken-back")) == []
    manifest = head(stand.service, "taken-back")
    assert (manifest["version"], manifest["totalRows"]) == (version + 2, 240)
    assert {**restored["manifest"], "partitions": None} == {**manifest, "partitions": None}
    (payload,) = events(stand.service, "taken-back", "admin.version.restored")
    assert (payload["restoredVersion"], payload["added"], payload["removed"]) == (version, 12, 0)
    again = ask(stand.service, "POST", path, {"version": version}, status=409)
    assert again["code"] == "nothing_to_restore"


@pytest.mark.parametrize(
    ("stored", "said"),
    [({"mode": "never"}, "is not understood"), ({"mode": "time", "rules": {"maxAgeHours": "2"}}, "is no amount")],
)
def test_a_policy_that_another_service_stored_wrongly_removes_nothing(
    stand: Stand, stored: Json, said: str, postgres_url: str
) -> None:
    slug = f"foreign-{stored['mode']}"
    made = ingest(stand.service, slug, batch([1]))["dataset"]
    with psycopg.connect(postgres_url, options=f"-c search_path={stand.settings['TIMESTORE_PG_SCHEMA']}") as catalog:
        catalog.execute("INSERT INTO dataset_retention_policies VALUES (%s, %s)", [made["id"], Jsonb(stored)])
    done = outcome(stand.service, slug, "retention")

    assert done["status"] == "failed"
    assert said in done["message"]
    assert numbers_of(stand.service, slug) == [1]


@pytest.fixture(scope="module")
def cold(stand: Stand, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A second target's id and its directory."""
    root = tmp_path_factory.mktemp("cold") / "made on demand"
    body = {"name": "cold", "kind": "local", "config": {"root": str(root)}}
    made: str = ask(stand.service, "POST", "/admin/storage-targets", body, status=201)["storageTarget"]["id"]
    return made, root


def test_what_is_old_moves_to_the_cold_target_and_answers_as_before(stand: Stand, cold: tuple[str, Path]) -> None:
    target_id, root = cold
    for number in range(8):
        ingest(stand.service, "tiered", hard_batch(number), f"key-{number}")
    (fresh,) = ingest(stand.service, "tiered", aged(0, 1))["manifest"]["partitions"]
    policy(stand.service, "tiered", coldStorageAfterHours=1, metadata={"coldStorageTargetId": target_id})
    before, old = answers(stand.service, "tiered"), head(stand.service, "tiered")
    would = outcome(stand.service, "tiered", "tiering", dryRun=True)

    assert (would["dryRun"], would["count"], would["rows"]) == (True, 8, 160)
    assert {one["id"] for one in would["partitionsToMove"]} == {one["id"] for one in old["partitions"]} - {fresh["id"]}
    assert stand.files(root) == set()
    done = outcome(stand.service, "tiered", "tiering")

    moved = head(stand.service, "tiered")
    assert (done["status"], done["partitions"]) == ("completed", 8)
    assert changed(before, answers(stand.service, "tiered")) == []
    assert [one["storageTargetId"] for one in moved["partitions"]].count(target_id) == 8
    assert {one["id"] for one in moved["partitions"] if one["storageTargetId"] != target_id} == {fresh["id"]}
    assert (moved["totalRows"], moved["totalBytes"]) == (old["totalRows"], old["totalBytes"])
    assert sorted(str(one["checksum"]) for one in moved["partitions"]) == sorted(
        str(one["checksum"]) for one in old["partitions"]
    )
    assert len(stand.files(root)) == 8
    payloads = events(stand.service, "tiered", "tiering.partition.moved")
    assert {one["toStorageTargetId"] for one in payloads} == {target_id}
    assert {one["partitionId"] for one in payloads} == {one["id"] for one in old["partitions"]} - {fresh["id"]}
    again = outcome(stand.service, "tiered", "tiering")
    assert (again["status"], again["message"]) == ("skipped", "no partition has to move to cold")

    outcome(stand.service, "tiered", "collection")
    here = {one["filePath"] for one in moved["partitions"] if one["storageTargetId"] != target_id}
    assert {path for path in stand.files() if path.startswith("tiered/")} == here
    assert len(stand.files(root)) == 8
    assert changed(before, answers(stand.service, "tiered")) == []
    assert outcome(stand.service, "tiered", "verification")["findings"] == []
    for number in range(8):
        replayed = stand.service.ingest("tiered", hard_batch(number), f"key-{number}")
        assert (replayed.status_code, replayed.headers["idempotent-replayed"]) == (201, "true")
    run(stand.service, "tiered", "compaction")
    assert changed(before, answers(stand.service, "tiered")) == []
    compacted = head(stand.service, "tiered")["partitions"]
    assert len(compacted) == 5
    assert [one["storageTargetId"] for one in compacted].count(target_id) == 4


def test_a_dataset_s_metadata_may_name_the_cold_target(stand: Stand, cold: tuple[str, Path]) -> None:
    ingest(stand.service, "by-metadata", batch([1]))
    policy(stand.service, "by-metadata", coldStorageAfterHours=1)
    without = outcome(stand.service, "by-metadata", "tiering")
    ask(stand.service, "PATCH", "/admin/datasets/by-metadata", {"metadata": {"coldStorageTargetId": cold[0]}})

    assert without["status"] == "skipped"
    assert "coldStorageTargetId" in without["message"]
    assert outcome(stand.service, "by-metadata", "tiering")["status"] == "completed"
    assert [one["storageTargetId"] for one in head(stand.service, "by-metadata")["partitions"]] == [cold[0]]


def test_a_damaged_file_does_not_move_and_the_others_do(stand: Stand, cold: tuple[str, Path]) -> None:
    made = [ingest(stand.service, "damaged", batch([number]))["manifest"]["partitions"][0] for number in range(3)]
    path = stand.root / made[1]["filePath"]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    policy(stand.service, "damaged", coldStorageAfterHours=1, metadata={"coldStorageTargetId": cold[0]})
    done = outcome(stand.service, "damaged", "tiering")

    assert (done["status"], done["partitions"]) == ("failed", 2)
    assert f"partition {made[1]['id']} cannot be moved: its file is not what was written" in done["message"]
    there = {one["id"]: one["storageTargetId"] for one in head(stand.service, "damaged")["partitions"]}
    assert there.pop(made[1]["id"]) != cold[0]
    assert set(there.values()) == {cold[0]}
