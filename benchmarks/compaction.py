"""Compaction: what it does for queries, how much it rewrites, and how fast and in how much memory it works."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import psutil  # type: ignore[import-untyped]

from benchmarks.batches import FIELDS, ingest_body
from benchmarks.floor_query import FloorQuery
from benchmarks.goals import COMPACTED_QUERY, COMPACTION_MEMORY, COMPACTION_RATE, Result
from benchmarks.queries import ALL_TIME, QUESTIONS, check_same
from benchmarks.service import running
from benchmarks.timing import alternate, milliseconds
from timestore_core.lifecycle.compaction import plan_groups
from timestore_core.lifecycle.live import LivePartition
from timestore_core.settings import load_settings

_MIB = 1024 * 1024
_DAY_BATCHES = 86_400
_ROWS_PER_BATCH = 1_000
_INTERVAL_S = 300


def compaction_cases(url: str, home: Path, *, quick: bool, mebibytes: int | None) -> Iterator[Result]:
    """Everything about compaction; `mebibytes` is how much is rewritten at once (default: 256, quick: 64)."""
    yield from simulated_day()
    yield from _queries(url, home / "queries", batches=100 if quick else 1000, quick=quick)
    size = mebibytes or (64 if quick else 256)
    yield from _throughput(url, home / "large", size)


def simulated_day() -> Iterator[Result]:
    """One batch a second for a day, compacted each five minutes: how many files stay, how often rows are rewritten.

    The planning is the service's own; nothing is written.
    """
    settings, live, rewritten, most = load_settings(), list[LivePartition](), 0, 0
    for second in range(_DAY_BATCHES):
        live.append(_fresh(second))
        if second % _INTERVAL_S == _INTERVAL_S - 1:
            most = max(most, len(live))
            while groups := plan_groups(live, settings):
                gone = {one.id for group in groups for one in group}
                merged = [_merged(group) for group in groups]
                rewritten += sum(one.rows for one in merged)
                live = [one for one in live if one.id not in gone] + merged
    yield Result("a simulated day of 86,400 batches: files after it", "files", _DAY_BATCHES, len(live))
    yield Result("a simulated day: most files at any time", "files", _DAY_BATCHES, most)
    yield Result("a simulated day: rows rewritten for each row", "times", None, rewritten / (_DAY_BATCHES * 100))


def _fresh(second: int) -> LivePartition:
    start = datetime(2024, 1, 1, tzinfo=UTC) + timedelta(seconds=second)
    key = {"site": "north"}
    return LivePartition(
        f"fresh-{second}", key, "target", "duckdb", "records", 61_440, 100, start, start + timedelta(seconds=1), 0, None
    )


def _merged(group: Sequence[LivePartition]) -> LivePartition:
    rows = sum(one.rows for one in group)
    return replace(
        group[0],
        id=f"merged-{group[0].id}-{rows}",
        # About what six columns take, and at least what an empty file does.
        bytes=45_056 + rows * 40,
        rows=rows,
        end_time=group[-1].end_time,
        level=1 + max(one.level for one in group),
    )


def _queries(url: str, home: Path, *, batches: int, quick: bool) -> Iterator[Result]:
    """The same questions over many small partitions and over what compaction made of them, against one table."""
    root, slug = home / "storage", "bench-compaction"
    home.mkdir(parents=True)
    rounds = 10 if quick else 40
    with running(url, root, home / "service.log", workers=1, **_SCHEMA) as service:

        def one(number: int) -> None:
            body = json.loads(ingest_body(_ROWS_PER_BATCH, host=number, hosts=batches))
            body["partition"]["key"] = {"site": "north"}
            service.client.ingest(slug, json.dumps(body).encode())

        with ThreadPoolExecutor(4) as threads:
            list(threads.map(one, range(batches)))
        native = _native_table(sorted(root.rglob("*.duckdb")), home / "native.duckdb")
        floor = FloorQuery([native])
        label = f"{batches:,} partitions"
        try:
            for when in ("before", "after"):
                if when == "after":
                    body = json.dumps({"datasetSlug": slug, "operations": ["compaction"]}).encode()
                    took_ms = milliseconds(lambda body=body: service.client.post("/admin/lifecycle/run", body))
                    yield Result(f"compaction of {label} of {_ROWS_PER_BATCH:,} rows", "ms", None, took_ms)
                for name, request, by_hand in QUESTIONS:
                    asked = ALL_TIME | request
                    check_same(service.client.query(slug, asked), by_hand(floor))
                    pair = alternate(
                        lambda by_hand=by_hand: by_hand(floor),
                        lambda asked=asked: service.client.query(slug, asked),
                        rounds,
                    )
                    goal = COMPACTED_QUERY if when == "after" else None
                    case = f"{name}, {label} {when} compaction, against one table"
                    yield Result(case, "ms", pair.floor_ms, pair.measured_ms, goal)
        finally:
            floor.close()


def _native_table(files: Sequence[Path], path: Path) -> Path:
    """All rows in one DuckDB table, in time's order, as DuckDB would keep them by itself."""
    with duckdb.connect(str(path)) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for index, file in enumerate(files):
            connection.execute(f"ATTACH '{file}' AS f{index} (READ_ONLY)")
        union = " UNION ALL ".join(f"SELECT * FROM f{index}.records" for index in range(len(files)))
        connection.execute(f"CREATE TABLE records AS SELECT * FROM ({union}) ORDER BY timestamp")
    return path


