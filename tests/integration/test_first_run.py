"""What a newcomer sees: one command, a first answer, and nothing left running."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest

from tests.service import free_port, wait_until


class Dev:
    """`timestore dev` as a person starts it in a terminal."""

    def __init__(self, home: Path, *options: str) -> None:
        self.port = free_port()
        self.output = home.parent / f"output-{self.port}"
        environment = {key: value for key, value in os.environ.items() if not key.startswith("TIMESTORE_")}
        environment |= {"TIMESTORE_HOME": str(home), "TIMESTORE_PORT": str(self.port), "COLUMNS": "120"}
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", "from timestore_workers.cli import main; main()", "dev", *options],
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def text(self) -> str:
        return self.output.read_text(encoding="utf-8")

    def wait(self) -> str:
        def shown() -> bool:
            assert self.process.poll() is None, self.text
            return "Try next" in self.text

        wait_until(shown, "the first answer", 180)
        return self.text

    def interrupt(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(60)


def below(home: Path) -> list[psutil.Process]:
    """Every living process that has this directory in its command line or its environment."""
    found = []
    for process in psutil.process_iter():
        try:
            known = " ".join(process.cmdline()) + process.environ().get("TIMESTORE_HOME", "")
            if str(home) in known and process.status() != psutil.STATUS_ZOMBIE and process.pid != os.getpid():
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


@pytest.mark.parametrize("options", [(), ("--queue",)], ids=["inline", "queue"])
def test_the_first_run_answers_a_question_and_the_second_keeps_the_data(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    home = tmp_path / "home"
    first = Dev(home, *options)
    shown = first.wait()
    assert "Loaded 1,461 days" in shown
    assert re.search(r"2012-01-01 .* 7\.1 .* -3\.3 .* 173\.3 .* 8\.2 .* 31", shown)
    assert f"http://127.0.0.1:{first.port}" in shown
    answer = httpx.get(f"http://127.0.0.1:{first.port}/ready").json()
    assert answer["status"] == "ready"
    assert len(below(home)) >= (3 if not options else 6)
    assert first.interrupt() == 0
    wait_until(lambda: not below(home), "every process to end")

    second = Dev(home, *options)
    assert "Loaded" not in second.wait()
    assert second.interrupt() == 0
    wait_until(lambda: not below(home), "every process to end")


def test_two_on_one_home_are_refused_with_advice(tmp_path: Path) -> None:
    home = tmp_path / "home"
    first = Dev(home)
    first.wait()
    second = Dev(home)

    assert second.process.wait(60) == 1
    assert "TIMESTORE_HOME" in second.text
    assert first.interrupt() == 0


def test_a_killed_run_is_taken_up_again(tmp_path: Path) -> None:
    home = tmp_path / "home"
    first = Dev(home)
    first.wait()
    for process in below(home):
        if "postgres" not in process.name():
            process.kill()
    wait_until(lambda: first.process.poll() is not None, "the end of it")
    second = Dev(home)

    assert "Loaded" not in second.wait()
    assert second.interrupt() == 0
    wait_until(lambda: not below(home), "every process to end")
