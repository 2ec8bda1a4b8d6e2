"""What runs a plan: the engine's interface, and what one is made from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from timestore_core.aggregations import Aggregation
from timestore_core.engine.inline_tables import Load, Loaded
from timestore_core.engine.instance import Engine
from timestore_core.errors import PartitionUnreadable
from timestore_core.model import Schema
from timestore_core.partitions.format import PartitionFormat
from timestore_core.query.plan import QueryPlan
from timestore_core.query.render_sql import Render
from timestore_core.storage import Access


class QueryEngine(Protocol):
    """Runs plans. `formats` are the partition formats that it reads."""

    formats: frozenset[str]

    def batches(
        self, plan: QueryPlan, access: Access, render: Render, is_gone: Callable[[], bool] | None
    ) -> Iterator[pa.RecordBatch]:
        """The answer's rows in order, as `render` makes them, in batches and in bounded memory.

        `access` is what the engine must be able to reach for the plan's files. Closing the iterator gives all of
        it back. The plan's time limit holds for each of its statements, without the time that the caller takes.
        """

    def check(self) -> None:
        """Run a real, tiny query; raises when the engine cannot."""

    def forget(self, locations: Iterable[str]) -> None:
        """These files left their snapshots: close them as soon as no query reads them."""

    def close(self) -> None:
        """Give everything back."""


def _no_inline(schema: Schema, partition_ids: Sequence[str]) -> Iterable[Loaded]:
    """For engines that are made without a catalog."""
    raise PartitionUnreadable(f"there is no catalog to read {len(partition_ids)} partitions from ({schema.names})")


@dataclass(frozen=True, slots=True)
class EngineParts:
    """What an engine is made from.

    `load_inline` gives the rows of partitions that are no files; `cache` is the directory of the files that were
    fetched from remote stores.
    """

    engine: Engine
    formats: Mapping[str, PartitionFormat]
    aggregations: Mapping[str, Aggregation]
    max_attached: int
    load_inline: Load = _no_inline
    cache: str = ""


QueryEngineFactory = Callable[[EngineParts], QueryEngine]
