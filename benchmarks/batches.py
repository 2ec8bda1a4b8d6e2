"""The measured data: six columns made from a fixed seed, as JSON a row a second of one host, as columns of many."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa

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


def ingest_table(rows: int, *, hosts: int = 100) -> pa.Table:
    """A batch as columns: at each second a row of each host."""
    source = np.random.default_rng(0)
    names = pa.array([f"host-{number:04}" for number in range(hosts)])
    micros = (np.arange(rows, dtype=np.int64) // hosts + int(FIRST.timestamp())) * 1_000_000
    return pa.table(
        {
            "timestamp": pa.array(micros, pa.timestamp("us", tz="UTC")),
            "host": names.take(pa.array(np.arange(rows) % hosts)),
            "temperature_c": np.round(source.uniform(-10, 40, rows), 2),
            "humidity": np.round(source.uniform(0, 100, rows), 3),
            "requests": source.integers(0, 100_000, rows),
            "ok": pa.array(source.random(rows) < 0.9),
        }
    )


def _text(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z")
