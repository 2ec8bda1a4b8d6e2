"""Debian's Chromium without a window: what a page looks like to it once its scripts have run."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

INSTALL_TIMEOUT_S = 400
RUN_TIMEOUT_S = 120
# By the page's own clock: enough for scripts and requests, however slow the machine is.
PAGE_TIME_MS = 10_000
OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-pings"),
    # There is no internet for this page: every name but this machine's is unknown.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    *("--enable-logging=stderr", f"--virtual-time-budget={PAGE_TIME_MS}"),
)


class ChromiumUnavailable(Exception):
    """There is no Chromium here and it cannot be installed; the text says why."""


@dataclass(frozen=True)
class Shown:
    """A page's elements after its scripts ran, and what it wrote to its console."""

    dom: str
    console: list[str]


def find_or_install() -> str:
    """The path of Chromium, installed from Debian's packages where this runs as root. Raises ChromiumUnavailable."""
    found = shutil.which("chromium")
    if found is not None:
        return found
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise ChromiumUnavailable("there is no chromium on PATH, and only root of a Debian can install it")
    for command in (["apt-get", "update"], ["apt-get", "install", "--yes", "--no-install-recommends", "chromium"]):
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S)
        if done.returncode != 0:
            raise ChromiumUnavailable(f"{' '.join(command)}: {done.stderr.strip()[-500:]}")
    found = shutil.which("chromium")
    if found is None:
        raise ChromiumUnavailable("chromium was installed, and is not on PATH")
    return found


def show(chromium: str, url: str, profile: Path) -> Shown:
    """Open the page."""
    done = subprocess.run(
        [chromium, *OPTIONS, f"--user-data-dir={profile}", "--dump-dom", url],
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT_S,
        env={**os.environ, "HOME": str(profile)},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return Shown(done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line])
