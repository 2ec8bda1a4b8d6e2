"""An HTTP server that answers by the contract, and the commands that ask it."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import typer
from timestore_workers.ingest_command import ingest
from timestore_workers.query_command import query
from typer.testing import CliRunner, Result

SEATTLE = Path(__file__).parents[3] / "examples/data/seattle-weather.csv"
ANSWER = (
    '{"rows":[{"timestamp":"2024-01-01T00:00:00.000Z","n":9007199254740993,"x":20.10,"s":"a,\\"b\\"","e":""},'
    '{"timestamp":"2024-01-02T00:00:00.000Z","n":null,"x":1e-7,"s":null,"e":null}],'
    '"columns":["timestamp","n","x","s","e"],"mode":"raw"}'
)


@dataclass
class Fault:
    """What the server answers instead; status None hangs up without an answer."""

    status: int | None
    body: bytes = b'{"statusCode":503,"error":"Service Unavailable","message":"busy"}'
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Service:
    """A stand-in for the service: takes batches by their keys, answers queries with `answer`."""

    url: str = ""
    requests: list[tuple[str, dict[str, str], dict[str, Any]]] = field(default_factory=list)
    batches: dict[str, dict[str, Any]] = field(default_factory=dict)
    faults: list[Fault | None] = field(default_factory=list)
    answer: str = ANSWER
    queued: bool = False
    ingest_delay_s: float = 0.0

    def take(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, str], str]:
        if path.endswith("/query"):
            return 200, {}, self.answer
        time.sleep(self.ingest_delay_s)
        if self.queued:
            return 202, {}, '{"mode":"queued","jobId":"j1"}'
        known = self.batches.setdefault(body["idempotencyKey"], body)
        if known is not body and known != body:
            refusal = {"statusCode": 409, "error": "Conflict", "message": "the key was used with other rows"}
            return 409, {}, json.dumps(refusal)
        version = list(self.batches).index(body["idempotencyKey"]) + 1
        headers = {"idempotent-replayed": "true"} if known is not body else {}
        return 201, headers, json.dumps({"mode": "inline", "manifest": {"version": version}})

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [body for _, _, body in self.requests]


def run(*arguments: str | Path, env: dict[str, str] | None = None) -> Result:
    app = typer.Typer()
    app.command()(ingest)
    app.command()(query)
    return CliRunner().invoke(app, [str(one) for one in arguments], env={"COLUMNS": "100", **(env or {})})


def sent(service: Service, *arguments: str | Path) -> Result:
    return run("ingest", "--url", service.url, *arguments)


def hourly(tmp_path: Path, rows: int = 100, name: str = "hourly.csv") -> Path:
    path = tmp_path / name
    lines = [f"2024-01-{1 + row // 24:02}T{row % 24:02}:00:00Z,{row}" for row in range(rows)]
    path.write_text("time,n\n" + "\n".join(lines) + "\n")
    return path
