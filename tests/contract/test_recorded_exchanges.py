"""Requests and answers recorded from the service that this one replaces, replayed in order.

Ids, times, sizes, durations and checksums vary; everything else is the contract. Where the contract says that the
recorded answer is wrong, the right one stands in `CORRECTED`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.service import Service

EXCHANGES: list[dict[str, Any]] = json.loads((Path(__file__).parent / "exchanges.json").read_text(encoding="utf-8"))


def _status_without_the_run_of_no_dataset() -> dict[str, Any]:
    """The recorded status, but for its second run: maintenance of `nope`, which there is no dataset of.

    The recorded service answered 500 to that request and counted a run that failed. Ours answers 404 and runs
    nothing, so the run before it comes second, and nothing has failed.
    """
    recorded = {one["name"]: one["response"]["body"] for one in EXCHANGES}
    status, ran = recorded["lifecycle status"], recorded["lifecycle run retention"]["report"]
    export = status["jobs"][0]
    compaction = {
        **export,
        "id": ran["jobId"],
        "datasetId": ran["datasetId"],
        "operations": [one["operation"] for one in ran["operations"]],
        "metadata": {
            "requestId": ran["jobId"].removeprefix("ljr-"),
            "operations": ran["operations"],
            "datasetSlug": ran["datasetSlug"],
        },
    }
    metrics = {**status["metrics"], "jobsStarted": 2, "jobsCompleted": 2, "jobsFailed": 0, "lastErrorAt": None}
    return {"jobs": [export, compaction], "metrics": metrics}


CORRECTED: dict[str, dict[str, Any]] = {
    # A raw query with nothing in range and no `columns` answers the schema's columns, not the time column alone.
    "query partition filter miss": {"columns": ["timestamp", "site", "temperature_c", "samples", "ok"]},
    # The contract: "Lifecycle on an unknown dataset: 404."
    "lifecycle status": _status_without_the_run_of_no_dataset(),
}

_ID = re.compile(r"(ds|dsv|dm|part|st|ljr|la)-[0-9a-f-]{36}")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}(\d{3})?Z")
_FILE_TIME = re.compile(r"(?<=/snapshot-)\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d-\d{3}Z(?=\.parquet$)")
_VARIES = {
    "fileSizeBytes",
    "totalBytes",
    "bytes",
    "checksum",
    "root",
    "nextCursor",
    "durationMs",
    "exportLatencyMs",
}


@pytest.fixture(scope="module")
def replayed(make_service: Callable[..., Service]) -> Iterator[dict[str, Any]]:
    """Every exchange's answer by name, of a service of its own."""
    service = make_service().start()
    yield replay(service)
    service.stop()


def replay(service: Service) -> dict[str, Any]:
    """Every exchange's answer by name, sent in the recorded order to a new service.

    Recorded ids and cursors become those that this service gave in the same places.
    """
    answers, given = {}, dict[str, str]()
    for exchange in EXCHANGES:
        request = exchange["request"]
        body = request.get("body")
        content = None if body is None else (body if isinstance(body, str) else json.dumps(body))
        answer = service.client.request(
            request["method"],
            translated(request["path"], given),
            headers=request.get("headers"),
            content=None if content is None else translated(content, given).encode(),
        )
        answers[exchange["name"]] = answer
        given |= dict(pairs_of(exchange["response"]["body"], answer.json()))
    return answers


def translated(text: str, given: dict[str, str]) -> str:
    for recorded, found in given.items():
        text = text.replace(recorded, found)
    return text


