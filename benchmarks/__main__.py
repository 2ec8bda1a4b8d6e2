"""`python -m benchmarks`: measure everything and print one table."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import duckdb
import typer
from rich.console import Console
from timestore_workers.embedded import embedded_postgres

from benchmarks.compaction import compaction_cases
from benchmarks.formats import format_cases
from benchmarks.goals import Result
from benchmarks.ingest import ingest_cases
from benchmarks.inline import inline_ingest, inline_queries
from benchmarks.memory import bare_rss_bytes, memory_cases
from benchmarks.queries import json_case, load, query_cases, sizes
from benchmarks.queue import queue_cases
from benchmarks.remote import remote_cases
from benchmarks.report import print_table, write_json
from benchmarks.service import running

_MAX_WORKERS = 4

app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)


@app.command()
def main(
    quick: Annotated[bool, typer.Option(help="Fewer rounds, and at most 100 partitions.")] = False,
    json: Annotated[Path | None, typer.Option(help="Write the results to this file too.")] = None,
    only: Annotated[str, typer.Option(help="ingest, inline, query, queue, compaction, remote or all.")] = "all",
    mebibytes: Annotated[int | None, typer.Option(help="How much is compacted at once; 5120 for 5 GiB.")] = None,
    directory: Annotated[Path | None, typer.Option(help="Where the data goes meanwhile; default: a new one.")] = None,
) -> None:
    """Measure ingest, queries and memory against the same work done by hand."""
    home = Path(tempfile.mkdtemp(prefix="timestore-bench-", dir=directory))
    results = []
    progress = Console(stderr=True)
    try:
        with embedded_postgres(home / "postgres") as url:
            for result in _measure(url, home, only, quick=quick, mebibytes=mebibytes):
                progress.print(f"[dim]{result.case}: {result.measured:,.1f} {result.unit}[/]")
                results.append(result)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    print_table(results)
    if json is not None:
        write_json(json, _machine(quick=quick), results)


def _measure(url: str, home: Path, only: str, *, quick: bool, mebibytes: int | None) -> Iterator[Result]:
    root, log, workers, bare = home / "storage", home / "service.log", min(_MAX_WORKERS, _cores()), bare_rss_bytes()
    if only == "compaction":
        yield from compaction_cases(url, home, quick=quick, mebibytes=mebibytes)
        return
    if only in ("inline", "all"):
        with running(url, root, log, workers=1) as service:
            yield from inline_queries(service, quick=quick)
        with running(url, root, log, workers) as service:
            yield from inline_ingest(service, quick=quick)
    if only == "inline":
        return
    if only == "remote":
        yield from remote_cases(url, home / "remote", quick=quick)
        return
    if only == "queue":
        yield from queue_cases(url, home, workers, quick=quick)
        return
    with running(url, root, log, workers) as service:
        yield from memory_cases(service, "idle", bare)
        if only != "query":
            yield from ingest_cases(service, url, home / "floor", workers, quick=quick)
            yield from format_cases(service, url, home / "formats", quick=quick)
            yield from memory_cases(service, "after the ingest", bare)
        if only == "ingest":
            return
        load(service.client, quick=quick)
    # Queries meet one worker: with more of them each would have to attach the files, and "warm" would be a mixture.
    for partitions in sizes(quick=quick):
        with running(url, root, log, workers=1) as service:
            yield from query_cases(service, root, partitions, quick=quick)
            if partitions == sizes(quick=quick)[-1]:
                yield json_case(service, root, quick=quick)
                yield from memory_cases(service, f"after queries over {partitions:,} partitions", bare)
    if only == "all":
        yield from queue_cases(url, home, workers, quick=quick)
        yield from compaction_cases(url, home, quick=quick, mebibytes=mebibytes)
        yield from remote_cases(url, home / "remote", quick=quick)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _machine(*, quick: bool) -> dict[str, Any]:
    return {
        "cores": _cores(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "duckdb": duckdb.__version__,
        "quick": quick,
    }


if __name__ == "__main__":
    app()
