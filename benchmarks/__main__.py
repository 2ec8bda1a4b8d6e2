"""`python -m benchmarks`: measure everything and print one table."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
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
from benchmarks.service import Service, running
from benchmarks.tsbs import tsbs_cases

_MAX_WORKERS = 4

app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)


@app.command()
def main(
    quick: Annotated[bool, typer.Option(help="Fewer rounds, and at most 100 partitions.")] = False,
    json: Annotated[Path | None, typer.Option(help="Write the results to this file too.")] = None,
    only: Annotated[
        str, typer.Option(help="inline, ingest, formats, query, tsbs, queue, compaction, remote or all.")
    ] = "all",
    mebibytes: Annotated[int | None, typer.Option(help="How much is compacted at once; 5120 for 5 GiB.")] = None,
    directory: Annotated[Path | None, typer.Option(help="Where the data goes meanwhile; default: a new one.")] = None,
) -> None:
    """Measure ingest, queries and memory against the same work done by hand."""
    if only not in (*_PARTS, "all"):
        raise typer.BadParameter(f"{only!r} is not one of {', '.join(_PARTS)}, all", param_hint="--only")
    home = Path(tempfile.mkdtemp(prefix="timestore-bench-", dir=directory))
    results = []
    progress = Console(stderr=True)
    try:
        with embedded_postgres(home / "postgres") as url:
            bench = _Bench(url, home, min(_MAX_WORKERS, _cores()), bare_rss_bytes(), quick, mebibytes)
            for part in _PARTS if only == "all" else [only]:
                for result in _PARTS[part](bench):
                    progress.print(f"[dim]{result.case}: {result.measured:,.1f} {result.unit}[/]")
                    results.append(result)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    print_table(results)
    if json is not None:
        write_json(json, _machine(quick=quick), results)


@dataclass(frozen=True, slots=True)
class _Bench:
    """Where everything is measured, and how much of it."""

    url: str
    home: Path
    workers: int
    bare_bytes: int
    quick: bool
    mebibytes: int | None

    def running(self, workers: int) -> AbstractContextManager[Service]:
        return running(self.url, self.home / "storage", self.home / "service.log", workers)


def _inline(bench: _Bench) -> Iterator[Result]:
    with bench.running(1) as service:
        yield from inline_queries(service, quick=bench.quick)
    with bench.running(bench.workers) as service:
        yield from inline_ingest(service, quick=bench.quick)


def _ingest(bench: _Bench) -> Iterator[Result]:
    with bench.running(bench.workers) as service:
        yield from memory_cases(service, "idle", bench.bare_bytes)
        yield from ingest_cases(service, bench.url, bench.home / "floor", bench.workers, quick=bench.quick)
        yield from memory_cases(service, "after the ingest", bench.bare_bytes)


def _formats(bench: _Bench) -> Iterator[Result]:
    with bench.running(bench.workers) as service:
        yield from format_cases(service, bench.url, bench.home / "formats", bench.workers, quick=bench.quick)


def _query(bench: _Bench) -> Iterator[Result]:
    with bench.running(bench.workers) as service:
        load(service.client, quick=bench.quick)
    # Queries meet one worker: with more of them each would have to attach the files, and "warm" would be a mixture.
    for partitions in sizes(quick=bench.quick):
        with bench.running(1) as service:
            yield from query_cases(service, bench.home / "storage", partitions, quick=bench.quick)
            if partitions == sizes(quick=bench.quick)[-1]:
                yield json_case(service, bench.home / "storage", quick=bench.quick)
                yield from memory_cases(service, f"after queries over {partitions:,} partitions", bench.bare_bytes)


# What `--only` names, in the order in which everything is measured.
_PARTS: Mapping[str, Callable[[_Bench], Iterator[Result]]] = {
    "inline": _inline,
    "ingest": _ingest,
    "formats": _formats,
    "query": _query,
    "tsbs": lambda bench: tsbs_cases(bench.url, bench.home / "tsbs", bench.workers, quick=bench.quick),
    "queue": lambda bench: queue_cases(bench.url, bench.home, bench.workers, quick=bench.quick),
    "compaction": lambda bench: compaction_cases(bench.url, bench.home, quick=bench.quick, mebibytes=bench.mebibytes),
    "remote": lambda bench: remote_cases(bench.url, bench.home / "remote", quick=bench.quick),
}


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
