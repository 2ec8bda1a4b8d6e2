"""Questions made up by chance, and their answers by plain SQL over one plain DuckDB table of the same rows."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import duckdb
import pyarrow as pa

from tests.integration.model import iso

FIELDS = {
    "timestamp": "timestamp",
    "host": "string",
    "note": "string",
    "v": "double",
    "n": "integer",
    "c": "integer",
    "ok": "boolean",
    "seen": "timestamp",
}
_ARROW = {
    "timestamp": pa.timestamp("us"),
    "string": pa.string(),
    "double": pa.float64(),
    "integer": pa.int64(),
    "boolean": pa.bool_(),
}
# Clocks change in Berlin and New York, and in Lord Howe by half an hour, within this span.
START, END = datetime(2024, 3, 1, tzinfo=UTC), datetime(2024, 11, 20, tzinfo=UTC)
ZONES = ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "UTC"]
CHANGES = [
    datetime(2024, 3, 31, 1, tzinfo=UTC),
    datetime(2024, 10, 27, 1, tzinfo=UTC),
    datetime(2024, 3, 10, 7, tzinfo=UTC),
    datetime(2024, 11, 3, 6, tzinfo=UTC),
    datetime(2024, 4, 6, 15, tzinfo=UTC),
    datetime(2024, 10, 5, 15, 30, tzinfo=UTC),
]
AGGREGATIONS: Mapping[str, tuple[str, str]] = {
    # What is asked of which column, and the same in plain SQL; `t` is the time.
    "first": ("v", "arg_min(v, (t, v))"),
    "last": ("n", "arg_max(n, (t, n))"),
    "first_time": ("v", "min(t) FILTER (WHERE v IS NOT NULL)"),
    "last_time": ("n", "max(t) FILTER (WHERE n IS NOT NULL)"),
    "stddev": ("v", "stddev_samp(v)"),
    "variance": ("n", "var_samp(n)"),
    "mode": ("host", "mode(host ORDER BY host)"),
    "approx_count_distinct": ("host", "count(DISTINCT host)"),
    "avg": ("v", "avg(v)"),
    "sum": ("n", "sum(n)"),
    "min": ("seen", "min(seen)"),
    "max": ("note", "max(note)"),
    "count": ("ok", "count(ok)"),
    "count_distinct": ("note", "count(DISTINCT note)"),
    "median": ("v", "median(v)"),
    "delta": ("c", "arg_max(c, (t, c)) - arg_min(c, (t, c))"),
}


def random_rows(seed: int, count: int) -> list[dict[str, Any]]:
    """Rows of three hosts, many near a change of the clocks, some at the same time, some of nothing but NULL."""
    chance = random.Random(seed)
    counters = dict.fromkeys("abc", 0)
    times = sorted(
        chance.choice(CHANGES) + timedelta(minutes=chance.randrange(-60 * 40, 60 * 40))
        if chance.random() < 0.6
        else START + timedelta(minutes=chance.randrange(int((END - START).total_seconds() // 60)))
        for _ in range(count)
    )
    rows = []
    for time in times:
        host = chance.choice("abc")
        counters[host] = 0 if chance.random() < 0.05 else counters[host] + chance.randrange(10)
        row: dict[str, Any] = {
            "timestamp": time,
            "host": chance.choice([host] * 9 + [None]),
            "note": chance.choice(["", "100%", "a_b", "Ünïcode ✓", "x'y\"z", None]),
            # Eighths add up exactly.
            "v": chance.choice([None, chance.randrange(-4000, 4000) / 8]),
            "n": chance.choice([None, chance.randrange(-50, 50), 2**53 + 1]),
            "c": counters[host],
            "ok": chance.choice([True, False, None]),
            "seen": chance.choice([None, time - timedelta(days=1)]),
        }
        rows.append(dict.fromkeys(row, None) | {"timestamp": time} if chance.random() < 0.05 else row)
    return rows


class Reference:
    """The rows in one table, `t` being their time, and answers by SQL that shares nothing with the service's."""

    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self.connection = duckdb.connect(":memory:")
        self.connection.execute("SET TimeZone = 'UTC'")
        columns = [
            pa.array(
                [one[name].replace(tzinfo=None) if isinstance(one[name], datetime) else one[name] for one in rows],
                _ARROW[type_],
            )
            for name, type_ in FIELDS.items()
        ]
        self.connection.register("given", pa.table(columns, names=list(FIELDS)))
        self.connection.execute("CREATE TABLE rows AS SELECT *, timestamp AS t FROM given")

    def ask(self, sql: str) -> list[tuple[Any, ...]]:
        return self.connection.execute(sql).fetchall()


@dataclass(frozen=True)
class Question:
    """A request's body, the SQL of the same, and whether only close answers can be expected."""

    body: dict[str, Any]
    sql: str


