"""`timestore dev`: PostgreSQL, the server and a first answer, in one process tree that ends together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

import httpx
from filelock import FileLock, Timeout
from rich.table import Table

from timestore_core.errors import ConfigurationError
from timestore_core.settings import load_settings
from timestore_workers.console import out
from timestore_workers.embedded import embedded_postgres, embedded_valkey
from timestore_workers.sample import SAMPLE_DATASET, load_sample, monthly_means
from timestore_workers.serve import gunicorn_command, prepare

_START_TIMEOUT_S = 60
_STOP_TIMEOUT_S = 40


def run_dev(home: Path, *, queue: bool) -> int:
    """Run everything below `home` until a signal or the end of one of its processes; the exit status."""
    home.mkdir(parents=True, exist_ok=True)
    with _only_one(home), _stop_signals() as stopped, ExitStack() as services:
        os.environ["TIMESTORE_DATABASE_URL"] = services.enter_context(embedded_postgres((home / "postgres").absolute()))
        os.environ["REDIS_URL"] = "inline"
        if queue:
            os.environ["REDIS_URL"] = services.enter_context(embedded_valkey((home / "valkey").absolute()))
        os.environ.setdefault("TIMESTORE_STORAGE_ROOT", str((home / "storage").absolute()))
        os.environ.setdefault("TIMESTORE_LOG_FORMAT", "console" if sys.stdout.isatty() else "json")
        os.environ.setdefault("TIMESTORE_LOG_LEVEL", "warn")
        # A first try is often with old data, the sample's is: the service's default would remove it after minutes.
        os.environ.setdefault("TIMESTORE_LIFECYCLE_RETENTION_MAX_AGE_HOURS", str(100 * 365 * 24))
        prepare()
        commands = {"server": gunicorn_command(), "lifecycle worker": _worker_command("lifecycle")}
        if queue:
            commands["ingest worker"] = _worker_command("ingest")
        return _run(commands, stopped)


def _run(commands: Mapping[str, list[str]], stopped: _Stop) -> int:
    settings = load_settings()
    base = f"http://{_reachable(settings.host)}:{settings.port}"
    # Sessions of their own: Ctrl-C reaches us alone, and we end them in order.
    processes = {name: subprocess.Popen(command, start_new_session=True) for name, command in commands.items()}
    try:
        if _wait_until_ready(base, processes["server"], stopped):
            _show_first_answer(base, list(processes))
            while not stopped.requested and all(one.poll() is None for one in processes.values()):
                time.sleep(0.2)
        ended = [name for name, process in processes.items() if process.poll() is not None]
    finally:
        for process in processes.values():
            _end(process)
    if stopped.requested:
        return 0
    out.print(f"ended by itself: {', '.join(ended) or 'nothing'}; its log is above")
    return 1


def _worker_command(name: str) -> list[str]:
    return [sys.executable, "-c", "from timestore_workers.cli import main; main()", "worker", name]


def _show_first_answer(base: str, processes: Sequence[str]) -> None:
    with httpx.Client(base_url=base, timeout=60) as client:
        loaded = load_sample(client)
        if loaded:
            out.print(f"Loaded [bold]{loaded:,}[/] days of Seattle's weather (NOAA, 2012–2015) over the HTTP API.")
        answer = monthly_means(client)
    table = Table(*answer["columns"], title=f"{SAMPLE_DATASET}: monthly, from POST /datasets/{SAMPLE_DATASET}/query")
    rows = answer["rows"]
    for row in rows[:12]:
        table.add_row(*[_cell(row[name]) for name in answer["columns"]])
    out.print(table)
    if len(rows) > 12:
        out.print(f"… and {len(rows) - 12} more months")
    queue = "" if os.environ["REDIS_URL"] == "inline" else f" and Valkey ({os.environ['REDIS_URL']})"
    out.print(f"Running: {', '.join(processes)}, PostgreSQL{queue}")
    out.print(f"\nTimestore listens on [bold]{base}[/]; Ctrl-C stops everything. Try next:\n")
    out.print(
        f"  curl -s {base}/datasets/{SAMPLE_DATASET}/query -H 'content-type: application/json' -d "
        '\'{"timeRange":{"start":"2015-07-01T00:00:00Z","end":"2015-07-07T00:00:00Z"}}\'',
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    out.print(f"  timestore query {SAMPLE_DATASET} --every 1mo --agg avg:temp_max --agg max:wind\n", highlight=False)


def _cell(value: object) -> str:
    if isinstance(value, str):
        return value.removesuffix("T00:00:00.000Z")
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def _wait_until_ready(base: str, server: subprocess.Popen[bytes], stopped: _Stop) -> bool:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline and server.poll() is None and not stopped.requested:
        try:
            if httpx.get(f"{base}/ready", timeout=10).status_code == 200:
                return True
        except httpx.HTTPError:
            pass
        time.sleep(0.1)
    if server.poll() is None and not stopped.requested:
        raise ConfigurationError(f"the server did not become ready within {_START_TIMEOUT_S} s; its log is above")
    return False


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class _Stop:
    """Set by the first signal; the second one is not waited for."""

    requested = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        if number == signal.SIGINT:
            out.print("\nStopping; what runs is finished first …")


@contextmanager
def _stop_signals() -> Iterator[_Stop]:
    stop = _Stop()
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _only_one(home: Path) -> Iterator[None]:
    lock = FileLock(home / "dev.lock")
    try:
        with lock.acquire(timeout=0):
            yield
    except Timeout:
        raise ConfigurationError(
            f"another `timestore dev` runs on {home}; stop it, or choose another place with TIMESTORE_HOME"
        ) from None


def _reachable(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
