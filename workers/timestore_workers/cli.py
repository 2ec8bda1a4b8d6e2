"""`timestore` on the command line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from timestore_core import __version__
from timestore_workers.backup_command import backup, restore
from timestore_workers.console import explained, out
from timestore_workers.ingest_command import ingest
from timestore_workers.lifecycle_command import ALL_OPERATIONS, lifecycle, verify
from timestore_workers.query_command import query
from timestore_workers.storage_command import storage

app = typer.Typer(
    name="timestore",
    help="A time-series warehouse over files that you own. `timestore dev` is the quickest way to see it work.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_show_locals=False,
)


def _show_version(asked: bool) -> None:
    if asked:
        out.print(f"timestore {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    del version


@app.command()
def dev(
    home: Annotated[
        Path, typer.Option(envvar="TIMESTORE_HOME", help="Where the embedded PostgreSQL and the files live.")
    ] = Path(".timestore"),
    queue: Annotated[
        bool, typer.Option("--queue", help="Also start an embedded Valkey and both workers; ingest answers 202 then.")
    ] = False,
) -> None:
    """Start everything for a first try: an embedded PostgreSQL, the server, and a sample series to query.

    Needs no PostgreSQL and no Redis. The data stays in TIMESTORE_HOME until you delete that directory.
    """
    from timestore_workers.dev import run_dev

    with explained():
        raise typer.Exit(run_dev(home, queue=queue))


@app.command()
def serve() -> None:
    """Migrate the catalog, then serve HTTP under gunicorn.

    Configured by the environment: at least TIMESTORE_DATABASE_URL, and REDIS_URL=inline or a Redis. `timestore
    settings` lists every variable, `timestore doctor` checks them.
    """
    from timestore_workers.serve import serve as run

    with explained():
        run()


@app.command()
def migrate(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would be applied.")] = False,
) -> None:
    """Bring the catalog's schema in TIMESTORE_DATABASE_URL up to date. `serve` does this by itself."""
    from timestore_core.catalog import migrate as migrations
    from timestore_core.settings import load_settings

    with explained():
        names = migrations.pending(load_settings()) if dry_run else migrations.migrate(load_settings())
    for name in names:
        out.print(f"{'would apply' if dry_run else 'applied'} {name}", highlight=False)
    if not names:
        out.print("nothing to do: the schema is up to date")


@app.command()
def plugins() -> None:
    """Show which plugins are loaded, what they give, and which are broken and why. Status 1 if any is broken."""
    from rich.table import Table

    from timestore_core.plugins import load_plugins

    host = load_plugins()
    table = Table("plugin", "distribution", "status", "gives")
    for report in host.reports:
        status = "[green]loaded[/]" if report.status == "loaded" else "[red]broken[/]"
        gives = ", ".join(report.gives or report.hooks) if report.error is None else report.error
        table.add_row(report.name, report.distribution, status, gives)
    out.print(table)
    raise typer.Exit(1 if host.broken else 0)


@app.command()
def settings() -> None:
    """List every setting: variable, default and meaning (Markdown)."""
    from timestore_workers.settings_table import settings_table

    out.print(settings_table(), highlight=False, markup=False, soft_wrap=True)


@app.command()
def openapi() -> None:
    """Print the OpenAPI 3.1 document of this service, with what the plugins add: for generators of clients."""
    import msgspec
    from timestore_http.openapi.document import make_document

    from timestore_core.plugins import load_plugins
    from timestore_core.settings import load_settings

    with explained():
        document = make_document(load_plugins(), load_settings())
    typer.echo(msgspec.json.format(msgspec.json.encode(document), indent=2))


@app.command()
def doctor() -> None:
    """Check PostgreSQL, storage, clock, disk and versions; each red line says what to do. Status 1 if any is red."""
    os.environ.setdefault("TIMESTORE_LOG_LEVEL", "fatal")
    from timestore_workers.doctor import examine, report

    raise typer.Exit(0 if report(examine()) else 1)


workers = typer.Typer(help="Processes that work on the queues which Node services share.", no_args_is_help=True)
app.add_typer(workers, name="worker")

MetricsPort = Annotated[int | None, typer.Option(min=0, max=65535, help="Answer /health and /metrics on this port.")]


@workers.command("ingest")
def worker_ingest(metrics_port: MetricsPort = None) -> None:
    """Publish the batches of the ingestion queue, TIMESTORE_INGEST_CONCURRENCY at a time.

    SIGTERM finishes what is running and takes nothing new. May be killed and started again at any moment: what was
    accepted stands in PostgreSQL until it is published.
    """
    from timestore_workers.ingest_worker import run_ingest_worker

    with explained():
        run_ingest_worker(metrics_port)


@workers.command("lifecycle")
def worker_lifecycle(
    once: Annotated[bool, typer.Option("--once", help="Maintain now, print what was done, and end.")] = False,
    dataset: Annotated[str | None, typer.Option(help="Only the dataset of this slug.")] = None,
    dataset_id: Annotated[str | None, typer.Option(help="Only the dataset of this id.")] = None,
    operations: Annotated[str, typer.Option(help="Comma-separated.")] = ALL_OPERATIONS,
    metrics_port: MetricsPort = None,
) -> None:
    """Schedule every active dataset, new ones too, and maintain what the lifecycle queue brings.

    Several may run: a dataset is queued once an interval, and maintained by one process at a time. With
    REDIS_URL=inline there is no queue, and this process maintains them all itself.
    """
    from timestore_workers.lifecycle_worker import run_lifecycle_worker

    names = [name.strip() for name in operations.split(",") if name.strip()]
    with explained():
        well = run_lifecycle_worker(
            once=once, slug=dataset, dataset_id=dataset_id, operations=names, metrics_port=metrics_port
        )
    raise typer.Exit(0 if well else 1)


app.command()(ingest)
app.command()(query)
app.add_typer(lifecycle)
app.add_typer(storage)
app.command()(verify)
app.command()(backup)
app.command()(restore)


def main() -> None:
    """The entry point of the `timestore` command."""
    app()
