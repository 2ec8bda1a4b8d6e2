"""A plugin that kills its own process at a named step: a distribution of its own, put on PYTHONPATH."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_MODULE = '''
"""Kills this process when an ingest reaches the step that the armed file names. Once: the file is gone then."""

import os
import signal
from pathlib import Path

from timestore_core.hookspecs import hookimpl

ARMED = Path(os.environ["KILLER_ARMED"])


@hookimpl
def timestore_step(step):
    try:
        if ARMED.read_text() != step:
            return
        ARMED.unlink()
    except FileNotFoundError:
        return
    os.kill(os.getpid(), signal.SIGKILL)
'''


@dataclass(frozen=True)
class Killer:
    """The plugin's directory, and the file that arms it."""

    directory: Path
    armed: Path

    @property
    def settings(self) -> dict[str, str]:
        """The environment of a service that has the plugin."""
        return {"PYTHONPATH": str(self.directory), "KILLER_ARMED": str(self.armed)}

    def arm(self, step: str) -> None:
        """Kill the process that reaches the step next."""
        written = self.armed.with_suffix(".new")
        written.write_text(step)
        written.rename(self.armed)

    @property
    def has_struck(self) -> bool:
        return not self.armed.exists()


def make_killer(directory: Path) -> Killer:
    """Write the plugin's distribution into the directory."""
    about = directory / "killer-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: killer\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[timestore]\nkiller = killer\n")
    (directory / "killer.py").write_text(_MODULE)
    return Killer(directory, directory / "armed")
