"""What the tests of maintenance share: a service with its files, asked by the document, and rows hard to keep."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from timestore_http.openapi.document import make_document

from tests.contract.document import Document
from tests.service import ALL_TIME, Service, batch
from timestore_core.plugins import load_plugins
from timestore_core.settings import Settings

Json = dict[str, Any]
PLUGINS = load_plugins()
DOCUMENT = Document(make_document(PLUGINS, Settings()))


@dataclass(frozen=True)
class Stand:
    """A service, the directory of its default target, and its settings for commands beside it."""

    service: Service
    root: Path
    settings: dict[str, str]

    def files(self, root: Path | None = None) -> set[str]:
        """Every partition file below the root, by its path."""
        below = root or self.root
        found = [*below.rglob("*.duckdb"), *below.rglob("part-*.parquet")]
        return {path.relative_to(below).as_posix() for path in found if ".tmp" not in path.parts}

    def files_of(self, slug: str) -> set[str]:
        """Those of a dataset whose slug is its folder's name."""
        return {path for path in self.files() if path.startswith(f"{slug}/")}

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A `timestore` command on the service's settings, at its end."""
        main = "from timestore_workers.cli import main; main()"
        environment = {key: value for key, value in os.environ.items() if not key.startswith("TIMESTORE_")}
        return subprocess.run(
            [sys.executable, "-c", main, *arguments],
            env={**environment, "REDIS_URL": "inline", **self.settings},
            capture_output=True,
            text=True,
            timeout=120,
        )


def make_stand(make_service: Callable[..., Service], postgres_url: str, root: Path, **settings: str) -> Stand:
    """A running service of a schema of its own over the root."""
    given = {
        "TIMESTORE_DATABASE_URL": postgres_url,
        "TIMESTORE_PG_SCHEMA": f"l_{uuid4().hex[:12]}",
        "TIMESTORE_STORAGE_ROOT": str(root),
        "TIMESTORE_QUERY_CACHE_DIR": str(root.with_name(f"{root.name}-cache")),
        **settings,
    }
    return Stand(make_service(**given).start(), root, given)


def ask(service: Service, method: str, path: str, body: Any = None, *, status: int = 200, **params: Any) -> Json:
    """The answer, which has this status and is as the document says."""
    answer = service.client.request(method, path, json=body, params=params)
    assert answer.status_code == status, answer.text
    operation = DOCUMENT.operation(method, path)
    assert operation is not None
    found: Json = answer.json()
    assert DOCUMENT.answer_problems(operation, status, found, answer.headers) == []
    if status < 400 and body is not None:
        assert DOCUMENT.request_problems(operation, body) == []
    return found


def run(service: Service, slug: str, *operations: str, **more: Any) -> Json:
    """The report of these operations, run now."""
    body = {"datasetSlug": slug, "operations": list(operations), **more}
    report: Json = ask(service, "POST", "/admin/lifecycle/run", body)["report"]
    return report


def outcome(service: Service, slug: str, operation: str, **more: Any) -> Json:
    """What the one operation did."""
    (found,) = run(service, slug, operation, **more)["operations"]
    assert found["operation"] == operation
    done: Json = found
    return done


def ingest(service: Service, slug: str, body: Json, key: str | None = None) -> Json:
    """Send a batch that is published; the answer."""
    answer = service.ingest(slug, body, key)
    assert answer.status_code == 201, answer.text
    found: Json = answer.json()
    return found


def head(service: Service, slug: str) -> Json:
    """The published manifest, with its partitions."""
    manifest: Json = ask(service, "GET", f"/admin/datasets/{slug}/manifest")["manifest"]
    return manifest


def events(service: Service, slug: str, type_: str) -> list[Json]:
    """The payloads of these events of the dataset, newest first."""
    found = ask(service, "GET", f"/admin/datasets/{slug}/audit", eventType=type_, limit=100)["events"]
    return [one["payload"] for one in found]


def policy(service: Service, slug: str, **policy: Any) -> None:
    """Store the retention policy; what is removed may be collected at once."""
    ask(service, "PUT", f"/admin/datasets/{slug}/retention", {"deleteGraceMinutes": 0, **policy})


def numbers(service: Service, slug: str, *batches: list[int]) -> list[Json]:
    """Ingest a batch of each of the lists; its partition."""
    return [ingest(service, slug, batch(one))["manifest"]["partitions"][0] for one in batches]


def delete_rows(service: Service, slug: str, start: str, end: str, *, status: int = 200, **more: Any) -> Json:
    """What the deletion of the range answers."""
    body = {"timeRange": {"start": start, "end": end}, **more}
    return ask(service, "POST", f"/admin/datasets/{slug}/delete-rows", body, status=status)


def changes(service: Service, slug: str, since: Any, *, status: int = 200, **more: Any) -> Json:
    """What came and went since the version."""
    return ask(service, "GET", f"/admin/datasets/{slug}/changes", status=status, since=since, **more)


def restore(service: Service, slug: str, version: int, *, status: int = 200) -> Json:
    """What bringing the version back answers."""
    return ask(service, "POST", f"/admin/datasets/{slug}/restore", {"version": version}, status=status)


COLUMNS = {
    "timestamp": "timestamp",
    "seen": "timestamp",
    "site": "string",
    "note": "string",
    "value": "double",
    "extreme": "double",
    "nothing": "double",
    "count": "integer",
    "large": "integer",
    "ok": "boolean",
}
KEYS: list[dict[str, str]] = [
    {"site": "north"},
    # Its folder is the one above's: a path is folded, a key is not.
    {"site": "North"},
    {"site": "south", "window": "w1"},
    {"site": "south", "window": "w2"},
]
_DAY_S = 86_400


