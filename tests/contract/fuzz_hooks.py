"""What schemathesis loads: beside its own inputs, half of all bodies and paths make sense, so that more is reached."""

from __future__ import annotations

import os
import string
import zlib
from typing import Any

import schemathesis
from hypothesis import strategies as st
from schemathesis import Case, HookContext
from schemathesis.core.failures import AcceptedNegativeData, Failure
from schemathesis.core.transport import Response

from timestore_core.admin.versions import MAX_WAIT_S
from timestore_core.lifecycle.runs import OPERATIONS
from timestore_core.plugins import load_plugins
from timestore_core.query.request import MAX_LIMIT

SLUGS = [f"fuzzed-{letter}" for letter in "abcd"]
PINS = ["first", "second"]
COLUMNS = {"timestamp": "timestamp", "site": "string", "value": "double", "samples": "integer", "ok": "boolean"}
FUNCTIONS = sorted(load_plugins().aggregations)
INGEST, QUERY = "POST /datasets/{slug}/ingest", "POST /datasets/{slug}/query"

times = st.integers(0, 86_399).map(lambda s: f"2024-01-01T{s // 3600:02}:{s // 60 % 60:02}:{s % 60:02}Z")
ranges = st.lists(times, min_size=2, max_size=2).map(sorted).map(lambda ends: {"start": ends[0], "end": ends[1]})
columns = st.sampled_from(sorted(COLUMNS))
values = {
    "timestamp": times,
    "string": st.text(max_size=20),
    "double": st.floats(allow_nan=False, allow_infinity=False),
    "integer": st.integers(-(2**63), 2**63 - 1),
    "boolean": st.booleans(),
}


@st.composite
def batches(draw: st.DrawFn) -> dict[str, Any]:
    """A batch of a few known columns that fits, nearly always."""
    names = ["timestamp", *draw(st.sets(columns))]
    fields = [{"name": name, "type": COLUMNS[name]} for name in dict.fromkeys(names)]
    row = st.fixed_dictionaries({}, optional={one["name"]: values[one["type"]] for one in fields})
    return {
        "schema": {"fields": fields},
        "partition": {"key": {"site": draw(st.sampled_from(["north", "south"]))}, "timeRange": draw(ranges)},
        "rows": draw(st.lists(row, max_size=5)),
        "idempotencyKey": draw(st.sampled_from([f"key-{number}" for number in range(20)]) | st.none()),
    }


aggregations = st.fixed_dictionaries(
    {"fn": st.sampled_from(FUNCTIONS), "column": columns, "percentile": st.floats(0, 1)},
    optional={"alias": st.sampled_from(["a", "b", "c", "d"])},
)
downsamples = st.fixed_dictionaries(
    {"aggregations": st.lists(aggregations, min_size=1, max_size=4)},
    optional={
        "intervalUnit": st.sampled_from(["second", "minute", "hour", "day", "week", "month"]),
        "intervalSize": st.integers(1, 1000),
    },
)
queries = st.fixed_dictionaries(
    {"timeRange": ranges},
    optional={
        "columns": st.lists(columns, min_size=1, max_size=4),
        "limit": st.integers(1, MAX_LIMIT),
        "filters": st.fixed_dictionaries({"partitionKey": st.just({"site": ["north"]})}),
        "downsample": downsamples,
    },
)
new_datasets = st.fixed_dictionaries(
    {"slug": st.sampled_from(SLUGS)},
    optional={"description": st.text(alphabet=string.ascii_letters), "metadata": st.just({"owner": "fuzz"})},
)
new_targets = st.fixed_dictionaries(
    {
        "name": st.integers(0, 1_000_000).map(str),
        "kind": st.just("local"),
        "config": st.just({"root": "/tmp"}),
    }
)
slugs = st.sampled_from(SLUGS)
runs = st.fixed_dictionaries(
    {"datasetSlug": slugs, "operations": st.lists(st.sampled_from(sorted(OPERATIONS)), min_size=1, max_size=3)},
    optional={"dryRun": st.booleans(), "force": st.booleans()},
)
versions = st.fixed_dictionaries({"version": st.integers(1, 30)}, optional={"dryRun": st.booleans()})
deletions = st.fixed_dictionaries(
    {"timeRange": ranges},
    optional={
        "filters": st.fixed_dictionaries({"partitionKey": st.just({"site": ["north"]})}),
        "dryRun": st.booleans(),
    },
)
# Without a grace period what is removed is collected by the next run.
policies = st.fixed_dictionaries(
    {"mode": st.sampled_from(["time", "size"]), "deleteGraceMinutes": st.just(0)},
    optional={"rules": st.fixed_dictionaries({"maxTotalBytes": st.integers(10_000, 200_000)})},
)
SENSIBLE = {
    INGEST: batches(),
    QUERY: queries,
    "POST /admin/datasets": new_datasets,
    "POST /admin/storage-targets": new_targets,
    "POST /admin/lifecycle/run": runs,
    "POST /admin/datasets/{key}/delete-rows": deletions,
    "POST /admin/datasets/{key}/restore": versions,
    "PUT /admin/datasets/{key}/pins/{name}": versions,
    "PUT /admin/datasets/{key}/retention": policies,
}


@schemathesis.hook
def before_generate_body(context: HookContext, strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Half of the bodies that make or ask for something are sensible."""
    assert context.operation is not None
    sensible = SENSIBLE.get(context.operation.label)
    return strategy if sensible is None else strategy | sensible


@schemathesis.hook
def before_generate_path_parameters(context: HookContext, strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Half of the paths lead to the same few datasets."""
    assert context.operation is not None
    known = {"slug": slugs, "key": slugs, "name": st.sampled_from(PINS)}
    names = [one.name for one in context.operation.path_parameters]
    if not names or not known.keys() >= set(names):
        return strategy
    return strategy | st.fixed_dictionaries({name: known[name] for name in names})


@schemathesis.hook
def before_call(context: HookContext, case: Case, kwargs: dict[str, Any]) -> None:
    """Keep what is sent harmless to the machine, mostly uncompressed and, where scopes are demanded, mostly allowed."""
    # A local target may be any directory of the host: all of them become the service's own.
    config = case.body.get("config") if isinstance(case.body, dict) else None
    if isinstance(config, dict) and str(config.get("root", "")).startswith("/"):
        config["root"] = os.environ["FUZZED_STORAGE_ROOT"]
    chance = zlib.crc32(f"{case.path_parameters} {case.query} {case.body!r}".encode("utf-8", "replace")) % 10
    # No body is really compressed here: one in ten still says that it is, and is refused.
    if chance > 0:
        case.headers.pop("Content-Encoding", None)
    # Whoever waits for changes takes a thread and the fuzzer's time: one in ten waits a second.
    if str((case.query or {}).get("wait")) in map(str, range(1, MAX_WAIT_S + 1)):
        case.query["wait"] = 1 if chance == 0 else 0
    if "FUZZED_SCOPES" in os.environ and chance > 1:
        case.headers["X-IAM-Scopes"] = os.environ["FUZZED_SCOPES"]


@schemathesis.hook
def filter_failure(context: HookContext, failure: Failure, case: Case, response: Response) -> bool:
    """The header's key is not looked at beside the body's: it may be too long then. Of a URL's parameters those that
    the document does not know are not looked at, but where data goes.
    """
    has_two_keys = isinstance(case.body, dict) and "idempotencyKey" in case.body and "Idempotency-Key" in case.headers
    known = {one.name for one in case.operation.query}
    has_others = case.method != "DELETE" and bool(set(case.query or {}) - known)
    return not ((has_two_keys or has_others) and isinstance(failure, AcceptedNegativeData))