def random_question(chance: random.Random) -> Question:
    start = START + (END - START) * chance.choice([0, chance.random()])
    end = start + (END - start) * chance.choice([1, chance.random()])
    start, end = start.replace(microsecond=0), end.replace(microsecond=0)
    filters, conditions = _filters(chance)
    where = [f"t BETWEEN '{_naive(start)}' AND '{_naive(end)}'", *conditions]
    body: dict[str, Any] = {"timeRange": {"start": iso(start), "end": iso(end)}}
    if filters:
        body["filters"] = {"columns": filters}
    rows = f"(SELECT * FROM rows WHERE {' AND '.join(where)})"
    kind = chance.choice(["raw", "aggregated", "downsampled", "downsampled", "latest"])
    if chance.random() < 0.5:
        body["order"] = chance.choice(["asc", "desc"])
    down = " DESC" if body.get("order") == "desc" else ""
    groups = chance.choice([[], ["host"], ["host", "ok"]])
    if kind == "raw":
        limit = chance.choice([1, 7, 10_000])
        body |= {"limit": limit, "columns": ["timestamp", "host", "v", "n"]}
        return Question(body, f"SELECT t, host, v, n FROM {rows} ORDER BY t{down}, host, v, n LIMIT {limit}")
    if kind == "latest":
        body |= {"latest": True, "groupBy": groups, "columns": ["timestamp", "host", "ok", "v", "n", "c", "note"]}
        body.pop("order", None)
        by = f"PARTITION BY {', '.join(groups)} " if groups else ""
        order = f"ORDER BY {', '.join(groups)}" if groups else ""
        return Question(
            body,
            f"SELECT t, host, ok, v, n, c, note FROM {rows} "
            f"QUALIFY row_number() OVER ({by}ORDER BY t DESC, host, ok, v, n, c, note) = 1 {order}",
        )
    names = chance.sample(sorted(AGGREGATIONS), chance.randint(1, 4))
    asked = [{"fn": name, "column": AGGREGATIONS[name][0], "alias": f"r {name}"} for name in names]
    results = [AGGREGATIONS[name][1] for name in names]
    if kind == "aggregated":
        body |= {"groupBy": groups, "aggregations": asked}
        by = f"GROUP BY {', '.join(groups)} ORDER BY {groups[0]}{down}" if groups else ""
        by += "".join(f", {one}" for one in groups[1:])
        return Question(body, f"SELECT {', '.join([*groups, *results])} FROM {rows} {by}")
    unit, size, zone = (
        chance.choice(["hour", "day", "week", "month"]),
        chance.choice([1, 1, 2, 5]),
        chance.choice(ZONES),
    )
    downsample: dict[str, Any] = {"intervalUnit": unit, "intervalSize": size, "aggregations": asked}
    if unit == "hour" or size > 1:
        zone = "UTC"
    if chance.random() < 0.8 or zone != "UTC":
        downsample["timezone"] = zone
    body |= {"downsample": downsample}
    if groups:
        body["groupBy"] = groups
    bucket = _bucket_sql(unit, size, zone)
    order = ", ".join([f"1{down}", *groups])
    return Question(
        body, f"SELECT {', '.join([f'{bucket} AS b', *groups, *results])} FROM {rows} GROUP BY ALL ORDER BY {order}"
    )


def _bucket_sql(unit: str, size: int, zone: str) -> str:
    if size == 1:
        local = f"date_trunc('{unit}', timezone('{zone}', t::TIMESTAMPTZ))"
        return f"timezone('{zone}', {local})::TIMESTAMP"
    origin = "1969-12-29" if unit == "week" else "1970-01-01"
    return f"time_bucket(INTERVAL '{size} {unit}s', t, TIMESTAMP '{origin}')"


def _filters(chance: random.Random) -> tuple[dict[str, Any], list[str]]:
    moment = START + (END - START) * chance.random()
    moment = moment.replace(microsecond=0)
    number, text = chance.choice([0, -3.5, 12.125, 2**53 + 1, 1e300, -(2**70), 49]), chance.choice(["a", "b", "zz", ""])
    everything: list[tuple[str, dict[str, Any], str]] = [
        ("host", {"type": "string", "eq": text}, f"host = '{text}'"),
        ("host", {"type": "string", "in": ["a", text]}, f"host IN ('a', '{text}')"),
        ("host", {"ne": "a"}, "host <> 'a'"),
        ("host", {"isNull": True}, "host IS NULL"),
        ("note", {"like": "%_b"}, "note LIKE '%_b'"),
        ("note", {"like": "%n%c%d%"}, "note LIKE '%n%c%d%'"),
        ("note", {"eq": "x'y\"z"}, "note = 'x''y\"z'"),
        ("note", {"gt": "a", "isNull": False}, "note > 'a'"),
        ("v", {"type": "number", "gt": number}, f"v > {number!r}"),
        ("v", {"lte": number}, f"v <= {number!r}"),
        ("v", {"in": [1, 2.5, number]}, f"v IN (1.0::DOUBLE, 2.5::DOUBLE, {number!r}::DOUBLE)"),
        ("v", {"isNull": False}, "v IS NOT NULL"),
        ("n", {"eq": 2**53 + 1}, f"n = {2**53 + 1}"),
        ("n", {"gte": 12.125, "lt": 1e6}, "n > 12 AND n < 1000000"),
        ("n", {"ne": 0.5}, "n IS NOT NULL"),
        ("ok", {"type": "boolean", "eq": True}, "ok"),
        ("ok", {"in": [False]}, "NOT ok"),
        ("seen", {"type": "timestamp", "gte": iso(moment)}, f"seen >= '{_naive(moment)}'"),
        ("timestamp", {"type": "timestamp", "lt": iso(moment)}, f"t < '{_naive(moment)}'"),
    ]
    chosen = chance.sample(everything, chance.choice([0, 0, 1, 2]))
    by_column = {name: (asked, sql) for name, asked, sql in chosen}
    return {name: asked for name, (asked, _) in by_column.items()}, [sql for _, sql in by_column.values()]


def _naive(moment: datetime) -> str:
    return moment.replace(tzinfo=None).isoformat(" ")