def hard_batch(number: int, rows: int = 20) -> Json:
    """Rows with ties, NULLs of every kind, and values at the ends of their types; the same for a number each time."""
    chance = random.Random(number)
    key = KEYS[number % len(KEYS)]
    # Few different times over forty days: most rows share theirs with rows of other batches.
    start_s = chance.randrange(0, 40) * _DAY_S
    made = [_hard_row(chance, key["site"], start_s) for _ in range(rows)]
    times = [row["timestamp"] for row in made if row["timestamp"]] or [_time(start_s)]
    return {
        "tableName": "observations",
        "schema": {"fields": [{"name": name, "type": type_} for name, type_ in COLUMNS.items()]},
        "partition": {"key": key, "timeRange": {"start": min(times), "end": max(times)}},
        "rows": made,
    }


def _hard_row(chance: random.Random, site: str, start_s: int) -> Json:
    moment = _time(start_s + chance.choice([0, 0, 1, 59, 60, 3599, 3600, 50_000]), chance.choice(["", ".000001", ".5"]))
    row: Json = {
        "timestamp": moment,
        "seen": _time(chance.randrange(0, 90) * _DAY_S),
        "site": site,
        "note": chance.choice(["", " ", "a", "A", "\u00e4\u0301", "\U0001f321", "x" * 70, None]),
        "value": chance.choice([-0.0, 0.0, 0.1, 0.2, -17.35, round(chance.uniform(-1e6, 1e6), 3)]),
        "extreme": chance.choice([1e308, -1e308, 5e-324, -5e-324, 2.0**53 + 1]),
        "nothing": None,
        "count": chance.choice([0, 1, -1, 42]),
        "large": chance.choice([2**53 + 1, -(2**53) - 1, 2**63 - 1, -(2**63), 2**60 + 7]),
        "ok": chance.choice([True, False]),
    }
    for name in row:
        if name not in ("site", "nothing") and chance.random() < 0.06:
            row[name] = None
    return row


def _time(second: int, fraction: str = "") -> str:
    day, rest = divmod(second, _DAY_S)
    month, day = divmod(day, 28)
    return f"2024-{1 + month:02}-{1 + day:02}T{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}{fraction}Z"


def questions() -> Iterator[tuple[str, Json]]:
    """Every kind of query over these columns, by a name."""
    february = {"start": "2024-01-20T00:00:01Z", "end": "2024-02-09T13:53:20Z"}
    yield "all rows", {"timeRange": ALL_TIME}
    yield "a range", {"timeRange": february}
    yield "some columns", {"timeRange": ALL_TIME, "columns": ["value", "timestamp", "note"]}
    yield "by another time", {"timeRange": ALL_TIME, "timestampColumn": "seen"}
    for limit in (1, 7, 50, 333, 10_000):
        yield f"the first {limit}", {"timeRange": ALL_TIME, "limit": limit}
        yield f"the first {limit} of a range", {"timeRange": february, "limit": limit, "columns": ["timestamp", "ok"]}
    filters: list[dict[str, list[str]]] = [
        {"site": ["north"]},
        {"site": ["North"]},
        {"site": ["north", "south"], "window": ["w1", "w2"]},
        {"window": ["w2", "nowhere"]},
        {"site": ["nowhere"]},
    ]
    for accepted in filters:
        yield f"of {accepted}", {"timeRange": ALL_TIME, "filters": {"partitionKey": accepted}}
    for unit in ("second", "minute", "hour", "day", "week", "month"):
        for size in (1, 3):
            asked = {"intervalUnit": unit, "intervalSize": size, "aggregations": aggregations()}
            yield f"every {size} {unit}", {"timeRange": ALL_TIME, "downsample": asked}
        rest = {"timeRange": february, "filters": {"partitionKey": {"site": ["south", "North"]}}}
        yield f"every {unit} of some", {**rest, "downsample": {"intervalUnit": unit, "aggregations": aggregations()}}


# Those whose answers are the same to the last bit however the rows are cut into files.
EXACT_FUNCTIONS = ("avg", "count", "count_distinct", "max", "median", "min", "percentile", "sum")


def aggregations() -> list[Json]:
    """Each function over every column that it takes; of columns beyond all bounds no sums, which no double holds."""
    asked: list[Json] = [{"fn": "count"}]
    for name in EXACT_FUNCTIONS:
        function = PLUGINS.aggregations[name]
        for column, type_ in COLUMNS.items():
            if type_ in function.column_types and not (column == "extreme" and name in ("sum", "avg")):
                one = {"fn": name, "column": column, "alias": f"{name} of {column}"}
                asked.append({**one, "percentile": 0.3} if name == "percentile" else one)
    return asked


def answers(service: Service, slug: str) -> dict[str, bytes]:
    """The bytes of the answer to each question."""
    found = {}
    for name, question in questions():
        answer = service.query(slug, question)
        assert answer.status_code == 200, (name, answer.text)
        found[name] = answer.content
    return found


def changed(before: dict[str, bytes], after: dict[str, bytes]) -> list[str]:
    """The questions that have another answer now, each with where the two part."""
    return [
        f"{name}: …{before[name][max(0, at - 60) : at + 60]!r} is …{after[name][max(0, at - 60) : at + 60]!r}"
        for name in before
        if before[name] != after[name]
        for at in [next((i for i, (a, b) in enumerate(zip(before[name], after[name], strict=False)) if a != b), 0)]
    ]
