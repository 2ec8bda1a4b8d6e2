"""What the core itself gives through the same hooks as any plugin: the DuckDB format and the local engine."""

from __future__ import annotations

from collections.abc import Mapping

from timestore_core.hookspecs import hookimpl
from timestore_core.partitions.duckdb_file import DuckDBFile
from timestore_core.partitions.format import PartitionFormat
from timestore_core.query.engine import LocalEngine, QueryEngineFactory


@hookimpl
def timestore_partition_formats() -> Mapping[str, PartitionFormat]:
    return {"duckdb": DuckDBFile()}


@hookimpl
def timestore_query_engines() -> Mapping[str, QueryEngineFactory]:
    return {"duckdb": LocalEngine}
