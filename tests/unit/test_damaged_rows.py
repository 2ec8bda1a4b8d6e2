"""Bodies with flipped bytes and other texts than announced: an error of ours, and nothing else, ever."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from timestore_core.errors import TimestoreError
from timestore_core.ingest.formats import READERS
from timestore_core.ingest.limits import Limits
from timestore_core.ingest.line_protocol.body import parse_lines
from timestore_core.settings import Settings

LIMITS = Limits(Settings())
ROWS = 300
TABLE = pa.table(
    {
        "timestamp": pa.array(range(ROWS), pa.timestamp("us")),
        "text": pa.array([f"text {number}" if number % 7 else None for number in range(ROWS)]),
        "tag": pa.array([f"tag {number % 5}" for number in range(ROWS)]).dictionary_encode(),
        "large": pa.array([f"large {number}" for number in range(ROWS)], pa.large_string()),
        "double": pa.array([number * 1.5 for number in range(ROWS)]),
        "integer": pa.array(range(ROWS)),
        "boolean": pa.array([number % 2 == 0 for number in range(ROWS)]),
    }
)


def arrow(compression: str | None) -> bytes:
    sink = io.BytesIO()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_stream(sink, TABLE.schema, options=options) as writer:
        writer.write_table(TABLE, max_chunksize=100)
    return sink.getvalue()


def parquet(**options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(TABLE, sink, **options)
    return sink.getvalue()


CSV = b'timestamp,n,s\n2024-01-01T00:00:00Z,1,"a ""quoted"" text"\n2024-01-02T00:00:00Z,,x\n' * 5
NDJSON = b'{"timestamp": "2024-01-01T00:00:00Z", "n": 1, "s": "a \\"text\\""}\n{"timestamp": null, "n": 2.5}\n' * 5
LINES = b'm,t=a f=1,g=2i 1000\nm,t=b f=1.5,g=3i 2000\nm s="a \\"text\\"",b=t\n# comment\n' * 20
BODIES: list[tuple[str, Callable[[], bytes]]] = [
    ("application/vnd.apache.arrow.stream", lambda: arrow(None)),
    ("application/vnd.apache.arrow.stream", lambda: arrow("zstd")),
    ("application/vnd.apache.arrow.stream", lambda: arrow("lz4")),
    ("application/vnd.apache.parquet", parquet),
    ("application/vnd.apache.parquet", lambda: parquet(compression="zstd", data_page_version="2.0")),
    ("application/vnd.apache.parquet", lambda: parquet(compression="none", use_dictionary=False)),
    ("text/csv", lambda: CSV),
    ("application/x-ndjson", lambda: NDJSON),
]


def damaged(body: bytes, chance: random.Random) -> bytes:
    """The body with up to four bytes changed, most often where its headers and footers are; seldom cut short."""
    changed = bytearray(body)
    for _ in range(chance.randint(1, 4)):
        near = chance.randrange(min(1500, len(body)))
        place = chance.choice([chance.randrange(len(body)), near, len(body) - 1 - near])
        changed[place] = chance.choice([0, 255, 127, 128, 34, 10, chance.randrange(256)])
    return bytes(changed[: chance.randrange(len(body))] if chance.random() < 0.05 else changed)


@pytest.mark.parametrize(("media_type", "make"), BODIES)
def test_a_damaged_body_is_read_or_refused(media_type: str, make: Callable[[], bytes]) -> None:
    body, chance = make(), random.Random(7)
    READERS[media_type](body, {}, LIMITS)
    refused = 0
    for _ in range(150):
        try:
            READERS[media_type](damaged(body, chance), {}, LIMITS)
        except TimestoreError:
            refused += 1

    assert refused > 0


def test_damaged_lines_are_read_or_named() -> None:
    chance = random.Random(7)
    bad = [parse_lines(damaged(LINES, chance), 1, 0, 10_000).bad.count for _ in range(300)]

    assert sum(bad) > 0
