"""`timestore doctor`: is everything there that the service needs, and if not, what to do."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

import psycopg
from rich.table import Table

from timestore_core.catalog.database import connection_string
from timestore_core.catalog.migrate import pending
from timestore_core.errors import TimestoreError
from timestore_core.plugins import PluginHost, load_plugins
from timestore_core.runtime import check_configuration
from timestore_core.settings import GIB, Settings, load_settings
from timestore_workers.console import out

CLOCK_TOLERANCE_S = 60
LOW_DISK_BYTES = 2 * GIB
OLDEST_POSTGRESQL = 140000
_PACKAGES = ("duckdb", "pyarrow", "psycopg", "falcon", "gunicorn")


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. `advice` says what to do and is empty where all is well."""

    what: str
    status: Literal["ok", "warn", "fail"]
    found: str
    advice: str = ""


def examine() -> list[Finding]:
    """Every check, in order; one that fails does not stop the others."""
    try:
        settings = load_settings()
    except TimestoreError as error:
        return [Finding("settings", "fail", error.message, "correct these variables")]
    plugins = load_plugins()
    checks: list[Callable[[Settings, PluginHost], Iterator[Finding]]] = [
        _versions,
        _plugins,
        _postgresql,
        _storage,
        _spill,
    ]
    return [finding for check in checks for finding in check(settings, plugins)]


def report(findings: list[Finding]) -> bool:
    """Print the findings as a table; True when none of them is red."""
    table = Table("check", "", "found", "what to do", show_lines=False)
    colours = {"ok": "green", "warn": "yellow", "fail": "red"}
    for one in findings:
        table.add_row(one.what, f"[{colours[one.status]}]{one.status}[/]", one.found, one.advice)
    out.print(table)
    return all(one.status != "fail" for one in findings)


def _versions(settings: Settings, plugins: PluginHost) -> Iterator[Finding]:
    del settings, plugins
    yield Finding("python", "ok", sys.version.split()[0])
    for package in _PACKAGES:
        try:
            yield Finding(package, "ok", version(package))
        except PackageNotFoundError:
            yield Finding(package, "fail", "not installed", f"pip install {package}")


def _plugins(settings: Settings, plugins: PluginHost) -> Iterator[Finding]:
    for one in plugins.broken:
        yield Finding(
            f"plugin {one.name}", "fail", one.error or "", f"upgrade or uninstall the distribution {one.distribution}"
        )
    try:
        check_configuration(settings, plugins)
    except TimestoreError as error:
        yield Finding("configuration", "fail", error.message, "install the plugin, or correct the setting")
    else:
        yield Finding("plugins", "ok", f"{len(plugins.reports) - len(plugins.broken)} loaded")


def _postgresql(settings: Settings, plugins: PluginHost) -> Iterator[Finding]:
    del plugins
    try:
        before = time.time()
        with psycopg.connect(connection_string(settings), connect_timeout=5, autocommit=True) as connection:
            row = connection.execute(
                "SELECT now(), current_setting('server_version_num')::int, current_setting('synchronous_commit'), "
                "current_setting('fsync'), current_setting('server_version')"
            ).fetchone()
        after = time.time()
    except (psycopg.Error, TimestoreError) as error:
        why = _first_line(error)
        yield Finding(
            "postgresql",
            "fail",
            why,
            "start PostgreSQL, correct TIMESTORE_DATABASE_URL, or try `timestore dev`, which brings its own",
        )
        return
    assert row is not None
    now, number, commits, fsync, text = row
    if number < OLDEST_POSTGRESQL:
        yield Finding("postgresql", "fail", text, "upgrade PostgreSQL to 14 or newer")
    else:
        yield Finding("postgresql", "ok", text)
    if commits == "off" or fsync == "off":
        yield Finding(
            "durability",
            "fail",
            f"synchronous_commit={commits}, fsync={fsync}",
            "turn both on: a crash of PostgreSQL would lose acknowledged batches",
        )
    yield _clock(now, before, after)
    yield _schema(settings)


def _clock(now: datetime, before: float, after: float) -> Finding:
    drift_s = (now - datetime.fromtimestamp((before + after) / 2, UTC)).total_seconds()
    if abs(drift_s) > CLOCK_TOLERANCE_S:
        return Finding(
            "clock", "fail", f"{drift_s:+.0f} s against PostgreSQL's", "synchronise the clocks of both hosts (NTP)"
        )
    return Finding("clock", "ok", f"{drift_s:+.1f} s against PostgreSQL's")


def _schema(settings: Settings) -> Finding:
    try:
        todo = pending(settings)
    except (psycopg.Error, TimestoreError) as error:
        return Finding("schema", "fail", _first_line(error), "grant this user the rights to read the catalog's schema")
    if todo:
        return Finding("schema", "warn", f"{len(todo)} migrations to apply", "`timestore migrate`, or just `serve`")
    return Finding("schema", "ok", f"{settings.pg_schema} is up to date")


def _storage(settings: Settings, plugins: PluginHost) -> Iterator[Finding]:
    kind = plugins.storage_kinds.get(settings.storage_driver)
    if kind is None:
        return
    try:
        driver = kind.open(kind.default_config(settings))
        driver.check()
        staging = driver.staging_dir()
    except (OSError, ValueError, TimestoreError) as error:
        yield Finding(
            "storage", "fail", _first_line(error), "create the directory, or give this user the right to write there"
        )
        return
    yield Finding("storage", "ok", ", ".join(driver.allowed_locations()))
    yield _disk("storage disk", shutil.disk_usage(staging))


def _spill(settings: Settings, plugins: PluginHost) -> Iterator[Finding]:
    del plugins
    try:
        settings.spill_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        yield Finding("spill directory", "fail", _first_line(error), "set TIMESTORE_TEMP_DIR to a writable directory")
        return
    yield _disk("spill disk", shutil.disk_usage(settings.spill_dir))


def _disk(what: str, usage: Any) -> Finding:
    free = f"{usage.free / GIB:.1f} GiB free of {usage.total / GIB:.1f}"
    if usage.free < LOW_DISK_BYTES:
        return Finding(what, "fail", free, "free some space, or move it with TIMESTORE_STORAGE_ROOT/TIMESTORE_TEMP_DIR")
    return Finding(what, "ok", free)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
