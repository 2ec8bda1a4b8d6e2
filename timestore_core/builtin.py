"""What the core itself gives through the same hooks as any plugin: two file formats and the local engine."""

from __future__ import annotations

from collections.abc import Mapping

from timestore_core.hookspecs import hookimpl
from timestore_core.partitions.duckdb_file import DuckDBFile
from timestore_core.partitions.format import PartitionFormat
from timestore_core.partitions.parquet_file import ParquetFile
from timestore_core.query.engine import QueryEngineFactory
from timestore_core.query.local_engine import LocalEngine


@hookimpl
def timestore_partition_formats() -> Mapping[str, PartitionFormat]:
    return {"duckdb": DuckDBFile(), "parquet": ParquetFile()}


@hookimpl
def timestore_query_engines() -> Mapping[str, QueryEngineFactory]:
    return {"duckdb": LocalEngine}
