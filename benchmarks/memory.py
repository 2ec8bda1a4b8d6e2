"""What the worker processes hold in memory, beside a bare process that imported the same libraries."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

from benchmarks.goals import Result
from benchmarks.service import Service

_MIB = 1024 * 1024
_BARE = "import duckdb, falcon, msgspec, psutil, psycopg, pyarrow.compute; duckdb.connect(); " + (
    "print(psutil.Process().memory_info().rss)"
)


def bare_rss_bytes() -> int:
    """The resident memory of a Python that imported the engine, Arrow, the driver and the framework."""
    return int(subprocess.run([sys.executable, "-c", _BARE], check=True, capture_output=True, text=True).stdout)


def memory_cases(service: Service, when: str, bare_bytes: int) -> Iterator[Result]:
    """Each worker, and all of them together. Pages that workers share count in each."""
    resident = service.worker_rss_bytes()
    for number, one in enumerate(resident, start=1):
        yield Result(f"memory, worker {number}, {when}", "MiB", bare_bytes / _MIB, one / _MIB)
    if len(resident) > 1:
        yield Result(f"memory, all {len(resident)} workers, {when}", "MiB", None, sum(resident) / _MIB)
