"""`timestore lifecycle` and `timestore verify`: maintenance by hand, with something to look at meanwhile."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from timestore_workers.console import err, explained, fail, out

if TYPE_CHECKING:
    from timestore_core.lifecycle.operation import Progress as Told
    from timestore_core.model import Dataset
    from timestore_core.runtime import Runtime

# Named here so that `--help` needs no engine; the worker refuses what it does not know.
ALL_OPERATIONS = "retention,compaction,tiering,parquetExport,collection,verification"

lifecycle = typer.Typer(
    name="lifecycle", help="Compaction, retention, export and tidying up, by hand.", no_args_is_help=True
)

DatasetName = Annotated[str, typer.Argument(help="The dataset's slug or id.", metavar="DATASET")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Change nothing; say what would be done.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]


@lifecycle.command("run")
def run(
    dataset: DatasetName,
    operations: Annotated[str, typer.Option(help="Comma-separated.")] = ALL_OPERATIONS,
    once: Annotated[bool, typer.Option("--once", help="Run once and end, which is what it does anyway.")] = True,
    dry_run: DryRun = False,
    force: Annotated[bool, typer.Option("--force", help="Export again before the interval is over.")] = False,
    as_json: AsJson = False,
) -> None:
    """Maintain one dataset now. May be stopped and run again at any time; status 1 when an operation failed."""
    del once
    from uuid import uuid4

    from timestore_core.admin.datasets import find
    from timestore_core.lifecycle.operation import Maintenance
    from timestore_core.lifecycle.runs import OPERATIONS, Request, maintain

    names = [name.strip() for name in operations.split(",") if name.strip()]
    unknown = [name for name in names if name not in OPERATIONS]
    if unknown or not names:
        fail(f"--operations: {unknown[0] if unknown else 'nothing'} is unknown; there are {', '.join(OPERATIONS)}")
    with explained(), command_runtime() as runtime, shown_progress(quiet=as_json) as progress:
        found = find(runtime, dataset)
        maintenance = Maintenance(runtime, found, "manual", dry_run=dry_run, force=force, progress=progress)
        report = maintain(maintenance, Request(names, str(uuid4())))
    if as_json:
        typer.echo(json.dumps(report.to_json(), indent=2, ensure_ascii=False))
    else:
        for one in report.operations:
            out.print(_line(one), highlight=False, markup=False, soft_wrap=True)
    raise typer.Exit(1 if report.status == "failed" else 0)


@lifecycle.command("sweep")
def sweep(dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Tidy up what belongs to no dataset: deleted ones past their grace period, leftovers of crashes, old rows."""
    from timestore_core.lifecycle.sweep import sweep_storage

    with explained(), command_runtime() as runtime:
        swept = sweep_storage(runtime, dry_run=dry_run)
    if swept is None:
        fail("another process is sweeping just now")
    if as_json:
        typer.echo(json.dumps(swept.to_json(), indent=2, ensure_ascii=False))
    else:
        word = "would delete" if dry_run else "deleted"
        out.print(f"{word} {swept.files} files ({swept.bytes:,} bytes), {len(swept.datasets)} deleted datasets")
        for one in swept.leftovers:
            if one.files and one.reason:
                out.print(f"{one.target.name}: {len(one.files)} unknown files stay: {one.reason}", highlight=False)
        if swept.refusal:
            out.print(swept.refusal, highlight=False)
    raise typer.Exit(1 if swept.refusal else 0)


def verify(
    dataset: Annotated[str | None, typer.Argument(help="Slug or id; without one, every active dataset.")] = None,
    deep: Annotated[bool, typer.Option("--deep", help="Read every byte: checksums, rows, statistics.")] = False,
    repair: Annotated[bool, typer.Option("--repair", help="Mend what can be mended without losing data.")] = False,
    as_json: AsJson = False,
) -> None:
    """Hold the catalog against storage, and storage against the catalog. Status 1 when data is missing or wrong."""
    from timestore_core.admin.datasets import find
    from timestore_core.lifecycle.operation import Maintenance
    from timestore_core.lifecycle.runs import active_datasets
    from timestore_core.lifecycle.verification import Verified
    from timestore_core.lifecycle.verification import verify as look

    found: list[tuple[Dataset, Verified]] = []
    with explained(), command_runtime() as runtime, shown_progress(quiet=as_json) as progress:
        chosen = active_datasets(runtime) if dataset is None else [find(runtime, dataset)]
        for one in chosen:
            maintenance = Maintenance(runtime, one, "manual", progress=progress)
            found.append((one, look(maintenance, deep=deep, repair=repair)))
    if as_json:
        shown = [{"datasetId": one.id, "datasetSlug": one.slug, **verified.to_json()} for one, verified in found]
        typer.echo(json.dumps(shown, indent=2, ensure_ascii=False))
    else:
        for one, verified in found:
            _show(one.slug, verified.to_json())
    raise typer.Exit(0 if all(verified.is_whole for _, verified in found) else 1)


@contextmanager
def command_runtime() -> Iterator[Runtime]:
    """A runtime for a command: logs only what is worth a look, and to standard error."""
    from timestore_http.logs import configure_logs

    from timestore_core.plugins import load_plugins
    from timestore_core.runtime import Runtime
    from timestore_core.settings import load_settings
    from timestore_workers.serve import prepare

    os.environ.setdefault("TIMESTORE_LOG_LEVEL", "error")
    os.environ.setdefault("TIMESTORE_LOG_FORMAT", "console")
    settings = load_settings()
    configure_logs(settings.log_level, settings.log_format, sys.stderr)
    prepare()
    runtime = Runtime(settings, load_plugins())
    try:
        yield runtime
    finally:
        runtime.close()


@contextmanager
def shown_progress(*, quiet: bool) -> Iterator[Told]:
    """Bars on standard error, one an operation, where somebody can see them."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True, disable=quiet or not err.is_terminal) as bars:
        tasks: dict[str, Any] = {}

        def tell(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield tell


def _line(one: Mapping[str, Any]) -> str:
    counted = f"{one['partitions']:,} partitions, {one['bytes']:,} bytes" if "partitions" in one else ""
    parts = [one.get("message"), counted if one["status"] != "skipped" else None]
    return f"{one['operation']}: {one['status']}" + "".join(f"; {part}" for part in parts if part)


def _show(slug: str, verified: dict[str, Any]) -> None:
    state = "[green]whole[/]" if verified["isWhole"] else "[bold red]not whole[/]"
    size = f"{verified['partitions']:,} partitions, {verified['rows']:,} rows, {verified['bytes']:,} bytes"
    out.print(f"{slug}: {state}; {size}", highlight=False)
    for one in verified["findings"]:
        out.print(f"  {one['kind']}: {one['message']}", highlight=False, markup=False, soft_wrap=True)
    for text in verified["repaired"]:
        out.print(f"  repaired: {text}", highlight=False, markup=False, soft_wrap=True)
