"""Answers that the replaced service got wrong, and what clients get now. Snapshots and writers: integration/."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.service import ALL_TIME, Service, batch, numbers_of


def problems(answer: Any) -> dict[str, str]:
    assert answer.status_code == 400, answer.text
    body = answer.json()
    assert body["error"] == "Bad Request"
    assert body["statusCode"] == 400
    return {one["path"]: one["message"] for one in body["details"]}


def test_validation_names_every_field_at_fault(service: Service) -> None:
    body = batch([1], tableName="t" * 121, idempotencyKey="")
    body["schema"] = {"fields": [{"name": "timestamp", "type": "date"}, {"type": "string"}]}
    del body["partition"]["timeRange"]["end"]

    found = problems(service.ingest("validated", body))

    assert set(found) == {
        "tableName",
        "idempotencyKey",
        "schema.fields[0].type",
        "schema.fields[1]",
        "partition.timeRange",
    }
    assert "name" in found["schema.fields[1]"]


@pytest.mark.parametrize(
    ("column", "value", "shown"),
    [
        ("double", "warm", '"warm" is not a double'),
        ("double", True, "true is not a double"),
        ("double", "NaN", '"NaN" is not a double'),
        ("double", "1e999", '"1e999" is not a double'),
        ("double", {"a": 1}, "an object is not a double"),
        ("integer", 1.5, "1.5 is not a 64-bit integer"),
        ("integer", 2**63, f"{2**63} is not a 64-bit integer"),
        ("integer", "seven", '"seven" is not a 64-bit integer'),
        ("boolean", "yes", '"yes" is not a boolean'),
        ("boolean", 2, "2 is not a boolean"),
        ("string", ["x"], "an array is not a string"),
        ("timestamp", "yesterday", '"yesterday" is not an ISO-8601 time'),
        ("timestamp", "infinity", '"infinity" is not an ISO-8601 time'),
        ("timestamp", "2024-01-01T00:00:60Z", "is not a time between"),
        ("timestamp", "0000-12-31T00:00:00Z", "is not a time between"),
        ("timestamp", "10000-01-01T00:00:00Z", "is not an ISO-8601 time"),
        ("timestamp", "2024-01-01T00:00:00.123456789Z", "is finer than a microsecond"),
        ("timestamp", 1704067200000, "1704067200000 is not a timestamp"),
    ],
)
def test_a_value_of_the_wrong_type_names_its_row_and_column(
    service: Service, column: str, value: Any, shown: str
) -> None:
    body = batch([0, 1, 2])
    body["schema"] = {"fields": [{"name": "value", "type": column}, *body["schema"]["fields"]]}
    body["rows"][2]["value"] = value

    found = problems(service.ingest("mistyped", body))

    assert list(found) == ["rows[2].value"]
    assert shown in found["rows[2].value"]
    assert service.query("mistyped", {"timeRange": ALL_TIME}).status_code == 404


@pytest.mark.parametrize(
    ("column", "value", "stored"),
    [
        ("double", 7, 7.0),
        ("double", "21.5", 21.5),
        ("double", " -1e3 ", -1000.0),
        ("integer", 7.0, 7),
        ("integer", "7", 7),
        ("integer", -(2**63), -(2**63)),
        ("boolean", "TRUE", True),
        ("boolean", 0, False),
        ("string", 5, "5"),
        ("string", 1.0, "1"),
        ("string", True, "true"),
        ("string", '\u0000 "quoted" \\ ü 🌡', '\u0000 "quoted" \\ ü 🌡'),
        ("timestamp", "2024-01-01", "2024-01-01T00:00:00.000Z"),
        ("timestamp", "2024-01-01T01:00:00+01:00", "2024-01-01T00:00:00.000Z"),
        ("timestamp", "2024-01-01T00:00:00.123456000Z", "2024-01-01T00:00:00.123456Z"),
        ("timestamp", "0001-01-01T00:00:00Z", "0001-01-01T00:00:00.000Z"),
        ("timestamp", "9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999999Z"),
        ("integer", None, None),
    ],
)
def test_a_value_that_the_contract_converts_is_stored(service: Service, column: str, value: Any, stored: Any) -> None:
    slug = f"stored-{column}-{abs(hash(repr(value)))}"
    body = batch([1])
    body["schema"] = {"fields": [{"name": "value", "type": column}, *body["schema"]["fields"]]}
    body["rows"][0]["value"] = value

    assert service.ingest(slug, body).status_code == 201
    answer = service.query(slug, {"timeRange": ALL_TIME, "columns": ["value"]}).json()["rows"]

    assert answer == [{"value": stored}]
    assert type(answer[0]["value"]) is type(stored)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ('[{"n": 1, "n": 2}]', "uplicate"),
        ('[{"n": NaN}]', "JSON"),
        ('[{"n": 1}, 5]', "rows[1]"),
        ('{"n": 1}', "array"),
        ("[" * 5000 + "]" * 5000, "deep"),
    ],
)
def test_rows_that_are_not_plain_objects_are_refused(service: Service, rows: str, said: str) -> None:
    body = json.dumps(batch([])).replace('"rows": []', f'"rows": {rows}')

    answer = service.client.post("/datasets/odd/ingest", content=body, headers={"content-type": "application/json"})

    assert answer.status_code == 400
    assert said in answer.text


@pytest.mark.parametrize("names", [("temp", "TEMP"), ("caf\u00e9", "cafe\u0301"), ("stra\u00dfe", "STRASSE")])
def test_column_names_that_are_one_to_the_engine_are_refused(service: Service, names: tuple[str, str]) -> None:
    body = batch([], schema={"fields": [{"name": name, "type": "double"} for name in names]})

    assert list(problems(service.ingest("clash", body))) == ["schema.fields"]


@pytest.mark.parametrize(
    "name", ["select", 'a"b', "a'b", "a.b", "a b", "$start", "x; DROP TABLE y", "数据", "{}", "%s"]
)
def test_any_printable_text_is_a_fine_name(service: Service, name: str) -> None:
    fields = [{"name": "timestamp", "type": "timestamp"}, {"name": name, "type": "double"}]
    body = batch([], schema={"fields": fields}, tableName=name)
    body["partition"]["key"] = {name: name}
    body["rows"] = [{"timestamp": "2024-01-01T00:00:00Z", name: 1.5}]
    aggregations = [{"fn": "sum", "column": name, "alias": f"{name} total"}, {"fn": "max", "column": name}]

    assert service.client.post(f"/datasets/{_quoted(name)}/ingest", json=body).status_code == 201
    answer = service.client.post(
        f"/datasets/{_quoted(name)}/query",
        json={
            "timeRange": ALL_TIME,
            "filters": {"partitionKey": {name: [name]}},
            "downsample": {"intervalUnit": "day", "aggregations": aggregations},
        },
    )

    assert answer.json()["rows"] == [
        {"timestamp": "2024-01-01T00:00:00.000Z", f"{name} total": 1.5, f"max_{name}": 1.5}
    ]


def test_an_unknown_storage_target_is_not_found_and_publishes_nothing(service: Service) -> None:
    answer = service.ingest("nowhere", batch([1], storageTargetId="st-nope"))

    assert answer.status_code == 404
    assert "st-nope" in answer.json()["message"]
    assert service.query("nowhere", {"timeRange": ALL_TIME}).status_code == 404


@pytest.mark.parametrize(
    ("question", "path"),
    [
        ({"columns": ["nope"]}, "columns"),
        ({"timestampColumn": "nope"}, "timestampColumn"),
        ({"timestampColumn": "n"}, "timestampColumn"),
        ({"limit": 0}, "limit"),
        ({"limit": 500_001}, "limit"),
        ({"timeRange": {"start": "2024-01-02T00:00:00Z", "end": "2024-01-01T00:00:00Z"}}, "timeRange.end"),
        ({"timeRange": {"start": "soon", "end": "later"}}, "timeRange.start"),
        ({"downsample": {"aggregations": []}}, "downsample.aggregations"),
        ({"downsample": {"aggregations": [{"fn": "avg", "column": "nope"}]}}, "downsample.aggregations"),
        ({"downsample": {"aggregations": [{"fn": "avg"}]}}, "downsample.aggregations[0].column"),
        ({"downsample": {"aggregations": [{"fn": "nope"}]}}, "downsample.aggregations[0].fn"),
        ({"downsample": {"aggregations": [{"fn": "sum", "column": "timestamp"}]}}, "downsample.aggregations[0].column"),
        (
            {"downsample": {"aggregations": [{"fn": "percentile", "column": "n"}]}},
            "downsample.aggregations[0].percentile",
        ),
        ({"downsample": {"aggregations": [{"fn": "count"}, {"fn": "count"}]}}, "downsample.aggregations"),
        ({"downsample": {"intervalUnit": "year", "aggregations": [{"fn": "count"}]}}, "downsample.intervalUnit"),
        ({"downsample": {"intervalSize": 0, "aggregations": [{"fn": "count"}]}}, "downsample.intervalSize"),
    ],
)
def test_a_wrong_query_names_the_field(service: Service, question: dict[str, Any], path: str) -> None:
    service.ingest("asked", batch([1]), "once")

    found = problems(service.query("asked", {"timeRange": ALL_TIME, **question}))

    assert path in found


@pytest.mark.parametrize(("size", "starts"), [(2, [0, 2, 4]), (5, [0]), (7, [0])])
def test_an_interval_size_above_one_is_answered(service: Service, size: int, starts: list[int]) -> None:
    service.ingest("sized", batch([0, 60, 120, 299]), "once")
    question = {"intervalUnit": "minute", "intervalSize": size, "aggregations": [{"fn": "count", "alias": "n"}]}

    rows = service.query("sized", {"timeRange": ALL_TIME, "downsample": question}).json()["rows"]

    assert sum(row["n"] for row in rows) == 4
    assert size == 7 or [row["timestamp"] for row in rows] == [f"2024-01-01T00:{at:02}:00.000Z" for at in starts]


def test_a_batch_of_several_mebibytes_gets_in(service: Service) -> None:
    body = batch(list(range(30_000)))

    assert service.ingest("large", body).status_code == 201
    assert numbers_of(service, "large") == list(range(30_000))


def _quoted(name: str) -> str:
    from urllib.parse import quote

    return quote(name, safe="")
