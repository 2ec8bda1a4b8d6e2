"""Batches that are nothing but rows, by their media type: what stands around the rows is in the query string."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pyarrow as pa
import pyarrow.compute as pc

from timestore_core.catalog.snapshots import Head
from timestore_core.errors import InvalidRequest
from timestore_core.ingest.arrow_rows import read_arrow
from timestore_core.ingest.csv_rows import read_csv
from timestore_core.ingest.envelope import Envelope
from timestore_core.ingest.limits import Limits, check_names
from timestore_core.ingest.ndjson_rows import read_ndjson
from timestore_core.ingest.parameters import Parameters
from timestore_core.ingest.parquet_rows import read_parquet
from timestore_core.ingest.pipeline import Batch
from timestore_core.ingest.rows import ARROW_TYPES, content_hash
from timestore_core.model import Field, FieldType, Schema, TimeRange
from timestore_core.runtime import Runtime

TIMESTAMP = "timestamp"
Columns = tuple[tuple[Field, ...], list[pa.ChunkedArray]]
Reader = Callable[[bytes, Mapping[str, FieldType], Limits], Columns]

READERS: Mapping[str, Reader] = {
    "application/x-ndjson": read_ndjson,
    "text/csv": read_csv,
    "application/vnd.apache.arrow.stream": read_arrow,
    "application/vnd.apache.parquet": read_parquet,
}


def decode_rows(
    runtime: Runtime, slug: str, media_type: str, body: bytes, parameters: Parameters, head: Head | None
) -> Batch:
    """The batch of a body of one of READERS, every value checked. Raises InvalidRequest and TooLarge.

    A column's type is the one that the parameters name, else the dataset's, else what it comes with or looks like.
    """
    limits = Limits(runtime.settings)
    timestamp = parameters.timestamp_column or TIMESTAMP
    known: dict[str, FieldType] = {timestamp: "timestamp"}
    known |= {field.name: field.type for field in (head.schema.fields if head is not None else ())}
    known |= {field.name: field.type for field in parameters.schema.fields}
    fields, columns = READERS[media_type](body, known, limits)
    rows = pa.Table.from_arrays(columns, names=[field.name for field in fields]) if columns else _none(fields)
    rows, schema = _with_declared(rows, Schema(fields), parameters.schema, limits)
    if not schema.fields:
        raise InvalidRequest.at(
            "rows", "have no column with a value or a declared type; send rows, or schema=name:type"
        )
    runtime.plugins.step("ingest.decoded")
    envelope = Envelope(
        dataset_name=parameters.dataset_name or slug,
        storage_target_id=parameters.storage_target_id,
        table_name=parameters.table_name,
        schema=schema,
        partition_key=parameters.partition_key,
        time_range=parameters.time_range or _time_range(rows, schema, parameters.timestamp_column),
        idempotency_key=parameters.idempotency_key,
    )
    return Batch(envelope, rows, content_hash(schema, rows) if parameters.idempotency_key is not None else "")


def _none(fields: tuple[Field, ...]) -> pa.Table:
    return pa.table({field.name: pa.array([], ARROW_TYPES[field.type]) for field in fields})


def _with_declared(rows: pa.Table, schema: Schema, declared: Schema, limits: Limits) -> tuple[pa.Table, Schema]:
    """A declared column that no row has is there all the same, without values."""
    missing = [field for field in declared.fields if schema.type_of(field.name) is None]
    if not missing:
        return rows, schema
    whole = Schema((*schema.fields, *missing))
    check_names(whole.names, limits)
    limits.check_rows(rows.num_rows, len(whole.fields))
    for field in missing:
        rows = rows.append_column(field.name, pa.nulls(rows.num_rows, ARROW_TYPES[field.type]))
    return rows, whole


def _time_range(rows: pa.Table, schema: Schema, asked: str | None) -> TimeRange:
    """From the first to the last time of the rows."""
    name = _timestamp_column(schema, asked)
    ends = pc.min_max(rows.column(name).cast(pa.int64())).as_py()
    if ends["min"] is None:
        raise InvalidRequest.at("start", f"is missing: no row has a time in {name!r}; send start and end")
    return TimeRange(ends["min"], ends["max"])


def _timestamp_column(schema: Schema, asked: str | None) -> str:
    times = [field.name for field in schema.fields if field.type == "timestamp"]
    if asked is not None and asked not in times:
        raise InvalidRequest.at("timestampColumn", f"{asked[:80]!r} is no column of timestamps in these rows")
    if asked is not None:
        return asked
    if TIMESTAMP in times:
        return TIMESTAMP
    if len(times) == 1:
        return times[0]
    found = f"the rows have {len(times)} columns of timestamps and none called {TIMESTAMP}"
    raise InvalidRequest.at("timestampColumn", f"{found}; send timestampColumn, or start and end")
