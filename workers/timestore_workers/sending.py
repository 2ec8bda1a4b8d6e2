"""Sends a file's rows to the service, in batches whose keys let each be sent again without doubling."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from timestore_core.times import format_time, from_us
from timestore_workers.files import FileError, ReadOptions, Source, content_hash, read_tables
from timestore_workers.layout import Layout

if TYPE_CHECKING:
    import pyarrow as pa
    from rich.progress import Progress

    from timestore_workers.client import Client, IngestAnswer

MAX_BODY_BYTES = 32 * 1024 * 1024
CHECKED_ROWS = 50_000
WINDOW_KEY = "window"
WINDOW_DIGITS = {"day": 10, "month": 7, "year": 4}
OTHER_OPTIONS = "\nWas this file sent to this dataset before, with other options? Those of then resume it."
PartitionBy = Literal["day", "month", "year", "none"]


@dataclass(frozen=True, slots=True)
class Plan:
    """Where the rows go, and in which batches. `key` is the partition key without the window of time."""

    dataset: str
    dataset_name: str | None
    table_name: str | None
    key: Mapping[str, str]
    partition_by: PartitionBy
    batch_rows: int


@dataclass(frozen=True, slots=True)
class Checked:
    """What reading the whole file has shown; times in microseconds."""

    digest: str
    rows: int
    first_us: int
    last_us: int


@dataclass(slots=True)
class Sent:
    """What the service has answered for so far."""

    started: float = 0.0
    batches: int = 0
    rows: int = 0
    replayed: int = 0
    queued: int = 0
    version: int | None = None

    @property
    def seconds(self) -> float:
        """Since the sending began."""
        return max(time.monotonic() - self.started, 0.001)

    @property
    def rows_per_s(self) -> float:
        """On average since the sending began."""
        return self.rows / self.seconds

    def add(self, rows: int, answer: IngestAnswer) -> None:
        """Counts a batch of so many rows."""
        self.batches += 1
        self.rows += rows
        self.replayed += answer.replayed
        self.queued += answer.queued
        self.version = max(answer.version or 0, self.version or 0) or None


def check(source: Source, layout: Layout, options: ReadOptions, progress: Progress) -> Checked:
    """Reads the whole file once, so that nothing is sent of a file with a row that does not fit: FileError."""

    task = progress.add_task("hashing", total=source.size_bytes, rows="")
    digest = content_hash(source.path, lambda done: progress.update(task, completed=done))
    progress.reset(task, description="checking", total=source.size_bytes)
    rows, bounds_us = 0, set[int]()
    for table in read_tables(source, layout, options, CHECKED_ROWS):
        rows += table.num_rows
        bounds_us.update(_bounds_us(table, layout))
        progress.update(task, completed=source.position, rows=f"{rows:,} rows")
    progress.remove_task(task)
    return Checked(digest, rows, min(bounds_us), max(bounds_us))


def send(
    source: Source, layout: Layout, options: ReadOptions, plan: Plan, checked: Checked,
    client: Client, progress: Progress, sent: Sent,
) -> None:  # fmt: skip
    """Sends all rows and counts them in `sent`, which holds after an error too.

    A body larger than the service takes is halved. Raises ClientError for a batch that the service does not
    take, and FileError when the file changes meanwhile.
    """
    sent.started = time.monotonic()
    task = progress.add_task("sending", total=checked.rows, rows="")
    for table in read_tables(source, layout, options, plan.batch_rows):
        if source.changed():
            raise FileError(f"{source.path.name}: was changed while it was read; the rest is not sent")
        parts = deque(_partitioned(table, layout, plan))
        while parts:
            part, key = parts.popleft()
            body = ingest_body(
                part,
                layout,
                table_name=plan.table_name,
                dataset_name=plan.dataset_name,
                key=key,
                idempotency_key=f"{source.path.name[:100]}-{checked.digest}-{sent.batches + 1:06d}",
            )
            if len(body) > MAX_BODY_BYTES and part.num_rows > 1:
                middle = part.num_rows // 2
                parts.extendleft([(part.slice(middle), key), (part.slice(0, middle), key)])
                continue
            sent.add(part.num_rows, _answer(client, plan.dataset, body, sent.batches + 1))
            progress.update(task, completed=sent.rows, rows=f"{sent.rows:,} rows, {sent.rows_per_s:,.0f} rows/s")


def ingest_body(
    table: pa.Table,
    layout: Layout,
    *,
    table_name: str | None,
    dataset_name: str | None,
    key: Mapping[str, str],
    idempotency_key: str,
) -> bytes:
    """The contract's ingest body of a table from `read_tables`; integers keep all digits, times microseconds."""
    import msgspec
    import pyarrow as pa
    import pyarrow.compute as pc

    columns: list[Sequence[Any]] = []
    for values in table.columns:
        if pa.types.is_timestamp(values.type):
            texts = pc.replace_substring(values.cast(pa.string()), " ", "T")
            values = pc.binary_join_element_wise(texts, "Z", "")
        columns.append(values.to_pylist())
    start_us, end_us = _bounds_us(table, layout)
    names = table.column_names
    body = {
        "datasetName": dataset_name,
        "tableName": table_name,
        "schema": {"fields": [{"name": one.sent_as, "type": one.type} for one in layout.columns]},
        "partition": {
            "key": key,
            "timeRange": {"start": format_time(from_us(start_us)), "end": format_time(from_us(end_us))},
        },
        "idempotencyKey": idempotency_key,
        "rows": [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)],
    }
    return msgspec.json.encode({name: value for name, value in body.items() if value is not None})


def _partitioned(table: pa.Table, layout: Layout, plan: Plan) -> Iterator[tuple[pa.Table, Mapping[str, str]]]:
    """The table's rows by day, month or year, in order of time, each with its partition key."""
    import pyarrow.compute as pc

    if plan.partition_by == "none":
        yield table, plan.key
        return
    starts = pc.floor_temporal(table[layout.time.sent_as], unit=plan.partition_by)
    for start in pc.unique(starts).sort():
        window = start.as_py().isoformat()[: WINDOW_DIGITS[plan.partition_by]]
        yield table.filter(pc.equal(starts, start)), {**plan.key, WINDOW_KEY: window}


def _bounds_us(table: pa.Table, layout: Layout) -> tuple[int, int]:
    """The first and the last time, in microseconds since 1970."""
    import pyarrow as pa
    import pyarrow.compute as pc

    bounds = pc.min_max(table[layout.time.sent_as].cast(pa.int64())).as_py()
    return bounds["min"], bounds["max"]


def _answer(client: Client, dataset: str, body: bytes, number: int) -> IngestAnswer:
    from timestore_workers.client import ClientError

    try:
        return client.ingest(dataset, body)
    except ClientError as error:
        hint = OTHER_OPTIONS if error.status == 409 else ""
        raise ClientError(f"batch {number:,}: {error.message}{hint}") from None
