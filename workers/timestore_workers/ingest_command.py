"""`timestore ingest`: sends a file's rows to the service, in batches that can be sent again without doubling."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from timestore_core.errors import InvalidRequest, TimestoreError
from timestore_core.model import FIELD_TYPES, FieldType

if TYPE_CHECKING:
    import pyarrow as pa
    from rich.console import Console
    from rich.progress import Progress

    from timestore_workers.client import Client
    from timestore_workers.files import Layout, ReadOptions, Source

DEFAULT_URL = "http://127.0.0.1:4100"
MAX_BODY_BYTES = 32 * 1024 * 1024
WINDOW_KEY = "window"
WINDOW_DIGITS = {"day": 10, "month": 7, "year": 4}
WIDTHS = {"1s": 1, "1m": 60, "5m": 300, "1h": 3600, "6h": 21_600, "1d": 86_400, "1w": 604_800}
CHECKED_ROWS = 50_000
OTHER_OPTIONS = "\nWas this file sent to this dataset before, with other options? Those of then resume it."
PartitionBy = Literal["day", "month", "year", "none"]


def ingest(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, readable=True, help="The file to send.")],
    dataset: Annotated[str, typer.Option("--dataset", "-d", help="The dataset's slug; made if it is new.")],
    name: Annotated[str | None, typer.Option(help="The dataset's name for people, if it is new.")] = None,
    table: Annotated[str | None, typer.Option(help="The table's name in the partitions.")] = None,
    key: Annotated[list[str] | None, typer.Option(help="Partition key, as site=north. May be given again.")] = None,
    partition_by: Annotated[
        PartitionBy, typer.Option(help="Separate partitions by time, with the key window=2024-01.")
    ] = "none",
    batch_rows: Annotated[int, typer.Option(min=1, max=1_000_000, help="Rows of a batch.")] = 10_000,
    types: Annotated[
        list[str] | None,
        typer.Option("--type", help=f"COLUMN=TYPE, of {', '.join(FIELD_TYPES)}. May be given again."),
    ] = None,
    skip: Annotated[list[str] | None, typer.Option(help="Leave this column out. May be given again.")] = None,
    time_column: Annotated[str | None, typer.Option(help="The column of times, if not found.")] = None,
    time_format: Annotated[
        str | None, typer.Option(help="iso; s, ms, us or ns since 1970; or a pattern: '%d/%m/%Y %H:%M'.")
    ] = None,
    keep_time_name: Annotated[
        bool, typer.Option("--keep-time-name", help="Do not rename the column of times to timestamp.")
    ] = False,
    null: Annotated[list[str] | None, typer.Option(help="This text stands for no value. May be given again.")] = None,
    nan_as_null: Annotated[
        bool, typer.Option("--nan-as-null", help="Send NaN and infinities as NULL instead of refusing them.")
    ] = False,
    file_format: Annotated[
        Literal["csv", "ndjson", "parquet"] | None, typer.Option("--format", help="If the name does not tell.")
    ] = None,
    delimiter: Annotated[str | None, typer.Option(help="Between a CSV file's columns, if no comma.")] = None,
    encoding: Annotated[str, typer.Option(help="Of a CSV file: latin-1, utf-16 …")] = "utf-8",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check the whole file and send nothing.")] = False,
    url: Annotated[str, typer.Option(envvar="TIMESTORE_URL", help="Where the service is.")] = DEFAULT_URL,
    user: Annotated[
        str | None, typer.Option(envvar="TIMESTORE_IAM_USER", help="Who sends: sent as x-iam-user.")
    ] = None,
    scopes: Annotated[
        str | None, typer.Option(envvar="TIMESTORE_IAM_SCOPES", help="Scopes, a,b: sent as x-iam-scopes.")
    ] = None,
    timeout_s: Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds to wait for an answer.")] = 60,
    attempts: Annotated[
        int, typer.Option(min=1, help="Tries of a batch, while the service is away or busy (429, 503).")
    ] = 8,
) -> None:
    """Sends a CSV, NDJSON or Parquet file (also .gz, .bz2, .zst) to a dataset.

    The whole file is checked first: a value that does not fit is named with
    its row and column, and nothing is sent. Types, the column of times and
    its format are found from the first rows; times without a zone are UTC.
    Queries look for times in a column named timestamp, so the column of times
    is sent under that name unless the file has such a column.

    Running the same command again continues where it stopped: each batch has
    a key made of the file's name and content, and the service takes each key
    once.

    Examples:

        timestore ingest weather.csv --dataset weather
        timestore ingest log.ndjson.gz -d requests --partition-by day
        timestore ingest north.csv -d plant --key site=north --type code=string
        timestore ingest data.csv -d plant --null -999 --skip comment
        timestore ingest data.csv -d plant --time-column when \\
            --time-format '%d.%m.%Y %H:%M'
        timestore ingest data.parquet -d plant --dry-run
    """
    from rich.console import Console

    errors = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    sent = _Sent()
    try:
        from timestore_workers.client import Client, retries_told
        from timestore_workers.files import ReadOptions, infer_layout, open_source

        options = ReadOptions(
            format=file_format,
            types=_types(types or []),
            skip=frozenset(skip or []),
            time_column=time_column,
            time_format=time_format,
            keep_time_name=keep_time_name,
            null_texts=tuple(null or []),
            nan_as_null=nan_as_null,
            delimiter=delimiter,
            encoding=encoding,
        )
        plan = _Plan(dataset, name, table, _key(key or [], partition_by), partition_by, batch_rows)
        source = open_source(file, options)
        layout = infer_layout(source, options)
        _describe(layout, errors)
        with _progress(errors) as progress, retries_told(progress.console.print):
            checked = _check(source, layout, options, progress)
            if dry_run:
                errors.print(f"All {checked.rows:,} rows fit. Nothing was sent.")
                return
            with Client(url, user=user, scopes=scopes, timeout_s=timeout_s, attempts=attempts) as client:
                _send(source, layout, options, plan, checked, client, progress, sent)
        typer.echo(_summary(sent, plan, layout, checked, url))
    except (TimestoreError, KeyboardInterrupt) as error:
        errors.print(f"error: {error.message}" if isinstance(error, TimestoreError) else "Stopped.")
        errors.print(sent.standing)
        raise typer.Exit(1) from None


@dataclass(frozen=True, slots=True)
class _Plan:
    dataset: str
    dataset_name: str | None
    table_name: str | None
    key: dict[str, str]
    partition_by: PartitionBy
    batch_rows: int


@dataclass(frozen=True, slots=True)
class _Checked:
    """What reading the whole file has shown; times in microseconds."""

    digest: str
    rows: int
    first_us: int
    last_us: int


@dataclass(slots=True)
class _Sent:
    """What the service has answered for so far."""

    started: float = field(default_factory=time.monotonic)
    batches: int = 0
    rows: int = 0
    replayed: int = 0
    queued: int = 0
    version: int | None = None

    @property
    def seconds(self) -> float:
        return max(time.monotonic() - self.started, 0.001)

    @property
    def rows_per_s(self) -> float:
        return self.rows / self.seconds

    @property
    def standing(self) -> str:
        """Where an end before the end leaves the user."""
        if not self.batches:
            return "Nothing was sent."
        return (
            f"{self.batches:,} batches with {self.rows:,} rows are in. "
            "Running the same command again resumes; nothing is doubled."
        )


def _types(texts: Sequence[str]) -> dict[str, FieldType]:
    found: dict[str, FieldType] = {}
    for text in texts:
        name, _, kind = text.rpartition("=")
        known = next((one for one in FIELD_TYPES if one == kind), None)
        if not name or known is None:
            raise InvalidRequest.at("--type", f'"{text}" is not COLUMN=TYPE with a type of {", ".join(FIELD_TYPES)}')
        found[name] = known
    return found


def _key(texts: Sequence[str], partition_by: PartitionBy) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise InvalidRequest.at("--key", f'"{text}" is not of the form site=north')
        if name == WINDOW_KEY and partition_by != "none":
            raise InvalidRequest.at(
                "--key", f"{WINDOW_KEY} is the key that --partition-by makes; leave out one of them"
            )
        found[name] = value
    return found


def _describe(layout: Layout, errors: Console) -> None:
    column = layout.time
    renamed = f", sent as {column.sent_as} (--keep-time-name keeps the name)" if column.sent_as != column.name else ""
    errors.print(f"Times: {column.name}, format {column.time_format}, UTC where no zone is given{renamed}")
    others = ", ".join(f"{one.sent_as} {one.type}" for one in layout.columns if one is not column)
    errors.print(f"Columns: {others or 'none but the times'}")
    for note in layout.notes:
        errors.print(f"Note: {note}")


def _progress(errors: Console) -> Progress:
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rows]}"),
        TimeRemainingColumn(),
        console=errors,
        disable=not errors.is_terminal,
        transient=True,
    )


def _check(source: Source, layout: Layout, options: ReadOptions, progress: Progress) -> _Checked:
    """Reads the whole file once, so that nothing is sent of a file with a row that does not fit."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from timestore_workers.files import content_hash, read_tables

    task = progress.add_task("hashing", total=source.size_bytes, rows="")
    digest = content_hash(source.path, lambda done: progress.update(task, completed=done))
    progress.reset(task, description="checking", total=source.size_bytes)
    rows = 0
    bounds: list[int] = []
    for table in read_tables(source, layout, options, CHECKED_ROWS):
        rows += table.num_rows
        found = pc.min_max(table[layout.time.sent_as].cast(pa.int64())).as_py()
        bounds = [min([*bounds[:1], found["min"]]), max([*bounds[1:], found["max"]])]
        progress.update(task, completed=source.position, rows=f"{rows:,} rows")
    progress.remove_task(task)
    return _Checked(digest, rows, *bounds)


