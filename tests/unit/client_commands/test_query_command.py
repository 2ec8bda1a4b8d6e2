"""`timestore query` against an HTTP server that answers by the contract."""

from __future__ import annotations

import json
from typing import Any

import pytest
from timestore_workers.query_command import aggregation, query_body

from tests.unit.client_commands.stand import ANSWER, Fault, Service, run
from timestore_core.errors import InvalidRequest


def test_a_query_without_options_asks_for_everything(service: Service) -> None:
    assert run("query", "a/b c", "--url", service.url).exit_code == 0
    path, _, body = service.requests[0]
    assert path == "/datasets/a%2Fb%20c/query"
    assert body == {
        "timeRange": {"start": "0001-01-01T00:00:00.000Z", "end": "9999-12-31T23:59:59.999999Z"},
        "timestampColumn": "timestamp",
    }


def test_all_options_of_a_query_reach_the_service(service: Service) -> None:
    options = (
        "--from 2024-01-01 --to 2024-01-31 --limit 5 --columns a,b --every 6h --agg mean=avg:t --agg count "
        "--where window=x,y --where site=n --where window=z --time-column at"
    )
    assert run("query", "d", "--url", service.url, *options.split()).exit_code == 0
    assert service.bodies[0] == {
        "timeRange": {"start": "2024-01-01T00:00:00.000Z", "end": "2024-01-31T23:59:59.999999Z"},
        "timestampColumn": "at",
        "columns": ["a", "b"],
        "limit": 5,
        "filters": {"partitionKey": {"window": ["x", "y", "z"], "site": ["n"]}},
        "downsample": {
            "intervalUnit": "hour",
            "intervalSize": 6,
            "aggregations": [{"fn": "avg", "column": "t", "alias": "mean"}, {"fn": "count"}],
        },
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("avg:temp", {"fn": "avg", "column": "temp"}),
        ("count", {"fn": "count"}),
        ("count:temp", {"fn": "count", "column": "temp"}),
        ("count_distinct:s", {"fn": "count_distinct", "column": "s"}),
        ("p95:latency", {"fn": "percentile", "percentile": 0.95, "column": "latency"}),
        ("p99.9:l", {"fn": "percentile", "percentile": 0.999, "column": "l", "alias": "p99.9_l"}),
        ("percentile:0.5:l", {"fn": "percentile", "percentile": 0.5, "column": "l"}),
        ("worst=p100:l", {"fn": "percentile", "percentile": 1.0, "column": "l", "alias": "worst"}),
        ("max:a:b=c", {"fn": "max", "column": "a:b=c"}),
    ],
)
def test_an_aggregation_is_written_as_function_and_column(text: str, expected: dict[str, Any]) -> None:
    assert aggregation(text) == expected


@pytest.mark.parametrize("text", ["mean:t", "avg", "p101:l", "p95", "percentile:x:l", "percentile:95:l", ""])
def test_a_wrong_aggregation_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="--agg"):
        aggregation(text)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--every", "0h"], '--every: "0h" is not a duration'),
        (["--every", "1y"], "is not a duration"),
        (["--last", "soon"], "--last"),
        (["--last", "99999mo"], "goes back before the year 1"),
        (["--last", "1d", "--from", "2024-01-01"], "cannot be given with --from"),
        (["--from", "yesterday"], '--from: "yesterday" is not an ISO-8601 time'),
        (["--agg", "count"], "give --every"),
        (["--where", "window"], "is not of the form"),
    ],
)
def test_a_wrong_query_option_is_named_before_anything_is_asked(
    service: Service, options: list[str], expected: str
) -> None:
    result = run("query", "d", "--url", service.url, *options)
    assert result.exit_code == 1
    assert expected in result.stderr
    assert service.requests == []


def test_buckets_without_an_aggregation_are_counted(service: Service) -> None:
    run("query", "d", "--url", service.url, "--every", "1mo")
    assert service.bodies[0]["downsample"] == {
        "intervalUnit": "month",
        "intervalSize": 1,
        "aggregations": [{"fn": "count"}],
    }


@pytest.mark.parametrize("last", ["45s", "7d", "2w", "1mo", "14mo"])
def test_the_last_days_end_now(last: str) -> None:
    options: dict[str, Any] = dict.fromkeys(["start", "end", "columns", "limit", "every"])
    body = query_body(**options, last=last, agg=[], where=[], time_column="timestamp")
    first, final = body["timeRange"]["start"], body["timeRange"]["end"]
    assert first < final
    if last == "14mo":
        years, months = int(final[:4]) - int(first[:4]), int(final[5:7]) - int(first[5:7])
        assert years * 12 + months == 14


def test_csv_is_complete_and_keeps_the_digits_of_the_service(service: Service) -> None:
    result = run("query", "d", "--url", service.url)
    assert result.stdout == (
        "timestamp,n,x,s,e\n"
        '2024-01-01T00:00:00.000Z,9007199254740993,20.10,"a,""b""",""\n'
        "2024-01-02T00:00:00.000Z,,1e-7,,\n"
    )


def test_json_is_what_the_service_answered(service: Service) -> None:
    assert run("query", "d", "--url", service.url, "--format", "json").stdout == ANSWER + "\n"


def test_a_table_leaves_out_what_does_not_fit_and_says_so(service: Service) -> None:
    names = ["timestamp", *(f"column_{number}" for number in range(20))]
    rows = [{name: f"[{name}] {number}" for name in names} for number in range(100)]
    service.answer = json.dumps({"rows": rows, "columns": names, "mode": "raw"})
    result = run("query", "d", "--url", service.url, "--format", "table")
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 100
    assert "[timestamp] 0" in result.stdout
    assert "[timestamp] 99" in result.stdout
    assert "[timestamp] 50" not in result.stdout
    assert "⋮" in result.stdout
    assert result.stderr.startswith("100 rows; the first and last 20 shown; columns not shown: column_")
    assert "--format csv or json gives everything" in result.stderr


def test_an_unknown_dataset_is_the_services_own_message(service: Service) -> None:
    service.faults = [Fault(404, b'{"statusCode":404,"error":"Not Found","message":"Dataset d not found"}')]
    result = run("query", "d", "--url", service.url)
    assert (result.exit_code, result.stderr) == (1, "error: Dataset d not found (404)\n")
