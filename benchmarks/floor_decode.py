"""Batches of the six columns decoded by hand, one way for each form that they come in. Nothing here is timestore's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

_TYPES = {
    "timestamp": pa.timestamp("us", tz="UTC"),
    "host": pa.string(),
    "temperature_c": pa.float64(),
    "humidity": pa.float64(),
    "requests": pa.int64(),
    "ok": pa.bool_(),
}
_SCHEMA = [{"name": name, "type": str(type_)} for name, type_ in _TYPES.items()]
# What a line is made of once its two blanks are commas: the measurement, the tag, the fields, the time.
_PARTS = ("measurement", "host", "temperature_c", "humidity", "requests", "ok", "time")


@dataclass(frozen=True, slots=True)
class Decoded:
    """A batch's columns, and what a manifest says of them."""

    columns: pa.Table
    schema: Any
    key: dict[str, str]
    start: str | datetime
    end: str | datetime


class _Row(msgspec.Struct, gc=False):
    timestamp: str
    host: str
    temperature_c: float
    humidity: float
    requests: int
    ok: bool


class _Range(msgspec.Struct):
    start: str
    end: str


class _Partition(msgspec.Struct, rename="camel"):
    key: dict[str, str]
    time_range: _Range


class _Batch(msgspec.Struct):
    schema: dict[str, list[dict[str, str]]]
    partition: _Partition
    rows: list[_Row]


_DECODER = msgspec.json.Decoder(_Batch)


def _json(body: bytes) -> Decoded:
    batch = _DECODER.decode(body)
    times = batch.partition.time_range
    return Decoded(_of_rows(batch.rows), batch.schema, batch.partition.key, times.start, times.end)


def _csv(body: bytes) -> pa.Table:
    options = pa.csv.ConvertOptions(column_types=_TYPES)
    return pa.csv.read_csv(pa.py_buffer(body), convert_options=options)


def _arrow(body: bytes) -> pa.Table:
    return pa.ipc.open_stream(body).read_all()


def _lines(body: bytes) -> pa.Table:
    """Each line has the same names at the same places, without escapes: so the names are cut off, not looked at."""
    parts = pa.csv.read_csv(
        pa.py_buffer(body.replace(b" ", b",")),
        read_options=pa.csv.ReadOptions(column_names=_PARTS),
        convert_options=pa.csv.ConvertOptions(column_types=dict.fromkeys(_PARTS, pa.string())),
    )

    def value(name: str, stop: int | None = None) -> pa.ChunkedArray:
        return pc.utf8_slice_codeunits(parts[name], len(name) + 1, stop)

    micros = pc.divide(parts["time"].cast(pa.int64()), 1000)
    return pa.table(
        {
            "timestamp": micros.cast(pa.timestamp("us", tz="UTC")),
            "host": value("host"),
            "temperature_c": value("temperature_c").cast(pa.float64()),
            "humidity": value("humidity").cast(pa.float64()),
            "requests": pc.utf8_rtrim(value("requests"), "i").cast(pa.int64()),
            "ok": pc.equal(value("ok"), "t"),
        }
    )


def _with_times(read: Callable[[bytes], pa.Table], body: bytes) -> Decoded:
    columns = read(body)
    times = pc.min_max(columns["timestamp"]).as_py()
    return Decoded(columns, _SCHEMA, {}, times["min"], times["max"])


DECODERS: Mapping[str, Callable[[bytes], Decoded]] = {
    "JSON": _json,
    "CSV": partial(_with_times, _csv),
    "Arrow": partial(_with_times, _arrow),
    "Arrow into Parquet": partial(_with_times, _arrow),
    "line protocol": partial(_with_times, _lines),
}
INTO_PARQUET = frozenset({"Arrow into Parquet"})


def _of_rows(rows: list[_Row]) -> pa.Table:
    times = pa.array([row.timestamp for row in rows], pa.string())
    return pa.table(
        {
            "timestamp": times.cast(pa.timestamp("us", tz="UTC")),
            "host": pa.array([row.host for row in rows], pa.string()),
            "temperature_c": pa.array([row.temperature_c for row in rows], pa.float64()),
            "humidity": pa.array([row.humidity for row in rows], pa.float64()),
            "requests": pa.array([row.requests for row in rows], pa.int64()),
            "ok": pa.array([row.ok for row in rows], pa.bool_()),
        }
    )
