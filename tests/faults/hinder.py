"""A plugin that holds its process at a step, and a storage kind that is held or fails: put on PYTHONPATH."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.service import wait_until

_MODULE = '''
"""Holds whoever reaches the armed step until the test lets go, by then perhaps hours later."""

import json
import os
import time
from pathlib import Path

from timestore_core.hookspecs import hookimpl
from timestore_core.storage import StorageKind
from timestore_local.driver import LocalDriver

ARMED = Path(os.environ["HINDER_ARMED"])
HELD = ARMED.with_name("held")


@hookimpl
def timestore_step(step):
    _hold(step)


def _hold(place):
    try:
        asked = json.loads(ARMED.read_text())
        if asked["place"] != place:
            return
        # Of several that come here one is held.
        ARMED.rename(HELD)
    except FileNotFoundError:
        return
    while HELD.exists():
        time.sleep(0.005)
    if asked["for_s"]:
        real = time.clock_gettime
        time.clock_gettime = lambda clock: real(clock) + asked["for_s"]


class HinderedDriver(LocalDriver):
    """The local driver, but locating a file may take long (its key is the place), and a listing may end half-way."""

    def location(self, key):
        _hold(key)
        return super().location(key)

    def list(self, prefix=""):
        breaks = ARMED.with_name("fails-" + prefix.replace("/", "_")).exists()
        for one in super().list(prefix):
            yield one
            if breaks:
                raise OSError("the store went away in the middle of the listing")


@hookimpl
def timestore_storage_drivers():
    root = lambda config: Path(config["root"])
    return {
        "hindered": StorageKind(
            open=lambda config: HinderedDriver(root(config)),
            default_config=lambda settings: {"root": str(settings.storage_root)},
        )
    }
'''


@dataclass(frozen=True)
class Hinder:
    """The plugin's directory, and what it is told there."""

    directory: Path

    @property
    def settings(self) -> dict[str, str]:
        """The environment of a process that has the plugin."""
        return {"PYTHONPATH": str(self.directory), "HINDER_ARMED": str(self.directory / "armed")}

    def arm(self, place: str, for_s: float = 0) -> None:
        """Hold the process that comes to the place next; let go, it believes that it was stopped for so long."""
        written = self.directory / "armed.new"
        written.write_text(json.dumps({"place": place, "for_s": for_s}))
        written.rename(self.directory / "armed")

    def wait_until_held(self, ended: Callable[[], Any] = lambda: None) -> None:
        """Return when a process is held; fails with what `ended` says when the work is over without that."""

        def is_held() -> bool:
            what = None if (self.directory / "held").exists() else ended()
            assert not what, f"nothing was held: {what}"
            return (self.directory / "held").exists()

        wait_until(is_held, "a process to be held")

    def let_go(self) -> None:
        (self.directory / "held").unlink()

    @contextmanager
    def letting_go_at_last(self) -> Iterator[None]:
        """Nobody is held after the block, however it ends."""
        try:
            yield
        finally:
            for name in ("armed", "held"):
                (self.directory / name).unlink(missing_ok=True)

    @contextmanager
    def failing_listing(self, prefix: str) -> Iterator[None]:
        """Listings below the prefix, "" for whole ones, end half-way for the time of the block."""
        sign = self.directory / f"fails-{prefix}"
        sign.touch()
        try:
            yield
        finally:
            sign.unlink()


def make_hinder(directory: Path) -> Hinder:
    """Write the plugin's distribution into the directory."""
    about = directory / "hinder-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: hinder\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[timestore]\nhinder = hinder\n")
    (directory / "hinder.py").write_text(_MODULE)
    return Hinder(directory)
