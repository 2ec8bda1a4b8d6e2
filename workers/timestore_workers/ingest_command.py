"""`timestore ingest`: sends a file's rows to the service, in batches that can be sent again without doubling."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from timestore_core.errors import InvalidRequest, TimestoreError
from timestore_core.model import FIELD_TYPES, FieldType
from timestore_workers.files import FileFormat, ReadOptions
from timestore_workers.layout import Layout, infer_layout
from timestore_workers.sending import WINDOW_KEY, Checked, PartitionBy, Plan, Sent, check, send
from timestore_workers.service_url import DEFAULT_URL
from timestore_workers.sources import open_source

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

WIDTHS = {"1s": 1, "1m": 60, "5m": 300, "1h": 3600, "6h": 21_600, "1d": 86_400, "1w": 604_800}


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
    file_format: Annotated[FileFormat | None, typer.Option("--format", help="If the name does not tell.")] = None,
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
    sent = Sent()
    try:
        from timestore_workers.client import Client, retries_told

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
        plan = Plan(dataset, name, table, _key(key or [], partition_by), partition_by, batch_rows)
        source = open_source(file, options)
        layout = infer_layout(source, options)
        _describe(layout, errors)
        with _progress(errors) as progress, retries_told(progress.console.print):
            checked = check(source, layout, options, progress)
            if dry_run:
                errors.print(f"All {checked.rows:,} rows fit. Nothing was sent.")
                return
            with Client(url, user=user, scopes=scopes, timeout_s=timeout_s, attempts=attempts) as client:
                send(source, layout, options, plan, checked, client, progress, sent)
        typer.echo(_summary(sent, plan, layout, checked, url))
    except (TimestoreError, KeyboardInterrupt) as error:
        errors.print(f"error: {error.message}" if isinstance(error, TimestoreError) else "Stopped.")
        errors.print(_standing(sent))
        raise typer.Exit(1) from None


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


def _standing(sent: Sent) -> str:
    """Where an end before the end leaves the user."""
    if not sent.batches:
        return "Nothing was sent."
    return (
        f"{sent.batches:,} batches with {sent.rows:,} rows are in. "
        "Running the same command again resumes; nothing is doubled."
    )


def _summary(sent: Sent, plan: Plan, layout: Layout, checked: Checked, url: str) -> str:
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
