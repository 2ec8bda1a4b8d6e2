"""Queues of their own on a shared Valkey, and both sides of them: our processes and Node's."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import psycopg
import redis
from psycopg.rows import dict_row

from tests.interop.node_bullmq import BullMq, Node
from tests.service import ALL_TIME, Service, Worker, wait_until

FINISH_TIMEOUT_S = 90


@dataclass
class Stand:
    """Two queues with a schema behind them. Nothing runs until it is asked for; `close` kills all of it."""

    bullmq: BullMq
    redis_url: str
    settings: dict[str, str]
    home: Path
    make_service: Callable[..., Service]
    ingest_queue: str
    lifecycle_queue: str
    _workers: list[Worker] = field(default_factory=list)
    _nodes: dict[str, Node] = field(default_factory=dict)
    _services: list[Service] = field(default_factory=list)

    def serve(self, **settings: str) -> Service:
        """A started server in queue mode."""
        service = self.make_service(**{**self.settings, **settings})
        self._services.append(service)
        return service.start()

    @property
    def service(self) -> Service:
        """The stand's first server, started when it is first needed."""
        return self._services[0] if self._services else self.serve()

    def worker(self, kind: str = "ingest", **settings: str) -> Worker:
        """A worker of ours, not started yet."""
        log = self.home / f"{kind}-{len(self._workers)}.log"
        self._workers.append(Worker(kind, {**self.settings, **settings}, log))
        return self._workers[-1]

    def node(self, role: Literal["producer", "consumer"], name: str = "", bullmq: BullMq | None = None) -> Node:
        """The Node process of that role and name, started when first needed; of the stand's release, or another."""
        key = f"{role}{name}"
        if key not in self._nodes:
            self._nodes[key] = Node(role, bullmq or self.bullmq, self.redis_url, self.home / f"{key}.log")
        return self._nodes[key]

    @property
    def producer(self) -> Node:
        return self.node("producer")

    def add(self, slug: str, data: Any, **options: Any) -> str:
        """Put an ingestion job in from Node; its id."""
        added: str = self.producer.ask("add", queue=self.ingest_queue, name=slug, data=data, options=options)
        return added

    def finished(self, job_id: str) -> Any:
        """What Node's `waitUntilFinished` resolves to. Raises NodeError with the reason where the job failed."""
        return self.finishing(job_id).result(FINISH_TIMEOUT_S)

    def finishing(self, job_id: str) -> Future[Any]:
        timeout_ms = FINISH_TIMEOUT_S * 1000
        return self.producer.begin("finished", queue=self.ingest_queue, id=job_id, timeout_ms=timeout_ms)

    def job(self, job_id: str) -> dict[str, Any]:
        """The job as Node reads it."""
        found: dict[str, Any] = self.producer.ask("job", queue=self.ingest_queue, id=job_id)
        return found

    def node_state(self, job_id: str) -> str:
        state: str = self.producer.ask("state", queue=self.ingest_queue, id=job_id)
        return state

    def status(self, slug: str, job_id: str) -> dict[str, Any]:
        """Where our service says that the job stands."""
        answer = self.service.client.get(f"/datasets/{slug}/ingest/jobs/{job_id}")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def heard(self, event: str, job_id: str) -> list[dict[str, Any]]:
        """The events of that name that Node's QueueEvents brought for the job."""
        heard = self.producer.ask("heard", queue=self.ingest_queue)
        return [one for one in heard if one["event"] == event and one.get("jobId") == job_id]

    def visible(self, slug: str) -> list[int]:
        """Every visible row's number, in order."""
        return sorted(row["n"] for row in self.rows(slug))

    def rows(self, slug: str) -> list[dict[str, Any]]:
        answer = self.service.query(slug, {"timeRange": ALL_TIME})
        if answer.status_code == 404:
            return []
        assert answer.status_code == 200, answer.text
        rows: list[dict[str, Any]] = answer.json()["rows"]
        return rows

    @cached_property
    def redis(self) -> redis.Redis:
        return redis.Redis.from_url(self.redis_url, decode_responses=True)

    def raw_data(self, job_id: str) -> dict[str, Any]:
        """The job's data as it stands in Redis, every digit of it."""
        found: Any = self.redis.hget(f"bull:{self.ingest_queue}:{job_id}", "data")
        data: dict[str, Any] = json.loads(found)
        return data

    def catalog(self, statement: str, *values: Any) -> list[dict[str, Any]]:
        """The rows of a question to the stand's schema."""
        with self.connection() as connection:
            return connection.execute(statement, values).fetchall()

    def connection(self) -> psycopg.Connection[dict[str, Any]]:
        """A connection to the stand's schema; what it locks is free when its block ends."""
        url, schema = self.settings["TIMESTORE_DATABASE_URL"], self.settings["TIMESTORE_PG_SCHEMA"]
        return psycopg.connect(url, row_factory=dict_row, options=f"-c search_path={schema}", autocommit=True)

    @property
    def consumer(self) -> Node:
        return self.node("consumer")

    def work_from_node(self, **how: Any) -> None:
        """Start Node's worker on the ingestion queue: it holds each job until it is released."""
        self.consumer.ask("work", queue=self.ingest_queue, **{"options": {}, "hold": True, **how})

    def taken(self, job_id: str, times: int = 1) -> dict[str, Any]:
        """The job as Node's worker got it the last time, when it has got it that often."""

        def deliveries() -> Any:
            seen = [one for one in self.consumer.ask("seen", queue=self.ingest_queue) if one["id"] == job_id]
            return seen if len(seen) >= times else None

        seen: list[dict[str, Any]] = wait_until(deliveries, f"Node's worker to take the job {job_id}", FINISH_TIMEOUT_S)
        assert len(seen) == times
        return seen[-1]

    def release(self, job_id: str, **how: Any) -> None:
        """Let Node's worker end the job that it holds: with a `result`, or `failed` with that reason."""
        self.consumer.ask("release", queue=self.ingest_queue, id=job_id, how=how)

    def close(self) -> None:
        for worker in self._workers:
            worker.kill()
        for service in self._services:
            service.kill()
        for node in self._nodes.values():
            node.kill()


def make_stand(
    bullmq: BullMq, redis_url: str, postgres_url: str, home: Path, make_service: Callable[..., Service]
) -> Stand:
    name = f"{bullmq.version.replace('.', '_')}_{uuid4().hex[:8]}"
    settings = {
        "REDIS_URL": redis_url,
        "TIMESTORE_DATABASE_URL": postgres_url,
        "TIMESTORE_PG_SCHEMA": f"n_{name}",
        "TIMESTORE_STORAGE_ROOT": str(home / "storage"),
        "TIMESTORE_INGEST_QUEUE_NAME": f"ingest_{name}",
        "TIMESTORE_LIFECYCLE_QUEUE_NAME": f"lifecycle_{name}",
        "TIMESTORE_INGEST_SWEEP_AFTER_MS": "1000",
    }
    return Stand(bullmq, redis_url, settings, home, make_service, f"ingest_{name}", f"lifecycle_{name}")


def job_data(slug: str, body: dict[str, Any]) -> dict[str, Any]:
    """What a Node producer sends with a batch."""
    return {**body, "datasetSlug": slug, "receivedAt": "2024-05-01T12:00:00.000Z"}
