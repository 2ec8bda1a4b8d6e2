"""The wheel alone, in an empty environment and far from the checkout, is the whole service."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from sysconfig import get_path

import httpx
import pytest

from tests.service import ALL_TIME, START_TIMEOUT_S, batch, free_port, wait_until
from timestore_core import __version__

CHECKOUT = Path(__file__).parents[2]

# Every Python of the environment notes what it opens or lists below the checkout.
WITNESS = """
import os, sys

def note(event, arguments):
    if event in ("open", "os.listdir", "os.scandir") and str(arguments[0]).startswith({checkout!r}):
        os.write(descriptor, f"{{event}} {{arguments[0]}} by {{sys.argv}}\\n".encode())

descriptor = os.open({notes!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
sys.addaudithook(note)
"""


@pytest.mark.slow
def test_an_installed_wheel_migrates_serves_and_shows_a_first_answer_without_the_checkout(
    postgres_url: str, tmp_path: Path
) -> None:
    run(sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path / "dist"), str(CHECKOUT))
    (wheel,) = (tmp_path / "dist").glob("timestore-*.whl")
    installed = installed_wheel(wheel, tmp_path / "venv")
    notes = witnessed(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    port = str(free_port())
    settings = environment(
        TIMESTORE_DATABASE_URL=postgres_url,
        TIMESTORE_PG_SCHEMA="from_the_wheel",
        TIMESTORE_STORAGE_ROOT=str(tmp_path / "storage"),
        REDIS_URL="inline",
        TIMESTORE_PORT=port,
        TIMESTORE_HTTP_WORKERS="1",
    )

    assert run(installed, "--version", cwd=elsewhere, env=settings) == f"timestore {__version__}"
    assert "applied 0001" in run(installed, "migrate", cwd=elsewhere, env=settings)
    assert "up to date" in run(installed, "migrate", cwd=elsewhere, env=settings)
    with running(installed, "serve", cwd=elsewhere, env=settings) as client:
        created = client.post("/datasets/packed/ingest", json=batch([1, 2, 3]))
        answer = client.post("/datasets/packed/query", json={"timeRange": ALL_TIME})
    assert created.status_code == 201, created.text
    assert [row["n"] for row in answer.json()["rows"]] == [1, 2, 3]

    first = environment(TIMESTORE_PORT=port, TIMESTORE_HTTP_WORKERS="1", TIMESTORE_HOME=str(tmp_path / "home"))
    with running(installed, "dev", cwd=elsewhere, env=first) as client:
        question = {"timeRange": ALL_TIME, "downsample": {"intervalUnit": "month", "aggregations": [{"fn": "count"}]}}
        months = wait_until(
            lambda: client.post("/datasets/seattle-weather/query", json=question).json().get("rows"), "the sample"
        )
    assert months[0] == {"timestamp": "2012-01-01T00:00:00.000Z", "count": 31}

    assert notes.read_text() == ""
    assert list(elsewhere.iterdir()) == []


def installed_wheel(wheel: Path, home: Path) -> Path:
    """The `timestore` command of a fresh environment with the wheel, its `embedded` extra and what they need."""
    run(sys.executable, "-m", "venv", "--without-pip", str(home))
    pip = (sys.executable, "-m", "pip", "--python", str(home / "bin" / "python"), "install", "--quiet")
    run(*pip, "--constraint", str(CHECKOUT / "constraints.txt"), f"{wheel}[embedded]")
    return home / "bin" / "timestore"


def witnessed(home: Path) -> Path:
    """The file that names what the environment's processes open in the checkout, tried once and empty."""
    notes = home / "opened-in-the-checkout"
    packages = Path(get_path("purelib", vars={"base": str(home / "venv")}))
    (packages / "sitecustomize.py").write_text(WITNESS.format(checkout=f"{CHECKOUT}/", notes=str(notes)))
    opens = f"open({str(CHECKOUT / 'pyproject.toml')!r})"
    run(home / "venv" / "bin" / "python", "-c", opens, cwd=home, env=environment())
    assert "pyproject.toml" in notes.read_text()
    notes.write_text("")
    return notes


def environment(**settings: str) -> dict[str, str]:
    """This process's environment without what would lead Python or Timestore back to the checkout."""
    foreign = ("TIMESTORE_", "PYTHON", "VIRTUAL_ENV", "REDIS_URL", "DATABASE_URL")
    return {key: value for key, value in os.environ.items() if not key.startswith(foreign)} | settings


def run(*command: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
    """The output of a command that must succeed."""
    ended = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, f"{command} ended with {ended.returncode}:\n{ended.stdout}\n{ended.stderr}"
    return ended.stdout.strip()


@contextmanager
def running(installed: Path, command: str, cwd: Path, env: Mapping[str, str]) -> Iterator[httpx.Client]:
    """The server for the time of the block; it must become ready, and end in order when it is told to."""
    log = cwd.with_name(f"{command}.log")
    with log.open("wb") as out:
        server = subprocess.Popen(
            [installed, command], cwd=cwd, env=env, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
    with httpx.Client(base_url=f"http://127.0.0.1:{env['TIMESTORE_PORT']}", timeout=60) as client:
        try:
            wait_until(lambda: _ready(client, server, log), f"{command} to become ready: {log}", START_TIMEOUT_S)
            yield client
            server.send_signal(signal.SIGTERM)
            assert server.wait(60) == 0, log.read_text()
        finally:
            if server.poll() is None:
                os.killpg(server.pid, signal.SIGKILL)
                server.wait(30)


def _ready(client: httpx.Client, server: subprocess.Popen[bytes], log: Path) -> bool:
    assert server.poll() is None, f"the server ended with {server.returncode}:\n{log.read_text()[-4000:]}"
    try:
        return client.get("/ready").status_code == 200
    except httpx.HTTPError:
        return False