def _throughput(url: str, home: Path, mebibytes: int) -> Iterator[Result]:
    """The command compacts files of 16 MiB; by hand the same rows are copied as they are."""
    root, slug, key = home / "storage", "bench-large", {"site": "north"}
    home.mkdir(parents=True)
    settings = {**_SCHEMA, "TIMESTORE_PG_SCHEMA": "bench_large"}
    with running(url, root, home / "service.log", workers=1, **settings) as service:
        target = json.dumps({"slug": slug}).encode()
        service.client.post("/admin/datasets", target)
    environment = _environment(url, root, settings)
    subprocess.run(
        [sys.executable, "-m", "benchmarks.large_dataset", slug, str(mebibytes)], env=environment, check=True
    )
    files = sorted(root.rglob("part-*.duckdb"))
    size_mib = sum(one.stat().st_size for one in files) / _MIB
    by_hand_s = milliseconds(lambda: _copy(files, home / "copy.duckdb")) / 1000
    peak = _Peak()
    started = time.perf_counter()
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from timestore_workers.cli import main; main()",
            "lifecycle",
            "run",
            slug,
            "--operations",
            "compaction",
        ],
        env=environment,
    )
    peak.watch(process)
    if process.wait() != 0:
        raise RuntimeError("the compaction failed; its error is above")
    took_s = time.perf_counter() - started
    label = f"{size_mib:,.0f} MiB in {len(files)} files of {len(FIELDS)} columns, key {key['site']}"
    yield Result(f"compaction, {label}", "MB/s", size_mib / by_hand_s, size_mib / took_s, COMPACTION_RATE)
    limit_mib = load_settings().lifecycle_memory_bytes / _MIB
    yield Result(f"compaction, {label}: memory", "MiB", limit_mib, peak.bytes / _MIB, COMPACTION_MEMORY)


def _copy(files: Sequence[Path], path: Path) -> None:
    with duckdb.connect() as connection:
        connection.execute("SET memory_limit = '512MiB'")
        connection.execute(f"SET temp_directory = '{path.parent / 'spill'}'")
        connection.execute("SET preserve_insertion_order = false")
        connection.execute(f"ATTACH '{path}' AS copy")
        for index, file in enumerate(files):
            connection.execute(f"ATTACH '{file}' AS f{index} (READ_ONLY)")
        union = " UNION ALL ".join(f"SELECT * FROM f{index}.records" for index in range(len(files)))
        connection.execute(f"CREATE TABLE copy.records AS {union}")
    path.unlink()


class _Peak:
    """The largest resident memory that a process had while it was watched."""

    def __init__(self) -> None:
        self.bytes = 0

    def watch(self, process: subprocess.Popen[bytes]) -> None:
        def look() -> None:
            while process.poll() is None:
                try:
                    self.bytes = max(self.bytes, psutil.Process(process.pid).memory_info().rss)
                except psutil.Error:
                    return
                time.sleep(0.05)

        threading.Thread(target=look, daemon=True).start()


def _environment(url: str, root: Path, settings: Mapping[str, str]) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("TIMESTORE_")}
    return {
        **kept,
        "REDIS_URL": "inline",
        "TIMESTORE_DATABASE_URL": url,
        "TIMESTORE_STORAGE_ROOT": str(root),
        **settings,
    }


_SCHEMA = {"TIMESTORE_PG_SCHEMA": "bench_compaction"}
