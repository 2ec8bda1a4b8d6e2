"""Every kind of question, held against plain SQL over one plain DuckDB table of the same rows."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from tests.integration.model import iso, same
from tests.integration.questions import FIELDS, Reference, random_question, random_rows
from tests.service import Service

Rows = list[dict[str, Any]]


def ingest(service: Service, rows: Rows, fields: dict[str, str] = FIELDS) -> str:
    """The rows as a dataset of its own, in three overlapping batches."""
    slug = f"questions-{uuid4().hex[:8]}"
    for number in range(3):
        part = rows[number::3]
        times = [row["timestamp"] for row in part] or [datetime(2024, 1, 1)]
        body = {
            "schema": {"fields": [{"name": name, "type": type_} for name, type_ in fields.items()]},
            "partition": {
                "key": {"shard": str(number)},
                "timeRange": {"start": iso(min(times)), "end": iso(max(times))},
            },
            "rows": [{name: _wire(row.get(name)) for name in fields} for row in part],
        }
        answer = service.ingest(slug, body)
        assert answer.status_code == 201, answer.text
    return slug


def asked(service: Service, slug: str, **body: Any) -> Rows:
    answer = service.query(slug, {"timeRange": {"start": "2024-01-01T00:00:00Z", "end": "2025-01-01T00:00:00Z"}} | body)
    assert answer.status_code == 200, answer.text
    return answer.json()["rows"]


def assert_same(found: Rows, expected: Sequence[tuple[Any, ...]], where: Any) -> None:
    values = [tuple(row.values()) for row in found]
    wanted = [tuple(_wire(value) for value in row) for row in expected]
    assert len(values) == len(wanted), (where, values[:5], wanted[:5])
    for one, other in zip(values, wanted, strict=True):
        assert all(same(right, left) for left, right in zip(one, other, strict=True)), (where, one, other)


def _wire(value: Any) -> Any:
    return iso(value) if isinstance(value, datetime) else value


@pytest.mark.parametrize("seed", range(3))
def test_any_question_has_plain_sql_s_answer(service: Service, seed: int) -> None:
    chance = random.Random(seed)
    rows = random_rows(seed, chance.choice([1, 40, 700]) if seed else 700)
    slug, reference = ingest(service, rows), Reference(rows)

    for _ in range(120):
        question = random_question(chance)
        answer = service.query(slug, question.body)
        assert answer.status_code == 200, (question.body, answer.text)
        assert_same(answer.json()["rows"], reference.ask(question.sql), question)


def rows_of(*rows: tuple[str, Any]) -> Rows:
    return [{"timestamp": datetime.fromisoformat(time), "v": value} for time, value in rows]


VALUES = {"timestamp": "timestamp", "v": "double"}


@pytest.mark.parametrize(
    ("fill", "values"),
    [
        (None, [None, 1, None, None, 4, None]),
        ("null", [None, 1, None, None, 4, None]),
        ("previous", [None, 1, 1, 1, 4, 4]),
        ("linear", [None, 1, 2, 3, 4, None]),
        (7.5, [7.5, 1, 7.5, 7.5, 4, 7.5]),
    ],
)
def test_gaps_are_filled_inside_the_range_asked_and_nowhere_else(service: Service, fill: Any, values: Any) -> None:
    slug = ingest(
        service,
        rows_of(("2024-01-01T00:30", 9), ("2024-01-01T02:10", 1), ("2024-01-01T05:50", 4), ("2024-01-01T09:00", 9)),
        VALUES,
    )
    found = asked(
        service,
        slug,
        timeRange={"start": "2024-01-01T01:00:00Z", "end": "2024-01-01T06:59:59Z"},
        downsample={"intervalUnit": "hour", "fill": fill, "aggregations": [{"fn": "avg", "column": "v", "alias": "v"}]},
    )

    assert [row["timestamp"] for row in found] == [f"2024-01-01T0{hour}:00:00.000Z" for hour in range(1, 7)]
    assert [row["v"] for row in found] == values


def test_each_group_s_gaps_are_its_own(service: Service) -> None:
    rows = [
        {"timestamp": datetime(2024, 1, 1, hour), "host": host, "n": n}
        for hour, host, n in [(0, "a", 1), (2, "a", 3), (1, "b", 10), (2, None, 5)]
    ]
    slug = ingest(service, rows, {"timestamp": "timestamp", "host": "string", "n": "integer"})
    found = asked(
        service,
        slug,
        timeRange={"start": "2024-01-01T00:00:00Z", "end": "2024-01-01T02:00:00Z"},
        groupBy=["host"],
        downsample={"intervalUnit": "hour", "fill": "linear", "aggregations": [{"fn": "max", "column": "n"}]},
    )

    assert [(row["timestamp"][11:13], row["host"], row["max_n"]) for row in found] == [
        ("00", "a", 1),
        ("00", "b", None),
        ("00", None, None),
        ("01", "a", 2),
        ("01", "b", 10),
        ("01", None, None),
        ("02", "a", 3),
        ("02", "b", None),
        ("02", None, 5),
    ]


@pytest.mark.parametrize(
    ("zone", "start", "end", "unit", "lengths"),
    [
        # The day has 23 hours, the next year's autumn one 25; half an hour comes and goes in Lord Howe.
        ("Europe/Berlin", "2024-03-30T23:00:00Z", "2024-03-31T21:59:59Z", "day", [23]),
        ("America/New_York", "2024-11-03T04:00:00Z", "2024-11-04T04:59:59Z", "day", [25]),
        ("Australia/Lord_Howe", "2024-04-06T13:00:00Z", "2024-04-07T13:29:59Z", "day", [24.5]),
        ("Europe/Berlin", "2024-10-27T00:00:00Z", "2024-10-27T02:59:59Z", "hour", [1, 1, 1]),
        ("Asia/Kolkata", "2024-01-01T00:00:00Z", "2024-01-01T00:59:59Z", "hour", [0.5, 0.5]),
        ("Australia/Lord_Howe", "2024-10-05T15:00:00Z", "2024-10-05T16:29:59Z", "hour", [0.5, 0.5, 0.5]),
        # Nothing was at midnight: clocks went from 23:59:59 to 01:00.
        ("America/Sao_Paulo", "2018-11-04T03:00:00Z", "2018-11-05T01:59:59Z", "day", [23]),
        # Midnight came twice: the day begins at the first.
        ("America/Havana", "2024-11-03T04:00:00Z", "2024-11-04T04:59:59Z", "day", [25]),
    ],
)
def test_buckets_follow_the_clocks(
    service: Service, zone: str, start: str, end: str, unit: str, lengths: list[float]
) -> None:
    first, last = (datetime.fromisoformat(one).replace(tzinfo=None) for one in (start, end))
    minutes = int((last - first).total_seconds() // 60) + 1
    rows = [{"timestamp": first + timedelta(minutes=number), "v": 1} for number in range(minutes)]
    slug = ingest(service, rows, VALUES)
    for fill in ({}, {"fill": "null"}):
        found = asked(
            service,
            slug,
            timeRange={"start": start, "end": end},
            downsample={
                "intervalUnit": unit,
                "timezone": zone,
                "aggregations": [{"fn": "count", "alias": "n"}],
                **fill,
            },
        )

        assert [row["n"] for row in found] == [60 * length for length in lengths]
        assert found[0]["timestamp"] <= iso(first)
        if unit == "day":
            assert found[0]["timestamp"] == iso(first)


def test_an_origin_moves_the_buckets(service: Service) -> None:
    slug = ingest(service, rows_of(("2024-01-01T05:30", 1), ("2024-01-01T06:30", 2)), VALUES)
    found = asked(
        service,
        slug,
        downsample={
            "intervalUnit": "day",
            "origin": "2020-06-01T06:00:00Z",
            "aggregations": [{"fn": "sum", "column": "v", "alias": "v"}],
        },
    )

    assert found == [
        {"timestamp": "2023-12-31T06:00:00.000Z", "v": 1},
        {"timestamp": "2024-01-01T06:00:00.000Z", "v": 2},
    ]


def test_counters_that_reset_are_added_up_by_what_they_grew(service: Service) -> None:
    times = ["00:00", "00:10", "00:20", "00:30", "00:40"]
    slug = ingest(
        service, rows_of(*((f"2024-01-01T{time}", v) for time, v in zip(times, [5, 9, 2, 3, 3], strict=True))), VALUES
    )
    [found] = asked(
        service,
        slug,
        aggregations=[{"fn": fn, "column": "v", "alias": fn} for fn in ("increase", "rate", "delta", "first", "last")],
    )

    assert found == {"increase": 7, "rate": 7 / 2400, "delta": -2, "first": 5, "last": 3}


def test_a_value_counts_for_as_long_as_it_held(service: Service) -> None:
    slug = ingest(service, rows_of(("2024-01-01T00:00", 10), ("2024-01-01T00:50", 0), ("2024-01-01T01:00", 77)), VALUES)
    [found] = asked(service, slug, aggregations=[{"fn": "time_weighted_avg", "column": "v", "alias": "v"}])

    assert found == {"v": 10 * 50 / 60}


def test_a_histogram_counts_between_bounds(service: Service) -> None:
    values = [-1, 0, 0.5, 1, 2, 10, None]
    slug = ingest(service, rows_of(*((f"2024-01-01T00:0{n}", v) for n, v in enumerate(values))), VALUES)
    [found] = asked(
        service, slug, aggregations=[{"fn": "histogram", "column": "v", "bounds": [0, 1, 5], "alias": "counts"}]
    )

    assert found == {"counts": [1, 2, 2, 1]}
    quantiles = [{"fn": fn, "column": "v", "percentile": 0.25} for fn in ("percentile_cont", "approx_percentile")]
    [found] = asked(service, slug, aggregations=quantiles)
    assert found["p25_cont_v"] == 0.125
    assert -1 <= found["p25_approx_v"] <= 1


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize(
    "question",
    [
        {},
        {"groupBy": ["host"], "downsample": {"intervalUnit": "day", "aggregations": [{"fn": "count"}]}},
        {"latest": True, "groupBy": ["note"]},
        {"filters": {"columns": {"host": {"eq": "a"}}}, "columns": ["v"]},
    ],
)
def test_pages_together_are_the_whole_answer_of_one_version(service: Service, question: Any, order: str) -> None:
    rows = random_rows(5, 200)
    # Many rows at one time, so that pages end between them.
    rows += [{**rows[0], "timestamp": datetime(2024, 6, 1, tzinfo=UTC), "n": n} for n in range(40)]
    slug = ingest(service, rows)
    whole = asked(service, slug, order=order, **question)
    pages: Rows = []
    cursor: str | None = None
    for limit in [7, 1, 13, 11] * 100:
        body = {"timeRange": {"start": "2024-01-01T00:00:00Z", "end": "2025-01-01T00:00:00Z"}, "order": order}
        answer = service.query(slug, {**body, **question, "limit": limit, "cursor": cursor})
        assert answer.status_code == 200, answer.text
        page, cursor = answer.json()["rows"], answer.json()["nextCursor"]
        assert answer.headers.get("x-timestore-next-cursor") == cursor
        assert len(page) == limit or cursor is None
        pages += page
        if cursor is None:
            break
        if len(pages) < 20:
            # What comes meanwhile belongs to another version.
            assert service.ingest(slug, _one_more(rows[-1])).status_code == 201

    assert pages == whole


def _one_more(row: dict[str, Any]) -> dict[str, Any]:
    time = iso(datetime(2024, 3, 2))
    return {
        "schema": {"fields": [{"name": name, "type": type_} for name, type_ in FIELDS.items()]},
        "partition": {"key": {"shard": "late"}, "timeRange": {"start": time, "end": time}},
        "rows": [{**{name: _wire(value) for name, value in row.items()}, "timestamp": time}],
    }


def test_a_cursor_belongs_to_its_question(service: Service) -> None:
    slug = ingest(service, random_rows(6, 20))
    body = {"timeRange": {"start": "2024-01-01T00:00:00Z", "end": "2025-01-01T00:00:00Z"}, "limit": 3}
    cursor = service.query(slug, {**body, "cursor": None}).json()["nextCursor"]

    for changed in ({"order": "desc"}, {"columns": ["v"]}):
        answer = service.query(slug, {**body, **changed, "cursor": cursor})
        assert (answer.status_code, answer.json()["details"][0]["path"]) == (400, "cursor")
    other = ingest(service, random_rows(6, 20))
    assert service.query(other, {**body, "cursor": cursor}).json()["details"][0]["path"] == "cursor"
    for broken in ("x", cursor[:-3], "e30", "é"):
        assert service.query(slug, {**body, "cursor": broken}).status_code == 400


def test_an_explanation_says_what_was_ruled_out_and_what_it_took(service: Service) -> None:
    slug = ingest(service, random_rows(7, 60))

    def explained(**body: Any) -> dict[str, Any]:
        asked_for = {"timeRange": {"start": "2024-01-01T00:00:00Z", "end": "2025-01-01T00:00:00Z"}, "explain": True}
        answer = service.query(slug, asked_for | body)
        assert answer.status_code == 200, answer.text
        assert answer.json()["rows"] == []
        return answer.json()["explain"]

    plain = explained()
    assert plain["partitions"] | {"ids": None} == {
        "considered": 3,
        "read": 3,
        "ruledOut": {},
        "sources": {"local": 3},
        "ids": None,
    }
    assert (plain["rows"], plain["rowsInPartitions"]) == (60, 60)
    assert plain["bytes"] > 0
    assert "SELECT" in plain["sql"]
    assert str(service.environment.get("TIMESTORE_STORAGE_ROOT", "/nowhere")) not in plain["sql"]
    assert set(plain["milliseconds"]) == {"admission", "planning", "execution"}
    key = explained(filters={"partitionKey": {"shard": ["1"]}})
    assert key["partitions"]["ruledOut"] == {"partitionKey": 2}
    values = explained(filters={"columns": {"host": {"eq": "nobody"}}})
    assert values["partitions"]["ruledOut"] == {"columns.host": 3}
    counted = explained(aggregations=[{"fn": "count"}, {"fn": "max", "column": "c"}, {"fn": "last_time"}])
    assert (counted["partitions"]["read"], counted["partitions"]["ruledOut"]) == (0, {"catalog": 3})


def test_what_the_catalog_answers_is_what_the_files_would(service: Service) -> None:
    rows = random_rows(8, 90)
    slug = ingest(service, rows)
    aggregations = [
        {"fn": "count", "alias": "rows"},
        *({"fn": fn, "column": name} for name in FIELDS for fn in ("count", "min", "max")),
    ]
    [known] = asked(service, slug, aggregations=aggregations)
    # A condition that all rows meet makes the files be read.
    [read] = asked(
        service,
        slug,
        aggregations=aggregations,
        filters={"columns": {"timestamp": {"gt": "1990-01-01T00:00:00Z"}}},
    )

    assert known == read


def test_the_newest_rows_are_found_without_reading_older_partitions(service: Service) -> None:
    slug = f"latest-{uuid4().hex[:8]}"
    for day in range(1, 7):
        hosts = ["a", "b"] if day != 2 else ["a", "b", "rare"]
        rows = [
            {"timestamp": datetime(2024, 1, day, hour), "host": host, "n": day * 100 + hour}
            for hour in range(3)
            for host in hosts
        ]
        times = [row["timestamp"] for row in rows]
        body = {
            "schema": {
                "fields": [
                    {"name": "timestamp", "type": "timestamp"},
                    {"name": "host", "type": "string"},
                    {"name": "n", "type": "integer"},
                ]
            },
            "partition": {"key": {}, "timeRange": {"start": iso(min(times)), "end": iso(max(times))}},
            "rows": [{name: _wire(value) for name, value in row.items()} for row in rows],
        }
        assert service.ingest(slug, body).status_code == 201
    newest = asked(service, slug, latest=True, groupBy=["host"])
    told = service.query(
        slug,
        {
            "timeRange": {"start": "2024-01-01T00:00:00Z", "end": "2025-01-01T00:00:00Z"},
            "latest": True,
            "groupBy": ["host"],
            "explain": True,
        },
    ).json()["explain"]

    assert [(row["host"], row["n"]) for row in newest] == [("a", 602), ("b", 602), ("rare", 202)]
    assert told["partitions"]["ruledOut"] == {"latest": 4}
    assert asked(service, slug, latest=True) == [{"timestamp": iso(datetime(2024, 1, 6, 2)), "host": "a", "n": 602}]


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"groupBy": []}, "groupBy"),
        ({"groupBy": ["nope"]}, "groupBy"),
        ({"latest": True, "aggregations": [{"fn": "count"}]}, "latest"),
        ({"aggregations": []}, "aggregations"),
        ({"groupBy": ["host"], "columns": ["v"]}, "columns"),
        ({"groupBy": ["host"], "aggregations": [{"fn": "count", "alias": "HOST"}]}, "aggregations"),
        ({"order": "up"}, "order"),
        ({"filters": {"columns": {"nope": {"eq": 1}}}}, "filters.columns.nope"),
        ({"filters": {"columns": {"v": {}}}}, "filters.columns.v"),
        ({"filters": {"columns": {"v": {"eq": "1"}}}}, "filters.columns.v.eq"),
        ({"filters": {"columns": {"v": {"type": "string", "eq": "1"}}}}, "filters.columns.v.type"),
        ({"filters": {"columns": {"v": {"in": [1, True]}}}}, "filters.columns.v.in[1]"),
        ({"filters": {"columns": {"v": {"like": "1%"}}}}, "filters.columns.v.like"),
        ({"filters": {"columns": {"ok": {"gt": False}}}}, "filters.columns.ok.gt"),
        ({"filters": {"columns": {"seen": {"lt": "soon"}}}}, "filters.columns.seen.lt"),
        ({"filters": {"columns": {"host": {"in": ["a"] * 100_000}}}}, "filters.columns.host.in"),
        ({"downsample": {"timezone": "Mars/Olympus", "aggregations": [{"fn": "count"}]}}, "downsample.timezone"),
        ({"downsample": {"timezone": "localtime", "aggregations": [{"fn": "count"}]}}, "downsample.timezone"),
        ({"downsample": {"timezone": "../etc/passwd", "aggregations": [{"fn": "count"}]}}, "downsample.timezone"),
        ({"downsample": {"origin": "soon", "aggregations": [{"fn": "count"}]}}, "downsample.origin"),
        (
            {"downsample": {"intervalUnit": "second", "fill": "previous", "aggregations": [{"fn": "count"}]}},
            "downsample.fill",
        ),
        ({"aggregations": [{"fn": "histogram", "column": "v"}]}, "aggregations[0].bounds"),
        ({"aggregations": [{"fn": "histogram", "column": "v", "bounds": [2, 1]}]}, "aggregations[0].bounds"),
        ({"aggregations": [{"fn": "rate", "column": "host"}]}, "aggregations[0].column"),
    ],
)
def test_what_makes_no_sense_is_named(service: Service, body: Any, path: str) -> None:
    slug = ingest(service, random_rows(9, 10))
    answer = service.query(slug, {"timeRange": {"start": "2024-01-01T00:00:00Z", "end": "2025-01-01T00:00:00Z"}} | body)

    assert answer.status_code == 400, answer.text
    assert path in [one["path"] for one in answer.json()["details"]], answer.text


@pytest.mark.parametrize(
    ("time", "unit", "size", "start"),
    [
        # Clocks changed between the bucket's begin and the only row.
        ("2024-11-20T12:00:00", "month", 1, "2024-11-01T04:00:00.000Z"),
        ("2024-03-11T01:00:00", "day", 1, "2024-03-10T05:00:00.000Z"),
        ("2024-12-20T12:00:00", "month", 3, "2024-10-01T04:00:00.000Z"),
    ],
)
def test_a_bucket_begins_where_its_clocks_were_then(
    service: Service, time: str, unit: str, size: int, start: str
) -> None:
    slug = ingest(service, rows_of((time, 1)), VALUES)
    for fill in ({}, {"fill": "null"}):
        found = asked(
            service,
            slug,
            timeRange={"start": f"{time}Z", "end": f"{time}Z"},
            downsample={
                "intervalUnit": unit,
                "intervalSize": size,
                "timezone": "America/New_York",
                "aggregations": [{"fn": "count"}],
                **fill,
            },
        )

        assert [row["timestamp"] for row in found] == [start]


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (
            {
                "intervalUnit": "month",
                "timezone": "America/New_York",
                "origin": "0001-01-01T00:00:00Z",
            },
            "downsample.origin",
        ),
        ({"intervalUnit": "month", "timezone": "Asia/Tokyo", "origin": "9999-12-31T23:00:00Z"}, "downsample.origin"),
        ({"intervalUnit": "month", "timezone": "America/New_York", "fill": None}, "downsample.timezone"),
    ],
)
def test_times_at_the_end_of_the_calendar_are_refused_where_they_cannot_be_told(
    service: Service, body: Any, path: str
) -> None:
    slug = ingest(service, random_rows(10, 5))
    answer = service.query(
        slug,
        {
            "timeRange": {"start": "0001-01-01T00:00:00Z", "end": "9999-12-31T00:00:00Z"},
            "downsample": {"aggregations": [{"fn": "count"}], **body},
        },
    )

    assert (answer.status_code, answer.json()["details"][0]["path"]) == (400, path), answer.text


@pytest.mark.parametrize(("operator", "count"), [("lt", 2), ("gt", 0), ("ne", 2), ("eq", 0)])
def test_a_number_beyond_all_doubles_is_compared_all_the_same(service: Service, operator: str, count: int) -> None:
    slug = ingest(service, rows_of(("2024-01-01T00:00", 1), ("2024-01-01T00:01", -1)), VALUES)

    assert len(asked(service, slug, filters={"columns": {"v": {operator: 10**400}}})) == count
