"""The administrative API: what operators read and change, each change with its audit row."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest

from tests.service import ALL_TIME, Service, batch, numbers_of, wait_until


def get(service: Service, path: str, **params: Any) -> dict[str, Any]:
    answer = service.client.get(path, params=params)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def events(service: Service, key: str) -> list[str]:
    return [one["eventType"] for one in get(service, f"/admin/datasets/{key}/audit")["events"]]


def pages(service: Service, **params: Any) -> list[str]:
    """Every slug that paging through the datasets shows, in order, repeats included."""
    slugs, cursor = [], None
    while True:
        page = get(service, "/admin/datasets", **params, **({"cursor": cursor} if cursor else {}))
        slugs += [one["slug"] for one in page["datasets"]]
        cursor = page["nextCursor"]
        if cursor is None:
            return slugs


def test_a_dataset_is_made_once_and_repeating_it_is_no_error(service: Service) -> None:
    body = {"slug": "made", "name": "Made", "description": "by hand", "metadata": {"team": "a"}}
    first = service.client.post("/admin/datasets", json=body, headers={"x-iam-user": "alice"})
    again = service.client.post("/admin/datasets", json={"slug": "made", "name": "Other"})

    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()
    assert first.json()["dataset"]["metadata"] == {"team": "a"}
    assert events(service, "made") == ["admin.dataset.created"]
    assert service.query("made", {"timeRange": ALL_TIME}).json()["rows"] == []
    assert service.ingest("made", batch([1])).status_code == 201
    assert numbers_of(service, "made") == [1]


def test_a_patch_changes_what_it_names_and_merges_metadata(service: Service) -> None:
    service.client.post("/admin/datasets", json={"slug": "patched", "metadata": {"a": 1, "b": 2}})
    body = {"name": "New", "metadata": {"b": None, "iam": {"readScopes": ["r"]}}}
    answer = service.client.patch("/admin/datasets/patched", json=body)

    assert answer.status_code == 200
    assert answer.json()["dataset"]["name"] == "New"
    assert answer.json()["dataset"]["metadata"] == {"a": 1, "iam": {"readScopes": ["r"]}}
    assert events(service, "patched") == ["admin.dataset.updated", "admin.dataset.created"]


def test_of_two_admins_patching_at_once_one_wins_and_one_is_told(service: Service) -> None:
    made = service.client.post("/admin/datasets", json={"slug": "contested"}).json()["dataset"]

    def patch(name: str) -> httpx.Response:
        headers = {"if-match": f'"{made["updatedAt"]}"'}
        return service.client.patch("/admin/datasets/contested", json={"name": name}, headers=headers)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(patch, [f"name {number}" for number in range(8)]))

    assert sorted(answer.status_code for answer in answers) == [200] + [412] * 7
    winner = next(answer for answer in answers if answer.status_code == 200).json()["dataset"]
    assert get(service, "/admin/datasets/contested")["dataset"] == winner


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"status": "gone"}, "status"),
        ({"name": ""}, "name"),
        ({"writeFormat": "csv"}, "writeFormat"),
        ({"metadata": {"iam": {"readScopes": "all"}}}, "metadata.iam.readScopes"),
        ({"metadata": [1]}, "metadata"),
        ({"metadata": {"a": "\0"}}, "metadata"),
    ],
)
def test_a_wrong_patch_names_the_field_and_changes_nothing(service: Service, body: dict[str, Any], said: str) -> None:
    before = service.client.post("/admin/datasets", json={"slug": "guarded"}).json()
    answer = service.client.patch("/admin/datasets/guarded", json=body)

    assert answer.status_code == 400
    assert said in answer.json()["error"]
    assert get(service, "/admin/datasets/guarded") == before


def test_an_archived_dataset_answers_queries_and_takes_no_batches(service: Service) -> None:
    service.ingest("archived", batch([1]), "key")
    archived = service.client.post("/admin/datasets/archived/archive").json()["dataset"]
    refused = service.ingest("archived", batch([2]))

    assert archived["status"] == "inactive"
    assert refused.status_code == 409
    assert refused.json()["code"] == "dataset_inactive"
    assert service.ingest("archived", batch([1]), "key").headers["idempotent-replayed"] == "true"
    assert numbers_of(service, "archived") == [1]
    service.client.patch("/admin/datasets/archived", json={"status": "active"})
    assert service.ingest("archived", batch([2])).status_code == 201


def test_a_deleted_dataset_gives_its_slug_free_and_can_be_taken_back(service: Service) -> None:
    service.ingest("doomed", batch([1]), "key")
    old = get(service, "/admin/datasets/doomed")["dataset"]["id"]

    assert service.client.delete("/admin/datasets/doomed", params={"confirm": "doomed"}).status_code == 409
    service.client.post("/admin/datasets/doomed/archive")
    assert service.client.delete("/admin/datasets/doomed").status_code == 400
    assert service.client.delete("/admin/datasets/doomed", params={"confirm": "doomed"}).status_code == 200
    assert service.query("doomed", {"timeRange": ALL_TIME}).status_code == 404
    assert service.client.get(f"/admin/datasets/{old}").status_code == 404

    assert service.ingest("doomed", batch([2]), "key").status_code == 201
    assert numbers_of(service, "doomed") == [2]
    assert get(service, "/admin/datasets/doomed")["dataset"]["id"] != old
    assert service.client.post(f"/admin/datasets/{old}/restore").status_code == 409
    service.client.post("/admin/datasets/doomed/archive")
    service.client.delete("/admin/datasets/doomed", params={"confirm": "doomed"})
    assert service.client.post(f"/admin/datasets/{old}/restore").status_code == 200
    assert numbers_of(service, "doomed") == [1]


def test_paging_shows_every_dataset_once(make_service: Callable[..., Service]) -> None:
    service = make_service().start()
    for number in range(11):
        service.client.post("/admin/datasets", json={"slug": f"d{number}"})

    for limit in (1, 2, 3, 10, 11, 12):
        assert pages(service, limit=limit) == [f"d{number}" for number in reversed(range(11))]
    assert pages(service, search="D1", limit=1) == ["d10", "d1"]
    assert pages(service, status="inactive") == []


def test_paging_loses_no_dataset_while_they_change(make_service: Callable[..., Service]) -> None:
    service = make_service().start()
    slugs = [f"d{number}" for number in range(24)]
    for slug in slugs:
        service.client.post("/admin/datasets", json={"slug": slug})
    stop = threading.Event()

    def keep_changing() -> None:
        with httpx.Client(base_url=service.base, timeout=60) as client:
            number = 0
            while not stop.is_set():
                client.patch(f"/admin/datasets/d{number % 24}", json={"name": f"name {number}"})
                number += 1

    changers = [threading.Thread(target=keep_changing) for _ in range(4)]
    for changer in changers:
        changer.start()
    try:
        for _ in range(10):
            assert set(pages(service, limit=3)) == set(slugs)
    finally:
        stop.set()
        for changer in changers:
            changer.join()


def test_the_history_says_what_each_version_added(service: Service) -> None:
    for start in (0, 10, 20):
        service.ingest("historic", batch([start, start + 1]))
    history = get(service, "/admin/datasets/historic/manifests", limit=2)
    rest = get(service, "/admin/datasets/historic/manifests", limit=2, cursor=history["nextCursor"])

    assert [one["version"] for one in history["manifests"] + rest["manifests"]] == [3, 2, 1]
    assert history["manifests"][0]["added"] == {"partitions": 1, "rows": 2}
    assert history["manifests"][0]["removed"] == {"partitions": 0, "rows": 0}
    assert [one["totalRows"] for one in history["manifests"]] == [6, 4]
    assert rest["nextCursor"] is None
    second = get(service, "/admin/datasets/historic/manifest", version=2)["manifest"]
    assert (second["version"], len(second["partitions"])) == (2, 2)
    assert len(get(service, "/admin/datasets/historic/manifest")["manifest"]["partitions"]) == 3
    assert service.client.get("/admin/datasets/historic/manifest?version=9").status_code == 404


def test_partitions_are_paged_and_filtered_with_their_statistics(service: Service) -> None:
    for number in range(5):
        body = batch([number * 3600])
        body["partition"]["key"] = {"site": "north" if number % 2 else "south"}
        service.ingest("parted", body)
    path = "/admin/datasets/parted/partitions"
    first = get(service, path, limit=3)
    service.ingest("parted", batch([99_999]))
    rest = get(service, path, limit=3, cursor=first["nextCursor"])

    assert first["version"] == rest["version"] == 5
    assert len({one["id"] for one in first["partitions"] + rest["partitions"]}) == 5
    assert len(get(service, path, key="site=north")["partitions"]) == 2
    found = get(service, path, **{"from": "2024-01-01T01:30:00Z", "to": "2024-01-01T02:30:00Z"})["partitions"]
    assert [one["columns"][1] for one in found] == [
        {"name": "n", "type": "integer", "min": 7200, "max": 7200, "nulls": 0}
    ]


def test_the_schemas_show_how_the_columns_came(service: Service) -> None:
    service.ingest("columned", batch([1]))
    types = {"timestamp": "timestamp", "n": "double", "s": "string"}
    wider = [{"name": name, "type": type_} for name, type_ in types.items()]
    service.ingest("columned", batch([], schema={"fields": wider}))
    service.ingest("columned", batch([2]))

    found = get(service, "/admin/datasets/columned/schemas")["schemas"]

    assert [one["version"] for one in found] == [2, 1]
    assert found[0]["fields"] == wider
    assert [field["type"] for field in found[1]["fields"]] == ["timestamp", "integer"]


def test_a_storage_target_is_made_used_and_changed(service: Service, tmp_path: Path) -> None:
    body = {"name": f"second {uuid4()}", "kind": "local", "config": {"root": str(tmp_path / "second")}}
    made = service.client.post("/admin/storage-targets", json=body)
    target = made.json()["storageTarget"]

    assert made.status_code == 201
    assert service.client.post("/admin/storage-targets", json=body).status_code == 409
    assert service.ingest("elsewhere", batch([1], storageTargetId=target["id"])).status_code == 201
    assert len(list((tmp_path / "second").rglob("*.duckdb"))) == 1
    assert numbers_of(service, "elsewhere") == [1]
    changed = service.client.patch(f"/admin/storage-targets/{target['id']}", json={"description": "the second"})
    assert changed.json()["storageTarget"]["description"] == "the second"
    stale = service.client.patch(
        f"/admin/storage-targets/{target['id']}", json={}, headers={"if-match": f'"{target["updatedAt"]}"'}
    )
    assert stale.status_code == 412
    kinds = [one["eventType"] for one in get(service, "/admin/audit", limit=100)["events"]]
    assert {"admin.storage-target.created", "admin.storage-target.changed"} <= set(kinds)


@pytest.mark.parametrize(
    "body",
    [
        {"name": "x", "kind": "tape", "config": {}},
        {"name": "x", "kind": "local", "config": {}},
        {"name": "x", "kind": "local", "config": {"root": "relative"}},
        {"name": "", "kind": "local", "config": {"root": "/tmp"}},
        {"name": "x", "kind": "local", "config": {"root": "/tmp/\0"}},
    ],
)
def test_a_target_that_its_driver_cannot_use_is_refused(service: Service, body: dict[str, Any]) -> None:
    assert service.client.post("/admin/storage-targets", json=body).status_code == 400


@pytest.mark.parametrize("policy", [{"mode": "never"}, {"rules": {"maxAgeHours": -1}}, {"deleteGraceMinutes": "5"}, []])
def test_a_wrong_retention_policy_is_refused(service: Service, policy: Any) -> None:
    service.client.post("/admin/datasets", json={"slug": "kept"})

    assert service.client.put("/admin/datasets/kept/retention", json=policy).status_code == 400
    assert get(service, "/admin/datasets/kept/retention")["policy"] is None


def test_unknown_keys_of_a_policy_are_kept(service: Service) -> None:
    service.client.post("/admin/datasets", json={"slug": "policy"})
    policy = {"mode": "size", "rules": {"maxTotalBytes": 5, "later": True}, "mine": [1]}

    assert service.client.put("/admin/datasets/policy/retention", json=policy).json()["policy"] == policy
    assert get(service, "/admin/datasets/policy/retention")["effectivePolicy"] == policy


def test_a_change_and_its_audit_row_are_never_one_without_the_other(
    make_service: Callable[..., Service], postgres_url: str
) -> None:
    schema = f"audit_{uuid4().hex[:12]}"
    service = make_service(TIMESTORE_PG_SCHEMA=schema).start()
    service.client.post("/admin/datasets", json={"slug": "torn", "name": "before"})
    with psycopg.connect(postgres_url) as holder, psycopg.connect(postgres_url, autocommit=True) as watcher:
        # The audit row cannot be written while this is held: the change waits in the middle of its transaction.
        holder.execute(f"LOCK TABLE {schema}.lifecycle_audit_log IN ACCESS EXCLUSIVE MODE")
        patching = threading.Thread(target=_patch_and_lose, args=[service])
        patching.start()
        waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%lifecycle_audit_log%'"
        wait_until(lambda: watcher.execute(waiting).fetchone(), "the change to wait for its audit row")
        service.kill()
        patching.join()
        holder.rollback()
    service.start()

    assert get(service, "/admin/datasets/torn")["dataset"]["name"] == "before"
    assert events(service, "torn") == ["admin.dataset.created"]


def _patch_and_lose(service: Service) -> None:
    with pytest.raises(httpx.HTTPError):
        httpx.patch(f"{service.base}/admin/datasets/torn", json={"name": "after"}, timeout=60)
