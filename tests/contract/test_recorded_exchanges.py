"""Requests and answers recorded from the service that this one replaces, replayed in order.

Ids, times, sizes and checksums vary; everything else is the contract. Where the contract says that the recorded
answer is wrong, the right one stands in `CORRECTED`.
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

# A raw query with nothing in range and no `columns` answers the schema's columns, not the time column alone.
CORRECTED: dict[str, dict[str, Any]] = {
    "query partition filter miss": {"columns": ["timestamp", "site", "temperature_c", "samples", "ok"]},
}

_ID = re.compile(r"(ds|dsv|dm|part|st)-[0-9a-f-]{36}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}(\d{3})?Z")
_VARIES = {"fileSizeBytes", "totalBytes", "checksum", "root", "nextCursor"}


@pytest.fixture(scope="module")
def replayed(make_service: Callable[..., Service]) -> Iterator[dict[str, Any]]:
    """Every exchange's answer by name, sent in the recorded order to a service of its own.

    Recorded ids and cursors become those that this service gave in the same places.
    """
    service = make_service().start()
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
    yield answers
    service.stop()


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
    key = path.rpartition(".")[2]
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
    return _TIME.sub("*time*", text) if key.endswith("At") else text


def test_the_comparison_sees_a_difference() -> None:
    assert differences({"a": [1, "x"]}, {"a": [1, "y"]}) == [".a[1]: 'y' instead of 'x'"]
    assert differences({"a": 1, "b": None}, {"a": 1}) == [".b is missing"]
    assert differences({"a": 1}, {"a": True}) == [".a: True instead of 1"]
    assert differences({"updatedAt": "2024-01-01T00:00:00.000Z"}, {"updatedAt": "yesterday"}) != []