def _send(
    source: Source, layout: Layout, options: ReadOptions, plan: _Plan, checked: _Checked,
    client: Client, progress: Progress, sent: _Sent,
) -> None:  # fmt: skip
    from timestore_workers.client import ClientError
    from timestore_workers.files import FileError, read_tables

    sent.started = time.monotonic()
    task = progress.add_task("sending", total=checked.rows, rows="")
    for table in read_tables(source, layout, options, plan.batch_rows):
        if source.changed():
            raise FileError(f"{source.path.name}: was changed while it was read; the rest is not sent")
        for part, key in _partitioned(table, layout, plan):
            for rows, body in _bodies(part, layout, plan, key, checked, source.path.name, sent.batches):
                try:
                    answer = client.ingest(plan.dataset, body)
                except ClientError as error:
                    hint = OTHER_OPTIONS if error.status == 409 else ""
                    raise ClientError(f"batch {sent.batches + 1:,}: {error.message}{hint}") from None
                sent.batches += 1
                sent.rows += rows
                sent.replayed += answer.replayed
                sent.queued += answer.queued
                sent.version = max(answer.version or 0, sent.version or 0) or None
                progress.update(task, completed=sent.rows, rows=f"{sent.rows:,} rows, {sent.rows_per_s:,.0f} rows/s")


