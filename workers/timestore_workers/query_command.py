"""`timestore query`: asks the service for rows or for buckets, and shows them."""

from __future__ import annotations

import json
import re
import sys
from calendar import monthrange
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import IO, TYPE_CHECKING, Annotated, Any, Literal

import typer

from timestore_core.errors import InvalidRequest, TimestoreError
from timestore_core.times import format_time, from_us, parse_time_us
from timestore_workers.service_url import DEFAULT_URL

if TYPE_CHECKING:
    from rich.console import Console

BEGINNING = "0001-01-01T00:00:00.000Z"
END = "9999-12-31T23:59:59.999999Z"
DAY_US = 86_400_000_000
UNITS = {"s": "second", "m": "minute", "h": "hour", "d": "day", "w": "week", "mo": "month"}
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
FUNCTIONS = ("avg", "min", "max", "sum", "median", "count", "count_distinct", "percentile")
SHOWN_ROWS = 40
SHOWN_CELL = 32


def query(
    slug: Annotated[str, typer.Argument(metavar="DATASET", help="The dataset's slug.")],
    start: Annotated[
        str | None, typer.Option("--from", help="First time, inclusive: 2024-01-01 or 2024-01-01T06:00Z.")
    ] = None,
    end: Annotated[str | None, typer.Option("--to", help="Last time, inclusive; a day alone means all of it.")] = None,
    last: Annotated[str | None, typer.Option(help="Up to now, from so long ago: 30s, 15m, 6h, 7d, 2w, 3mo.")] = None,
    columns: Annotated[str | None, typer.Option(help="Only these columns: a,b,c.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many rows, the earliest.")] = None,
    every: Annotated[
        str | None, typer.Option(help="Buckets of this width: 30s, 5m, 1h, 1d, 1w, 1mo. Without --agg: counts.")
    ] = None,
    agg: Annotated[
        list[str] | None,
        typer.Option(help="FUNCTION:COLUMN for each bucket of --every; see below. May be given again."),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(help="Only partitions whose key has one of these values: window=2024-01,2024-02."),
    ] = None,
    time_column: Annotated[str, typer.Option(help="The dataset's column of times.")] = "timestamp",
    output: Annotated[
        Literal["table", "csv", "json"] | None,
        typer.Option("--format", help="Default: table on a terminal, else csv. csv and json are complete."),
    ] = None,
    url: Annotated[str, typer.Option(envvar="TIMESTORE_URL", help="Where the service is.")] = DEFAULT_URL,
    user: Annotated[str | None, typer.Option(envvar="TIMESTORE_IAM_USER", help="Who asks: sent as x-iam-user.")] = None,
    scopes: Annotated[
        str | None, typer.Option(envvar="TIMESTORE_IAM_SCOPES", help="Scopes, a,b: sent as x-iam-scopes.")
    ] = None,
    timeout_s: Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds to wait for an answer.")] = 60,
    attempts: Annotated[int, typer.Option(min=1, help="Tries, while the service is away or busy (429, 503).")] = 3,
) -> None:
    """Shows a dataset's rows, or what they come to in each hour, day or month.

    Without --from, --to or --last the whole time is meant. Times without a
    zone are UTC.

    FUNCTION is avg, min, max, sum, median, count, count_distinct, or a
    percentile: p95:latency, p99.9:latency or percentile:0.95:latency. count
    alone counts rows. NAME=FUNCTION:COLUMN names the result.

    Examples:

        timestore query weather --limit 10
        timestore query weather --from 2012-06-01 --to 2012-06-30 --columns wind
        timestore query weather --every 1mo --agg avg:temp_max --agg count
        timestore query weather --every 1w --agg rain=sum:precipitation
        timestore query requests --last 6h --every 5m --agg p95:latency
        timestore query weather --where window=2012-01,2012-02 --format csv
        timestore query weather --format json | jq '.rows | length'
    """
    from rich.console import Console

    errors = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    try:
        body = query_body(
            start=start, end=end, last=last, columns=columns, limit=limit,
            every=every, agg=agg or [], where=where or [], time_column=time_column,
        )  # fmt: skip
        from timestore_workers.client import Client, retries_told

        with (
            retries_told(errors.print),
            Client(url, user=user, scopes=scopes, timeout_s=timeout_s, attempts=attempts) as client,
        ):
            answer = client.query(slug, body)
        _show(answer, output or ("table" if sys.stdout.isatty() else "csv"), errors)
    except TimestoreError as error:
        errors.print(f"error: {error.message}")
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        errors.print("Stopped.")
        raise typer.Exit(1) from None


def query_body(
    *,
    start: str | None,
    end: str | None,
    last: str | None,
    columns: str | None,
    limit: int | None,
    every: str | None,
    agg: Sequence[str],
    where: Sequence[str],
    time_column: str,
) -> dict[str, Any]:
    """The contract's query body. Raises InvalidRequest, whose path is the option that is wrong."""
    if last is not None and (start is not None or end is not None):
        raise InvalidRequest.at("--last", "ends now and cannot be given with --from or --to")
    if last is not None:
        now = datetime.now(UTC)
        first, final = format_time(_before(now, last)), format_time(now)
    else:
        first = BEGINNING if start is None else _time("--from", start)
        final = END if end is None else _time("--to", end, whole_day=True)
    body: dict[str, Any] = {"timeRange": {"start": first, "end": final}, "timestampColumn": time_column}
    if columns is not None:
        body["columns"] = [name.strip() for name in columns.split(",") if name.strip()]
    if limit is not None:
        body["limit"] = limit
    if where:
        accepted: dict[str, list[str]] = {}
        for text in where:
            key, equals, values = text.partition("=")
            if not key or not equals:
                raise InvalidRequest.at("--where", f'"{text}" is not of the form window=2024-01,2024-02')
            accepted.setdefault(key, []).extend(values.split(","))
        body["filters"] = {"partitionKey": accepted}
    if every is not None:
        size, unit = _interval("--every", every)
        aggregations = [aggregation(text) for text in agg or ["count"]]
        body["downsample"] = {
            "intervalUnit": UNITS[unit], "intervalSize": size, "aggregations": aggregations
        }  # fmt: skip
    elif agg:
        raise InvalidRequest.at("--agg", "needs the width of the buckets: give --every, such as --every 1d")
    return body


