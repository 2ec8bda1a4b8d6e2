"""Node's BullMQ in chosen releases: installed once from npm, and driven by JSON over the pipes of a process."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

from filelock import FileLock

# The release that the Node services came with, the last 5.x, and the newest of all (`npm view bullmq versions`).
OLD, LAST_5, NEWEST = "5.58.8", "5.81.5", "6.7.0"
VERSIONS = (OLD, LAST_5, NEWEST)
# BullMQ's Redis client, which 6.x no longer brings along.
IOREDIS_VERSION = "5.11.1"

INSTALL_TIMEOUT_S = 300
ANSWER_TIMEOUT_S = 120
SCRIPTS = Path(__file__).parent / "node"


class NodeUnavailable(Exception):
    """There is no Node or npm here, or npm cannot install; the text says which."""


@dataclass(frozen=True)
class BullMq:
    """An installed release."""

    version: str
    home: Path

    @property
    def major(self) -> int:
        return int(self.version.partition(".")[0])


def install(version: str, cache: Path) -> BullMq:
    """The release, installed below `cache` unless it is there already. Raises NodeUnavailable."""
    for command in ("node", "npm"):
        if shutil.which(command) is None:
            raise NodeUnavailable(f"there is no {command} on PATH")
    home = cache / f"bullmq-{version}-ioredis-{IOREDIS_VERSION}"
    with FileLock(cache / ".lock"):
        if not home.exists():
            _npm_install(version, home)
    return BullMq(version, home)


def _npm_install(version: str, home: Path) -> None:
    """Install beside, then rename: what is found under its name is whole."""
    beside = home.with_name(f".{uuid4().hex}")
    beside.mkdir()
    packages = [f"bullmq@{version}", f"ioredis@{IOREDIS_VERSION}"]
    options = ["--no-save", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(beside)]
    try:
        done = subprocess.run(
            ["npm", "install", *options, *packages], capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S
        )
        if done.returncode != 0:
            raise NodeUnavailable(f"npm could not install bullmq {version}: {done.stderr.strip()[-500:]}")
        beside.rename(home)
    except subprocess.TimeoutExpired:
        raise NodeUnavailable(f"npm could not install bullmq {version} in {INSTALL_TIMEOUT_S} s") from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)


class NodeError(Exception):
    """What an operation threw in Node."""


class Node:
    """A Node process with one release of BullMQ, which does what it is asked. Thread-safe."""

    def __init__(self, role: Literal["producer", "consumer"], bullmq: BullMq, redis_url: str, log: Path) -> None:
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._waiting: dict[int, Future[Any]] = {}
        environment = {**os.environ, "BULLMQ_HOME": str(bullmq.home), "REDIS_URL": redis_url}
        with log.open("ab") as stderr:
            self._process = subprocess.Popen(
                ["node", str(SCRIPTS / f"{role}.mjs")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=environment,
                start_new_session=True,
            )
        self._log = log
        threading.Thread(target=self._read, name=f"node-{role}", daemon=True).start()

    def ask(self, operation: str, **given: Any) -> Any:
        """Do it, and what it gave. Raises NodeError with the message of what it threw."""
        return self.begin(operation, **given).result(ANSWER_TIMEOUT_S)

    def begin(self, operation: str, **given: Any) -> Future[Any]:
        """Do it; what it gives comes later."""
        asked: Future[Any] = Future()
        with self._lock:
            number = next(self._numbers)
            self._waiting[number] = asked
            self._write({"id": number, "operation": operation, "given": given})
        return asked

    def kill(self) -> None:
        """SIGKILL, at once: no lock is released, no job is given back."""
        self._process.kill()
        self._process.wait(30)

    def _write(self, line: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(line).encode() + b"\n")
        self._process.stdin.flush()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for text in self._process.stdout:
            line = json.loads(text)
            asked = self._waiting.pop(line["id"])
            if "error" in line:
                asked.set_exception(NodeError(line["error"]))
            else:
                asked.set_result(line["result"])
        for asked in list(self._waiting.values()):
            asked.set_exception(NodeError(f"the Node process ended; its log is {self._log}"))
