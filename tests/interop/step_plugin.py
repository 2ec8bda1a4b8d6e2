"""A plugin that stops a worker of ours at a named step: killed there, or held until it is let go."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.service import wait_until

_MODULE = '''
"""Does what the file of a step's name says, when a step has one."""

import os
import signal
import time
from pathlib import Path

from timestore_core.hookspecs import hookimpl

ARMED = Path(os.environ["STEP_PLUGIN_ARMED"])


@hookimpl
def timestore_step(step):
    armed = ARMED / step
    try:
        what = armed.read_text()
    except FileNotFoundError:
        return
    if what == "kill":
        armed.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    armed.with_name(f"{step}.reached").touch()
    while armed.exists():
        time.sleep(0.01)
'''


@dataclass(frozen=True)
class StepPlugin:
    """The plugin's directory; below it, the files that arm it."""

    directory: Path

    @property
    def settings(self) -> dict[str, str]:
        """The environment of a worker that has the plugin."""
        return {"PYTHONPATH": str(self.directory), "STEP_PLUGIN_ARMED": str(self._armed)}

    def kill_at(self, step: str) -> None:
        """SIGKILL to the process that reaches the step next."""
        self._arm(step, "kill")

    def hold_at(self, step: str) -> None:
        """Whoever reaches the step stays there until it is released."""
        self._arm(step, "hold")

    def wait_for(self, step: str, timeout_s: float) -> None:
        """Return when somebody is held at the step."""
        wait_until((self._armed / f"{step}.reached").exists, f"a job to reach {step}", timeout_s)

    def release(self, step: str) -> None:
        (self._armed / step).unlink()

    @property
    def _armed(self) -> Path:
        return self.directory / "armed"

    def _arm(self, step: str, what: str) -> None:
        written = self._armed / f"{step}.new"
        written.write_text(what)
        written.rename(self._armed / step)


def make_step_plugin(directory: Path) -> StepPlugin:
    """Write the plugin's distribution into the directory."""
    about = directory / "step_plugin-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: step-plugin\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[timestore]\nstep_plugin = step_plugin\n")
    (directory / "step_plugin.py").write_text(_MODULE)
    (directory / "armed").mkdir()
    return StepPlugin(directory)