def pairs_of(recorded: Any, found: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Recorded ids and cursors beside what stands in the same place of the found answer."""
    if isinstance(recorded, dict) and isinstance(found, dict):
        for name in recorded.keys() & found.keys():
            yield from pairs_of(recorded[name], found[name], name)
    elif isinstance(recorded, list) and isinstance(found, list):
        for one, other in zip(recorded, found, strict=False):
            yield from pairs_of(one, other, key)
    elif isinstance(recorded, str) and isinstance(found, str) and (key == "nextCursor" or _ID.fullmatch(recorded)):
        yield recorded, found


@pytest.mark.parametrize("exchange", EXCHANGES, ids=[one["name"] for one in EXCHANGES])
def test_a_recorded_request_gets_its_recorded_answer(exchange: dict[str, Any], replayed: dict[str, Any]) -> None:
    answer = replayed[exchange["name"]]
    expected = exchange["response"]["body"] | CORRECTED.get(exchange["name"], {})

    assert answer.status_code == exchange["response"]["status"], answer.text
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert differences(expected, answer.json()) == []


def differences(expected: Any, found: Any, path: str = "") -> list[str]:
    """Where the found answer lacks or contradicts the expected one; more than was expected is fine."""
    key = path.rpartition(".")[2].partition("[")[0]
    if isinstance(expected, dict):
        if not isinstance(found, dict):
            return [f"{path}: {found!r} instead of an object"]
        missing = [f"{path}.{name} is missing" for name in expected.keys() - found.keys()]
        return missing + [
            line
            for name in expected.keys() & found.keys()
            for line in differences(expected[name], found[name], f"{path}.{name}")
        ]
    if isinstance(expected, list):
        if not isinstance(found, list) or len(found) != len(expected):
            return [f"{path}: {found!r} instead of {len(expected)} items"]
        return [
            line for index, one in enumerate(expected) for line in differences(one, found[index], f"{path}[{index}]")
        ]
    if key in _VARIES and expected is not None:
        return [] if type(expected) is type(found) else [f"{path}: {found!r} is of another type"]
    if isinstance(expected, str) and isinstance(found, str):
        return [] if _shape(expected, key) == _shape(found, key) else [f"{path}: {found!r} instead of {expected!r}"]
    # A JSON number has one type: 20 and 20.0 are the same to a client.
    same = expected == found and isinstance(expected, bool) == isinstance(found, bool)
    return [] if same else [f"{path}: {found!r} instead of {expected!r}"]


def _shape(text: str, key: str) -> str:
    """The text with what varies between runs replaced; times of the data itself stay."""
    text = _ID.sub(lambda match: f"{match[1]}-*", text)
    if key == "requestId":
        return _UUID.sub("*uuid*", text)
    if key == "filePath":
        return _FILE_TIME.sub("*time*", text)
    return _TIME.sub("*time*", text) if key.endswith("At") else text


def test_the_comparison_sees_a_difference() -> None:
    assert differences({"a": [1, "x"]}, {"a": [1, "y"]}) == [".a[1]: 'y' instead of 'x'"]
    assert differences({"a": 1, "b": None}, {"a": 1}) == [".b is missing"]
    assert differences({"a": 1}, {"a": True}) == [".a: True instead of 1"]
    assert differences({"updatedAt": "2024-01-01T00:00:00.000Z"}, {"updatedAt": "yesterday"}) != []
    assert differences({"durationMs": 41}, {"durationMs": 7}) == []
    assert differences({"durationMs": 41}, {"durationMs": None}) != []
    assert differences({"exportLatencyMs": [31]}, {"exportLatencyMs": [12]}) == []
    assert differences({"exportLatencyMs": [31]}, {"exportLatencyMs": []}) != []
    assert differences({"requestId": "b617566a-4732-4c26-984d-0f2c8e888a21"}, {"requestId": "x"}) != []
    stamped = {"filePath": "exports/a/snapshot-2026-11-23T21-19-47-724Z.parquet"}
    assert differences(stamped, {"filePath": "exports/a/snapshot-2026-12-01T00-00-00-000Z.parquet"}) == []
    assert differences(stamped, {"filePath": "exports/b/snapshot-2026-11-23T21-19-47-724Z.parquet"}) != []
    assert differences(stamped, {"filePath": "exports/a/snapshot-2026-11-23T21:19:47.724Z.parquet"}) != []
