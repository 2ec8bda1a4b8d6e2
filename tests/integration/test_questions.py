"""Every kind of question, held against plain SQL over one plain DuckDB table of the same rows."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import datetime
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
