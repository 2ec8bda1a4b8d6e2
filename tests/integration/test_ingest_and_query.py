"""The main job over HTTP: what was ingested is there, once, in every form of question."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.service import ALL_TIME, Service, batch, numbers_of


def test_what_was_ingested_is_visible_to_the_next_query(service: Service) -> None:
    created = service.ingest("visible", batch([1, 2, 3]))

    assert created.status_code == 201
    assert numbers_of(service, "visible") == [1, 2, 3]


def test_a_snapshot_holds_every_batch(service: Service) -> None:
    for start in range(0, 80, 10):
        assert service.ingest("many", batch(list(range(start, start + 10)))).status_code == 201

    assert numbers_of(service, "many") == list(range(80))


def test_32_writers_at_once_all_succeed_and_take_every_version_once(service: Service) -> None:
    def write(number: int) -> httpx.Response:
        return service.ingest("writers", batch([number * 2, number * 2 + 1]))

    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(write, range(32)))

    assert [answer.status_code for answer in answers] == [201] * 32
    assert sorted(answer.json()["manifest"]["version"] for answer in answers) == list(range(1, 33))
    assert numbers_of(service, "writers") == list(range(64))


def test_one_key_sent_16_times_at_once_publishes_once(make_service: Callable[..., Service]) -> None:
    service = make_service().start()
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: service.ingest("once", batch([1, 2]), "key"), range(16)))

    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.text for answer in answers}) == 1
    assert sum(answer.headers.get("idempotent-replayed") == "true" for answer in answers) == 15
    root = Path(answers[0].json()["storageTarget"]["config"]["root"])
    assert len(list(root.rglob("*.duckdb"))) == 1
    assert numbers_of(service, "once") == [1, 2]


def test_a_key_with_other_rows_is_a_conflict_that_names_the_manifest(service: Service) -> None:
    first = service.ingest("conflict", batch([1]), "key").json()
    second = service.ingest("conflict", batch([2]), "key")

    assert second.status_code == 409
    assert second.json()["code"] == "idempotency_key_reused"
    assert second.json()["details"]["manifestId"] == first["manifest"]["id"]
    assert numbers_of(service, "conflict") == [1]


def test_a_repeat_in_other_json_is_still_a_repeat(service: Service) -> None:
    service.ingest("spelled", batch([1, 2]), "key")
    body = batch([1, 2])
    body["rows"] = [
        {"n": f"{row['n']}", "timestamp": row["timestamp"].replace("Z", ".000+00:00")} for row in body["rows"]
    ]

    again = service.ingest("spelled", body, "key")

    assert again.status_code == 201
    assert again.headers["idempotent-replayed"] == "true"


def test_an_answer_names_its_version_and_a_known_one_is_not_sent_again(service: Service) -> None:
    service.ingest("tagged", batch([1]))
    question = {"timeRange": ALL_TIME}
    first = service.query("tagged", question)
    unchanged = service.client.post(
        "/datasets/tagged/query", json=question, headers={"if-none-match": first.headers["etag"]}
    )
    service.ingest("tagged", batch([2]))
    changed = service.client.post(
        "/datasets/tagged/query", json=question, headers={"if-none-match": first.headers["etag"]}
    )

    assert first.headers["x-timestore-version"] == "1"
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    assert changed.status_code == 200
    assert changed.headers["x-timestore-version"] == "2"


def test_schemas_that_grow_and_widen_are_united_by_name(service: Service) -> None:
    service.ingest("grows", batch([1, 2]))
    wider = batch(
        [],
        schema={
            "fields": [
                {"name": "timestamp", "type": "timestamp"},
                {"name": "n", "type": "double"},
                {"name": "label", "type": "string"},
            ]
        },
    )
    wider["rows"] = [{"timestamp": "2024-01-01T00:00:03Z", "n": 3.5, "label": "new"}]

    assert service.ingest("grows", wider).status_code == 201
    assert service.query("grows", {"timeRange": ALL_TIME}).json() == {
        "rows": [
            {"timestamp": "2024-01-01T00:00:01.000Z", "n": 1.0, "label": None},
            {"timestamp": "2024-01-01T00:00:02.000Z", "n": 2.0, "label": None},
            {"timestamp": "2024-01-01T00:00:03.000Z", "n": 3.5, "label": "new"},
        ],
        "columns": ["timestamp", "n", "label"],
        "mode": "raw",
    }


def test_a_column_that_changes_its_type_is_a_conflict_saying_what_was_and_is(service: Service) -> None:
    service.ingest("retyped", batch([1]))
    body = batch([], schema={"fields": [{"name": "timestamp", "type": "timestamp"}, {"name": "n", "type": "string"}]})

    answer = service.ingest("retyped", body)

    assert answer.status_code == 409
    assert answer.json()["details"] == [{"path": "schema.fields", "column": "n", "was": "integer", "is": "string"}]


def test_integers_beyond_2_to_the_53_keep_their_digits_and_forbid_widening(service: Service) -> None:
    body = batch([1])
    body["rows"][0]["n"] = 2**60 + 1
    service.ingest("exact", body)
    double = batch([], schema={"fields": [{"name": "timestamp", "type": "timestamp"}, {"name": "n", "type": "double"}]})

    assert str(2**60 + 1) in service.query("exact", {"timeRange": ALL_TIME}).text
    assert service.ingest("exact", double).status_code == 409


def test_integers_that_a_double_cannot_keep_do_not_come_into_a_column_of_doubles(service: Service) -> None:
    double = batch(
        [1], schema={"fields": [{"name": "timestamp", "type": "timestamp"}, {"name": "n", "type": "double"}]}
    )
    assert service.ingest("doubles", double).status_code == 201
    for value, status in ((2**53, 201), (2**53 + 1, 409), (-(2**62), 409)):
        body = batch([1])
        body["rows"][0]["n"] = value
        assert service.ingest("doubles", body).status_code == status


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd", "gzip, zstd"])
def test_a_compressed_body_is_read(service: Service, encoding: str) -> None:
    import gzip
    import json
    import zlib

    from timestore_http.body import zstd

    coders = {"gzip": gzip.compress, "deflate": zlib.compress, "zstd": zstd.compress}
    body = json.dumps(batch([7])).encode()
    for coding in encoding.split(", "):
        body = coders[coding](body)
    slug = f"packed-{encoding.replace(', ', '-')}"

    answer = service.client.post(
        f"/datasets/{slug}/ingest",
        content=body,
        headers={"content-encoding": encoding, "content-type": "application/json"},
    )

    assert answer.status_code == 201
    assert numbers_of(service, slug) == [7]