def aggregation(text: str) -> dict[str, Any]:
    """One `--agg` as the contract writes it. Raises InvalidRequest."""
    alias, equals, rest = text.partition("=")
    if not equals or ":" in alias:
        alias, rest = "", text
    function, _, column = rest.partition(":")
    found: dict[str, Any] = {"fn": function}
    percent = re.fullmatch(r"p(\d{1,3}(?:\.\d+)?)", function)
    if percent is not None:
        found = {"fn": "percentile", "percentile": float(Decimal(percent[1]) / 100)}
        if "." in percent[1] and not alias:
            alias = f"{function}_{column}"
    elif function == "percentile":
        share, _, column = column.partition(":")
        found["percentile"] = float(share) if re.fullmatch(r"\d*\.?\d+", share, re.ASCII) else -1.0
    elif function not in FUNCTIONS:
        raise InvalidRequest.at("--agg", f'"{text}": there is no {function}; there are {", ".join(FUNCTIONS)}, p95')
    if not 0 <= found.get("percentile", 0) <= 1:
        raise InvalidRequest.at("--agg", f'"{text}": a percentile is p0 to p100, or percentile:0.95:COLUMN')
    if column:
        found["column"] = column
    elif function != "count":
        raise InvalidRequest.at("--agg", f'"{text}": {function} needs a column, as in {function}:temperature')
    return {**found, "alias": alias} if alias else found


def _interval(option: str, text: str) -> tuple[int, str]:
    match = re.fullmatch(r"([1-9]\d{0,8})(s|mo|m|h|d|w)", text, re.ASCII)
    if match is None:
        raise InvalidRequest.at(option, f'"{text}" is not a duration such as 30s, 5m, 1h, 1d, 1w or 1mo')
    return int(match[1]), match[2]


def _before(now: datetime, text: str) -> datetime:
    size, unit = _interval("--last", text)
    try:
        if unit != "mo":
            return now - timedelta(seconds=size * SECONDS[unit])
        year, month = divmod(now.year * 12 + now.month - 1 - size, 12)
        # The 31st of a shorter month is its last day.
        day = min(now.day, monthrange(year, month + 1)[1])
        return now.replace(year=year, month=month + 1, day=day)
    except (ValueError, OverflowError):
        raise InvalidRequest.at("--last", f'"{text}" goes back before the year 1') from None


def _time(option: str, text: str, *, whole_day: bool = False) -> str:
    try:
        us = parse_time_us(text)
    except ValueError as error:
        raise InvalidRequest.at(option, f'"{text}" {error}') from None
    return format_time(from_us(us + DAY_US - 1 if whole_day and len(text) == 10 else us))


class _Number(str):
    """A JSON number with the digits that the service wrote."""

    __slots__ = ()


def _show(answer: bytes, output: str, errors: Console) -> None:
    if output == "json":
        typer.echo(answer)
        return
    content = json.loads(answer, parse_int=_Number, parse_float=_Number)
    names, rows = content["columns"], content["rows"]
    if output == "csv":
        _write_csv(sys.stdout, names, rows)
    else:
        _print_table(names, rows, errors)


def _write_csv(file: IO[str], names: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """RFC 4180, where NULL is an empty field and an empty string is `""`, as `timestore ingest` reads them."""

    def written(value: Any) -> str:
        text = _text(value)
        # The csv module writes NULL and the empty string alike.
        empty = value is not None and text == ""
        return '"' + text.replace('"', '""') + '"' if empty or re.search('[",\r\n]', text) else text

    file.write(",".join(map(written, names)) + "\n")
    for row in rows:
        file.write(",".join(written(row.get(name)) for name in names) + "\n")


def _text(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False)


def _print_table(names: Sequence[str], rows: Sequence[Mapping[str, Any]], errors: Console) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    head = rows if len(rows) <= SHOWN_ROWS else rows[: SHOWN_ROWS // 2]
    tail = [] if len(rows) <= SHOWN_ROWS else rows[-SHOWN_ROWS // 2 :]
    shown: list[str] = []
    width = 1
    for name in names:
        cells = [name, *(_text(row.get(name)) for row in [*head, *tail])]
        width += min(max(map(len, cells)), SHOWN_CELL) + 3
        if shown and width > console.width:
            break
        shown.append(name)
    table = Table()
    for name in shown:
        number = any(isinstance(row.get(name), _Number) for row in head)
        table.add_column(Text(name), justify="right" if number else "left", no_wrap=True, max_width=SHOWN_CELL)
    for place, row in enumerate([*head, *tail]):
        if tail and place == len(head):
            table.add_row(*("⋮" for _ in shown))
        table.add_row(*(Text("null", "dim") if row.get(name) is None else Text(_text(row[name])) for name in shown))
    console.print(table)
    notes = [f"{len(rows):,} row{'' if len(rows) == 1 else 's'}"]
    if tail:
        notes.append(f"the first and last {SHOWN_ROWS // 2} shown")
    if len(shown) < len(names):
        notes.append(f"columns not shown: {', '.join(names[len(shown) :])}")
    if len(notes) > 1:
        notes.append("--format csv or json gives everything")
    errors.print("; ".join(notes))
