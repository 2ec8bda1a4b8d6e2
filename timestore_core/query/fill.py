"""SQL that gives the buckets without rows their place in the answer."""

from __future__ import annotations

from collections.abc import Sequence

from timestore_core.model import ResultField
from timestore_core.partitions.duckdb_file import SQL_TYPES
from timestore_core.query.downsampling import Fill

_NUMBERS = ("double", "integer")


def filled_sql(
    grouped: str, keys: str, start: str, groups: Sequence[str], results: Sequence[tuple[str, ResultField]], fill: Fill
) -> str:
    """The grouped rows, and one for each of the other keys in each group.

    `grouped` has a column `bucket`, the groups and the results; `keys` is a SELECT of all buckets in range; `start`
    is the SQL of a bucket's start in microseconds, from its column `bucket`. Groups are those that have rows.
    """
    names = "".join(f", {name}" for name in groups)
    held = "".join(f" AND asked.{name} IS NOT DISTINCT FROM found.{name}" for name in groups)
    results_ = "".join(f", found.{name} AS {name}" for name, _ in results)
    asked_names = "".join(f", asked.{name}" for name in groups)
    known = f"SELECT DISTINCT {', '.join(groups)} FROM grouped" if groups else "SELECT 1 FROM grouped LIMIT 1"
    partition = f"PARTITION BY {', '.join(groups)} " if groups else ""
    values = "".join(f", {_value(name, field, fill)} AS {name}" for name, field in results)
    return (
        f"WITH grouped AS ({grouped}), known AS ({known}), "
        f"asked AS (SELECT bucket{names} FROM ({keys}) CROSS JOIN known), "
        f"spread AS (SELECT asked.bucket{asked_names}{results_} FROM asked "
        f"LEFT JOIN grouped AS found ON asked.bucket = found.bucket{held}), "
        f"timed AS (SELECT *, {start} AS start FROM spread) "
        f"SELECT bucket{names}{values} FROM timed "
        f"WINDOW before AS ({partition}ORDER BY bucket ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW), "
        f"after AS ({partition}ORDER BY bucket ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING)"
    )


def _value(name: str, field: ResultField, fill: Fill) -> str:
    is_number = field.type in _NUMBERS
    if fill.how == "previous":
        return f"last_value({name} IGNORE NULLS) OVER before"
    if fill.how == "value" and is_number:
        return f"coalesce({name}::{SQL_TYPES[field.type]}, '{fill.value!r}'::DOUBLE::{SQL_TYPES[field.type]})"
    if fill.how == "linear" and is_number:
        moment = f"CASE WHEN {name} IS NOT NULL THEN start END"
        low = f"last_value({name}::DOUBLE IGNORE NULLS) OVER before"
        high = f"first_value({name}::DOUBLE IGNORE NULLS) OVER after"
        begin = f"last_value({moment} IGNORE NULLS) OVER before"
        end = f"first_value({moment} IGNORE NULLS) OVER after"
        between = f"{low} + ({high} - {low}) * ((start - {begin})::DOUBLE / ({end} - {begin}))"
        return f"coalesce({name}::DOUBLE, {between})"
    return name
