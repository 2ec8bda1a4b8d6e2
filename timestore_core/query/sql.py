"""DuckDB's SQL of a plan: undivided, or as partial results of fragments and their merge.

Names reach it through one quoting function, values as the parameters $start and $end; everything else is a
number or a word of our own. Aggregations bring their SQL and how it combines.

The same rows give the same answer, to the last digit, in whatever order and files they lie: rows are put into a total
order, doubles are added up exactly where an aggregation can, and zero is written without a sign.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from timestore_core.aggregations import Aggregation, Decomposable, Multiset
from timestore_core.model import Field, FieldType
from timestore_core.names import quote_identifier, quote_literal
from timestore_core.partitions.duckdb_file import SQL_TYPES
from timestore_core.query.plan import PlannedPartition, QueryPlan
from timestore_core.query.request import AskedAggregation, Bucket

_SECOND_US = 1_000_000
_WIDTH_US = {
    "second": _SECOND_US,
    "minute": 60 * _SECOND_US,
    "hour": 3600 * _SECOND_US,
    "day": 86_400 * _SECOND_US,
    "week": 7 * 86_400 * _SECOND_US,
}
# The Monday of the week that holds 1970-01-01.
_WEEK_ORIGIN_US = -3 * 86_400 * _SECOND_US

START = "make_timestamp($start)"
END = "make_timestamp($end)"

Relations = Mapping[str, str]
Functions = Mapping[str, Aggregation]


def undivided_sql(
    plan: QueryPlan, partitions: Sequence[PlannedPartition], relations: Relations, functions: Functions
) -> str:
    """The whole answer over these partitions at once, ascending by time, at most `row_limit` rows."""
    rows = union_sql(plan, partitions, relations)
    if plan.bucket is None:
        return _raw_sql(plan, rows, _names(plan.output))
    results = [
        f"{_function(plan, one, functions).sql(_column(one), dict(one.parameters))} AS {quote_identifier(f'r{index}')}"
        for index, one in enumerate(plan.aggregations)
    ]
    return _named_results(plan, _grouped_sql(plan, plan.bucket, results, rows))


def partial_sql(
    plan: QueryPlan, partitions: Sequence[PlannedPartition], relations: Relations, functions: Functions
) -> str:
    """One fragment's part of the answer, in the form that `merge_sql` reads."""
    rows = union_sql(plan, partitions, relations)
    if plan.bucket is None:
        return _raw_sql(plan, rows, "*")
    states = [
        f"{sql} AS {quote_identifier(name)}"
        for index, one in enumerate(plan.aggregations)
        for name, sql in _partial_states(index, one, _function(plan, one, functions))
    ]
    return _grouped_sql(plan, plan.bucket, states, rows)


def merge_sql(plan: QueryPlan, partials: Sequence[str], functions: Functions) -> str:
    """The answer from the fragments' parts; `partials` are relations with the columns of `partial_sql`."""
    union = " UNION ALL ".join(f"SELECT * FROM {one}" for one in partials)
    if plan.bucket is None:
        return _raw_sql(plan, union, _names(plan.output))
    gathered, results = [], []
    for index, one in enumerate(plan.aggregations):
        function = _function(plan, one, functions)
        states = tuple(quote_identifier(name) for name, _ in _partial_states(index, one, function))
        merged, result = quote_identifier(f"m{index}"), quote_identifier(f"r{index}")
        if isinstance(function.combine, Decomposable):
            gathered.append(f"{function.combine.merge(states, dict(one.parameters))} AS {merged}")
            results.append(f"{merged} AS {result}")
        else:
            gathered.append(f"flatten(list({states[0]})) AS {merged}")
            results.append(f"{_over_values(merged, one, function)} AS {result}")
    grouped = f"SELECT bucket, {', '.join(gathered)} FROM ({union}) GROUP BY bucket"
    return _named_results(plan, f"SELECT bucket, {', '.join(results)} FROM ({grouped})")


def json_rows_sql(output: Sequence[Field], inner: str, end: str = ",") -> str:
    """One JSON object and `end` a row: the bytes of the answer, made where the columns are."""
    members = ", ".join(
        f"{quote_literal(field.name)}: {json_value(field.type, quote_identifier(f'o{index}'))}"
        for index, field in enumerate(output)
    )
    renamed = ", ".join(quote_identifier(f"o{index}") for index in range(len(output)))
    return f"SELECT to_json({{{members}}})::VARCHAR || {quote_literal(end)} FROM ({inner}) AS answer({renamed})"


def json_value(type_: FieldType, column: str) -> str:
    """The column as JSON has it: times as ISO-8601, NULL for what JSON cannot write."""
    if type_ == "timestamp":
        return (
            f"CASE WHEN epoch_us({column}) % 1000 = 0 THEN strftime({column}, '%Y-%m-%dT%H:%M:%S.%gZ') "
            f"ELSE strftime({column}, '%Y-%m-%dT%H:%M:%S.%fZ') END"
        )
    if type_ == "double":
        # The sum takes the sign from -0.0. DuckDB holds it equal to 0.0, in its files too, where a run of both may
        # become one of either: which one is read is a matter of how the rows are laid out.
        return f"CASE WHEN isfinite({column}) THEN {column} + 0 END"
    return column