def _partitioned(table: pa.Table, layout: Layout, plan: _Plan) -> Iterator[tuple[pa.Table, dict[str, str]]]:
    """The table's rows by day, month or year, in order of time, each with its partition key."""
    import pyarrow.compute as pc

    if plan.partition_by == "none":
        yield table, plan.key
        return
    starts = pc.floor_temporal(table[layout.time.sent_as], unit=plan.partition_by)
    for start in pc.unique(starts).sort():
        window = start.as_py().isoformat()[: WINDOW_DIGITS[plan.partition_by]]
        yield table.filter(pc.equal(starts, start)), {**plan.key, WINDOW_KEY: window}


def _bodies(
    table: pa.Table, layout: Layout, plan: _Plan, key: dict[str, str],
    checked: _Checked, file_name: str, number: int,
) -> Iterator[tuple[int, bytes]]:  # fmt: skip
    """Rows and ingest body of the table, or of its halves where the body is larger than the service takes."""
    from timestore_workers.client import ingest_body

    body = ingest_body(
        table,
        layout,
        table_name=plan.table_name,
        dataset_name=plan.dataset_name,
        key=key,
        idempotency_key=f"{file_name[:100]}-{checked.digest}-{number + 1:06d}",
    )
    if len(body) <= MAX_BODY_BYTES or table.num_rows == 1:
        yield table.num_rows, body
        return
    middle = table.num_rows // 2
    for half in (table.slice(0, middle), table.slice(middle)):
        for part in _bodies(half, layout, plan, key, checked, file_name, number):
            yield part
            number += 1


def _summary(sent: _Sent, plan: _Plan, layout: Layout, checked: _Checked, url: str) -> str:
    version = "" if sent.version is None else f", version {sent.version}"
    lines = [
        f"Sent {sent.rows:,} rows in {sent.seconds:.1f} s ({sent.rows_per_s:,.0f} rows/s) "
        f"to dataset {plan.dataset}{version}."
    ]
    if sent.replayed:
        lines.append(f"{sent.replayed:,} of {sent.batches:,} batches were in before and were not added again.")
    if sent.queued:
        lines.append(f"{sent.queued:,} of {sent.batches:,} batches are queued and appear when a worker has done them.")
    span_s = (checked.last_us - checked.first_us) / 1_000_000
    every = next((text for text, width_s in WIDTHS.items() if span_s / width_s <= 48), "1mo")
    numbers = (one.sent_as for one in layout.columns if one.type in ("double", "integer"))
    number = next(numbers, None)
    words = ["timestore", "query", plan.dataset, "--every", every, "--agg", f"avg:{number}" if number else "count"]
    words += ["--time-column", layout.time.sent_as] if layout.time.sent_as != "timestamp" else []
    words += ["--url", url] if url != DEFAULT_URL else []
    lines.append(f"Try: {shlex.join(words)}")
    return "\n".join(lines)
