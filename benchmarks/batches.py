"""The measured data: six columns, one row a second, made from a fixed seed."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime, timedelta

FIRST = datetime(2024, 1, 1, tzinfo=UTC)
FIELDS = {
    "timestamp": "timestamp",
    "host": "string",
    "temperature_c": "double",
    "humidity": "double",
    "requests": "integer",
    "ok": "boolean",
}


def ingest_body(rows: int, *, host: int = 0, hosts: int = 1) -> bytes:
    """A batch as JSON: `rows` rows of one host. The hosts take turns, so that their batches overlap in time."""
    source = random.Random(host)
    times = [_text(FIRST + timedelta(seconds=host + hosts * index)) for index in range(rows)]
    body = {
        "schema": {"fields": [{"name": name, "type": type_} for name, type_ in FIELDS.items()]},
        "partition": {"key": {"host": f"host-{host:04}"}, "timeRange": {"start": times[0], "end": times[-1]}},
        "rows": [
            {
                "timestamp": time,
                "host": f"host-{host:04}",
                "temperature_c": round(source.uniform(-10, 40), 2),
                "humidity": round(source.uniform(0, 100), 3),
                "requests": source.randrange(100_000),
                "ok": source.random() < 0.9,
            }
            for time in times
        ],
    }
    return json.dumps(body, separators=(",", ":")).encode()


def _text(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z")