def _function(plan: QueryPlan, asked: AskedAggregation, functions: Functions) -> Aggregation:
    """The aggregation, in its exact form where the plan knows the column's scale."""
    function = functions[asked.fn]
    scale = dict(plan.scales).get(asked.column or "")
    return function if scale is None or function.exact is None else function.exact(scale)


def _raw_sql(plan: QueryPlan, rows: str, names: str) -> str:
    return f"SELECT {names} FROM ({rows}) ORDER BY {_total_order(plan)} LIMIT {plan.row_limit:d}"


def _total_order(plan: QueryPlan) -> str:
    """By time, then by all the other columns read: rows that may still change places are alike."""
    names = dict.fromkeys((plan.timestamp_column, *(field.name for field in plan.columns)))
    return ", ".join(quote_identifier(name) for name in names)


def _grouped_sql(plan: QueryPlan, bucket: Bucket, results: Sequence[str], rows: str) -> str:
    key = _bucket_key(bucket, quote_identifier(plan.timestamp_column))
    return f"SELECT {key} AS bucket, {', '.join(results)} FROM ({rows}) GROUP BY 1"


def _named_results(plan: QueryPlan, grouped: str) -> str:
    """The grouped rows in time's order, their columns in the plan's order and under its names."""
    assert plan.bucket is not None
    start = "bucket" if plan.bucket.unit == "month" else "make_timestamp(bucket)"
    time, *rest = plan.output
    results = "".join(
        f", {quote_identifier(f'r{index}')} AS {quote_identifier(field.name)}" for index, field in enumerate(rest)
    )
    return (
        f"SELECT {start} AS {quote_identifier(time.name)}{results} FROM ({grouped}) AS buckets "
        f"ORDER BY buckets.bucket LIMIT {plan.row_limit:d}"
    )


def _bucket_key(bucket: Bucket, time: str) -> str:
    """The bucket's start: microseconds for fixed widths (integers group twice as fast), a time for months."""
    if bucket.unit == "month":
        return f"time_bucket(INTERVAL '{bucket.size:d} months', {time}, TIMESTAMP '1970-01-01')"
    width = _WIDTH_US[bucket.unit] * bucket.size
    origin = _WEEK_ORIGIN_US if bucket.unit == "week" else 0
    offset = f"(epoch_us({time}) - ({origin:d}))" if origin else f"epoch_us({time})"
    # The remainder is made non-negative, so that times before the origin fall into the bucket below them.
    return f"epoch_us({time}) - (({offset} % {width:d}) + {width:d}) % {width:d}"


def _partial_states(index: int, asked: AskedAggregation, function: Aggregation) -> list[tuple[str, str]]:
    column, parameters = _column(asked), dict(asked.parameters)
    combine = function.combine
    if isinstance(combine, Decomposable):
        return [(f"s{index}_{number}", sql) for number, sql in enumerate(combine.partial(column, parameters))]
    if isinstance(combine, Multiset):
        distinct = "DISTINCT " if combine.distinct_only else ""
        return [(f"s{index}_0", f"list({distinct}{column}) FILTER (WHERE {column} IS NOT NULL)")]
    return [(f"s{index}_0", f"list({column})")]


def _over_values(values: str, asked: AskedAggregation, function: Aggregation) -> str:
    """The aggregation's own SQL over the values that the fragments shipped."""
    return f"(SELECT {function.sql('v', dict(asked.parameters))} FROM (SELECT unnest({values}) AS v))"


def _column(asked: AskedAggregation) -> str:
    return "*" if asked.column is None else quote_identifier(asked.column)


def _names(fields: Sequence[Field]) -> str:
    return ", ".join(quote_identifier(field.name) for field in fields)


def union_sql(plan: QueryPlan, partitions: Sequence[PlannedPartition], relations: Relations) -> str:
    """The rows in range of all the files, with the same columns in the same order from each."""
    wanted = dict.fromkeys((Field(plan.timestamp_column, "timestamp"), *plan.columns))
    return " UNION ALL ".join(
        _branch(plan, partition, relations[partition.id], tuple(wanted)) for partition in partitions
    )


def _branch(plan: QueryPlan, partition: PlannedPartition, relation: str, wanted: Sequence[Field]) -> str:
    columns = ", ".join(_read_as(field, partition.schema.type_of(field.name)) for field in wanted)
    time = quote_identifier(plan.timestamp_column)
    where = "" if partition.within_range else f" WHERE {time} BETWEEN {START} AND {END}"
    return f"SELECT {columns} FROM {relation}{where}"


def _read_as(field: Field, stored: FieldType | None) -> str:
    name = quote_identifier(field.name)
    if stored == field.type:
        return name
    value = "NULL" if stored is None else name
    return f"CAST({value} AS {SQL_TYPES[field.type]}) AS {name}"
