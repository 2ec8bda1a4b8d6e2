"""Datasets that keep one row per series and time: which columns name a row, and which of several rows wins.

Such a dataset's metadata has `dedupe`: {"columns": [...], "timeColumn": "timestamp", "merge": "rows" or "fields"}.
Of rows that agree in these columns and in time the last written wins, whole ("rows"), or each column's last value that
is not NULL ("fields", as InfluxDB has it).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from timestore_core.errors import Problem
from timestore_core.model import Partition, Schema

KEY = "dedupe"
# In a partition's metadata: the columns that no two of its rows have alike.
UNIQUE = "unique"
# In a partition's metadata: its file has the version of each row, as a column of this name. No name of a user's holds
# a character that cannot be printed.
VERSIONED = "versioned"
VERSION_COLUMN = "version\x1f"
_PLACE = "place"

Merge = Literal["rows", "fields"]
_MERGES: tuple[Merge, ...] = ("rows", "fields")


@dataclass(frozen=True, slots=True)
class Dedupe:
    """What names a row: the series' columns and the time. `merge` says how several become one."""

    columns: tuple[str, ...]
    time_column: str
    merge: Merge

    def is_as(self, other: Dedupe | None) -> bool:
        """Whether both make the same of the same rows."""
        return (
            other is not None
            and set(self.key) == set(other.key)
            and (self.time_column, self.merge) == (other.time_column, other.merge)
        )

    @property
    def key(self) -> tuple[str, ...]:
        return (*self.columns, self.time_column)


def dedupe_of(metadata: Mapping[str, Any], schema: Schema, more: Sequence[str] = ()) -> Dedupe | None:
    """The dataset's rule, its columns as far as the schema has them; None where every row stays.

    `more` are columns of the schema that are about to be part of the rule.
    """
    given = metadata.get(KEY)
    if not isinstance(given, Mapping) or dedupe_problems(given):
        return None
    time = str(given.get("timeColumn", "timestamp"))
    if schema.type_of(time) != "timestamp":
        return None
    names = dict.fromkeys((*given["columns"], *more))
    columns = tuple(name for name in names if name != time and schema.type_of(name) is not None)
    return Dedupe(columns, time, given.get("merge", "rows"))


def dedupe_problems(given: Any) -> list[Problem]:
    """What is wrong with such a rule."""
    path = f"metadata.{KEY}"
    if not isinstance(given, Mapping):
        return [Problem(path, "must be an object with `columns`")]
    problems = []
    columns = given.get("columns")
    if not isinstance(columns, list | tuple) or not all(isinstance(one, str) and one for one in columns):
        problems.append(Problem(f"{path}.columns", "must be a list of the columns that name a series"))
    if not isinstance(given.get("timeColumn", "timestamp"), str):
        problems.append(Problem(f"{path}.timeColumn", "must be a column's name"))
    if given.get("merge", "rows") not in _MERGES:
        problems.append(Problem(f"{path}.merge", f"must be one of {', '.join(_MERGES)}"))
    return problems


def is_unique(partition: Partition, dedupe: Dedupe) -> bool:
    """Whether no two rows of the partition are one, by this rule: it may have been another when they were written."""
    key = partition.metadata.get(UNIQUE)
    return isinstance(key, list) and set(key) <= set(dedupe.key)


def without_repeats(rows: pa.Table, dedupe: Dedupe) -> pa.Table:
    """The rows of one batch, of which later ones win, in the order of the winners."""
    places = {name: str(place) for place, name in enumerate(rows.column_names)}
    key = [places[name] for name in dedupe.key if name in places]
    if dedupe.time_column not in places or rows.num_rows < 2:
        return rows
    # By their places: what an aggregate is called might be the name of another column.
    placed = rows.rename_columns(list(places.values())).append_column(_PLACE, pa.array(np.arange(rows.num_rows)))
    for name in key:
        if pa.types.is_floating(placed.schema.field(name).type):
            # To the engine -0.0 and 0.0 are one.
            placed = placed.set_column(int(name), name, pc.add(placed.column(name), 0.0))
    last = placed.select([*key, _PLACE]).group_by(key, use_threads=False).aggregate([(_PLACE, "max")])
    if last.num_rows == rows.num_rows:
        return rows
    if dedupe.merge == "rows":
        found = last.column(f"{_PLACE}_max")
        return rows.take(found.take(pc.sort_indices(found)))
    keep = pc.ScalarAggregateOptions(skip_nulls=True)
    others = [name for name in places.values() if name not in key]
    merged = placed.group_by(key, use_threads=False).aggregate(
        [*((name, "last", keep) for name in others), (_PLACE, "max")]
    )
    merged = merged.take(pc.sort_indices(merged.column(f"{_PLACE}_max")))
    columns = [merged.column(name if name in key else f"{name}_last") for name in places.values()]
    return pa.table(columns, names=rows.column_names).cast(rows.schema)
