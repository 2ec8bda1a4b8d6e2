"""Every hook that a plugin may implement. Register a module under the entry-point group `timestore`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import pluggy

if TYPE_CHECKING:
    from timestore_core.aggregations import Aggregation
    from timestore_core.model import Actor, Dataset, Manifest
    from timestore_core.partitions.format import PartitionFormat
    from timestore_core.query.engine import QueryEngineFactory
    from timestore_core.query.plan import QueryPlan
    from timestore_core.queues import QueueFactory
    from timestore_core.settings import Settings
    from timestore_core.storage import StorageKind

GROUP = "timestore"
Action = Literal["read", "write", "admin"]

hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)


@hookspec
def timestore_storage_drivers() -> Mapping[str, StorageKind]:
    """Storage kinds by name: how a target of that kind is opened."""
    raise NotImplementedError


@hookspec
def timestore_partition_formats() -> Mapping[str, PartitionFormat]:
    """Partition formats by name: how one file is written, verified and scanned."""
    raise NotImplementedError


@hookspec
def timestore_aggregations() -> Mapping[str, Aggregation]:
    """Aggregation functions by their `fn` name."""
    raise NotImplementedError


@hookspec
def timestore_queues() -> Mapping[str, QueueFactory]:
    """Queues by the scheme of REDIS_URL that selects them (`inline`, `redis`, …)."""
    raise NotImplementedError


@hookspec
def timestore_query_engines() -> Mapping[str, QueryEngineFactory]:
    """Query engines by name; each runs a plan and says which formats it reads."""
    raise NotImplementedError


@hookspec(firstresult=True)
def timestore_principal(headers: Mapping[str, str], settings: Settings) -> Actor | None:
    """Who asks, from the request's headers (names in lower case). The first answer wins."""
    raise NotImplementedError


@hookspec(firstresult=True)
def timestore_authorize(actor: Actor, action: Action, dataset: Dataset | None, settings: Settings) -> bool | None:
    """May they? The first answer wins; no answer at all means no. `dataset` is None for what has none yet."""
    raise NotImplementedError


@hookspec
def timestore_published(dataset: Dataset, manifest: Manifest) -> None:
    """A snapshot became visible. Exceptions are logged and go no further."""
    raise NotImplementedError


@hookspec
def timestore_queried(plan: QueryPlan, rows: int, elapsed_ms: float) -> None:
    """A query was answered. Exceptions are logged and go no further."""
    raise NotImplementedError


@hookspec
def timestore_step(step: str) -> None:
    """An ingest reached the named step (`ingest.file_written`, …). For tracing and for tests that crash there."""
    raise NotImplementedError
