"""`python -m benchmarks.large_dataset SLUG MEBIBYTES`: fill a dataset with files of 16 MiB, by the shortest way.

The rows are made by DuckDB and published as an ingest publishes them; over HTTP it would take an hour for 5 GiB.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

from benchmarks.batches import FIELDS
from timestore_core.catalog.attempt import Attempt, Claim
from timestore_core.catalog.datasets import find_dataset
from timestore_core.catalog.publish import publish
from timestore_core.model import Field, Schema
from timestore_core.partitions.format import Layout, WrittenFile
from timestore_core.partitions.inspect import inspect
from timestore_core.partitions.stored import Place, store_partition
from timestore_core.plugins import load_plugins
from timestore_core.runtime import Runtime
from timestore_core.settings import load_settings
from timestore_core.times import from_us

_FILE_MIB = 16
_ROWS_PER_FILE = 900_000
_START_US = 1_704_067_200_000_000
_STEP_US = 100_000
_ROWS = """
SELECT make_timestamp({start} + i * {step}) AS timestamp, 'host-' || (i % 100)::VARCHAR AS host,
    random() * 50 - 10 AS temperature_c, random() * 100 AS humidity, (random() * 100000)::BIGINT AS requests,
    random() < 0.9 AS ok
FROM range({rows}) AS r(i)
"""


def main(slug: str, mebibytes: int) -> None:
    """Publish as many files as that many mebibytes take."""
    runtime = Runtime(load_settings(), load_plugins())
    schema = Schema(tuple(Field(name, type_) for name, type_ in FIELDS.items()))  # type: ignore[arg-type]
    dataset = find_dataset(runtime.database, slug)
    assert dataset is not None
    target, key = runtime.targets.default, {"site": "north"}
    format_ = runtime.plugins.partition_format("duckdb")
    for number in range(math.ceil(mebibytes / _FILE_MIB)):
        first_us = _START_US + number * _ROWS_PER_FILE * _STEP_US
        rows = _ROWS.format(start=first_us, step=_STEP_US, rows=_ROWS_PER_FILE)

        def write(path: Path, rows: str = rows) -> WrittenFile:
            with runtime.rewriting.lease([str(path.parent)]) as instance, instance.cursor() as cursor:
                format_.copy(cursor, path, "records", rows, Layout(_ROWS_PER_FILE, 122_880))
                cursor.execute(f"ATTACH '{path}' AS written (READ_ONLY)")
                try:
                    return inspect(cursor, "written.records", schema)
                finally:
                    cursor.execute("DETACH written")

        stored = store_partition(runtime, Place(target, slug, key, "duckdb"), "bench", write)
        attempt = Attempt(
            partition_id=stored.partition_id,
            slug=slug,
            dataset_name=slug,
            target=target,
            schema=schema,
            table_name="records",
            partition_key=key,
            start_time=from_us(first_us),
            end_time=from_us(first_us + _ROWS_PER_FILE * _STEP_US),
            file_format="duckdb",
            file_path=stored.key,
            file_size_bytes=stored.size_bytes,
            row_count=stored.written.rows,
            checksum=stored.checksum,
            statistics=stored.written.statistics,
            claims=(Claim(None, "", stored.written.rows),),
            actor_id=None,
            publish_before_s=stored.publish_before_s,
        )
        publish(runtime.database, attempt)
    runtime.close()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
