"""DuckDB's SQL of a plan: undivided, or as partial results of fragments and their merge.

Names reach it through one quoting function, texts through another; everything else is a number or a word of our own.
Times are written as the integers that they are: with any parameter DuckDB's Python client looks for pandas four times a
statement, which takes longer than a small answer. Aggregations bring their SQL and how it combines.

The same rows give the same answer, to the last digit, in whatever order and files they lie: rows are put into a total
order, doubles are added up exactly where an aggregation can, and zero is written without a sign.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from timestore_core.aggregations import Aggregation, Decomposable, Multiset
from timestore_core.dedupe import VERSION_COLUMN
from timestore_core.model import Field, FieldType, ResultField, Schema
from timestore_core.names import quote_identifier
from timestore_core.partitions.duckdb_file import SQL_TYPES
from timestore_core.query.asked import AskedAggregation
from timestore_core.query.dedupe_sql import NUMBER_COLUMN, last_rows_sql
from timestore_core.query.fill import filled_sql
from timestore_core.query.filters import Condition, condition_sql, literal
from timestore_core.query.plan import Constant, PlannedPartition, QueryPlan
from timestore_core.query.render_sql import Render

# No name of a user's holds a character that cannot be printed.
_LAST_TIME = quote_identifier("last\x1f")

Relations = Mapping[str, str]
Functions = Mapping[str, Aggregation]


def answer_sql(
    plan: QueryPlan,
    partitions: Sequence[PlannedPartition],
    relations: Relations,
    functions: Functions,
    render: Render,
    *,
    texts_first: bool,
) -> str:
    """What is sent of the answer over these partitions, read at once, in the plan's order, at most `row_limit` rows.

    With `texts_first` texts are made before rows are sorted, where all of them are sent: faster, for more memory.
    """
    if texts_first and render.is_text and plan.is_raw and not plan.latest and _is_whole(plan):
        order = _order_names(plan)
        columns = f"{_names(plan.output)}, {', '.join(map(quote_identifier, order))}"
        rows = f"SELECT {columns} FROM ({union_sql(plan, partitions, relations)})"
        return render.ordered_sql(plan.output, rows, order, descending=plan.descending)
    return render.sql(plan.output, undivided_sql(plan, partitions, relations, functions))


def undivided_sql(
    plan: QueryPlan, partitions: Sequence[PlannedPartition], relations: Relations, functions: Functions
) -> str:
    """The rows of that answer, not yet as they are sent."""
    if plan.constants is not None:
        return f"SELECT {', '.join(map(_constant_sql, plan.constants))}{_page(plan.row_limit, plan.skip)}"
    rows = union_sql(plan, partitions, relations)
    if plan.is_raw:
        return _raw_sql(plan, rows, _names(plan.output))
    results = [
        f"{function.sql(_column(one), _parameters(plan, one, function))} AS {quote_identifier(f'r{index}')}"
        for index, one in enumerate(plan.aggregations)
        for function in [_function(plan, one, functions)]
    ]
    return _named_results(plan, _grouped_sql(plan, results, rows))


def partial_sql(
    plan: QueryPlan, partitions: Sequence[PlannedPartition], relations: Relations, functions: Functions
) -> str:
    """One fragment's part of the answer, in the form that `merge_sql` reads."""
    rows = union_sql(plan, partitions, relations)
    if plan.is_raw:
        return _raw_sql(plan, rows, "*", skip=False)
    states = [
        f"{sql} AS {quote_identifier(name)}"
        for index, one in enumerate(plan.aggregations)
        for name, sql in _partial_states(plan, index, one, _function(plan, one, functions))
    ]
    return _grouped_sql(plan, states, rows)


def merge_sql(plan: QueryPlan, partials: Sequence[str], functions: Functions) -> str:
    """The answer from the fragments' parts; `partials` are relations with the columns of `partial_sql`."""
    union = " UNION ALL ".join(f"SELECT * FROM {one}" for one in partials)
    if plan.is_raw:
        return _raw_sql(plan, union, _names(plan.output))
    keys = _key_names(plan)
    gathered, results = list(keys), list(keys)
    for index, one in enumerate(plan.aggregations):
        function = _function(plan, one, functions)
        states = tuple(quote_identifier(name) for name, _ in _partial_states(plan, index, one, function))
        merged, result = quote_identifier(f"m{index}"), quote_identifier(f"r{index}")
        if isinstance(function.combine, Decomposable):
            merging = function.combine.merge(states, _parameters(plan, one, function))
            gathered.append(f"{merging} AS {merged}")
            results.append(f"{merged} AS {result}")
        else:
            gathered.append(f"flatten(list({states[0]})) AS {merged}")
            results.append(f"{_over_values(merged, one, function)} AS {result}")
    by = f" GROUP BY {', '.join(keys)}" if keys else ""
    grouped = f"SELECT {', '.join(gathered)} FROM ({union}){by}"
    return _named_results(plan, f"SELECT {', '.join(results)} FROM ({grouped})")


def _function(plan: QueryPlan, asked: AskedAggregation, functions: Functions) -> Aggregation:
    """The aggregation, in its exact form where the plan knows the column's scale."""
    function = functions[asked.fn]
    scale = dict(plan.scales).get(asked.column or "")
    return function if scale is None or function.exact is None else function.exact(scale)


def _constant_sql(constant: Constant) -> str:
    type_, value = constant.type, constant.value
    if value is None:
        return f"NULL::{SQL_TYPES[type_]}"
    if type_ in ("integer", "double"):
        return f"'{value!r}'::{SQL_TYPES[type_]}"
    return literal(type_, value)


def _parameters(plan: QueryPlan, asked: AskedAggregation, function: Aggregation) -> dict[str, Any]:
    parameters: dict[str, Any] = dict(asked.parameters)
    return {**parameters, "time": quote_identifier(plan.timestamp_column)} if function.uses_time else parameters


def _raw_sql(plan: QueryPlan, rows: str, names: str, *, skip: bool = True) -> str:
    """Stored rows in order; of each group only the newest where the plan says so."""
    offset = plan.skip if skip else 0
    order = _total_order(plan)
    # The newest few rows in order are kept in memory, whatever their size; all of them are sorted.
    page = "" if _is_whole(plan) else _page(plan.row_limit + plan.skip - offset, offset)
    if plan.latest:
        groups = [quote_identifier(field.name) for field in plan.groups or ()]
        rows = _newest_sql(plan, rows, groups, order)
        if groups:
            order = ", ".join(groups)
    return f"SELECT {names} FROM ({rows}) ORDER BY {order}{page}"


def _newest_sql(plan: QueryPlan, rows: str, groups: Sequence[str], order: str) -> str:
    """Each group's newest row. Its time is found first: few rows are left to be put in order, and to be read whole."""
    time = quote_identifier(plan.timestamp_column)
    by = f"PARTITION BY {', '.join(groups)} " if groups else ""
    first, source = "", f"({rows})"
    if plan.dedupe is not None:
        # Finding out which rows were written last costs more than keeping them.
        first, source = f"WITH written AS MATERIALIZED ({rows}) ", "written"
    columns, grouped = "".join(f"{one}, " for one in groups), f" GROUP BY {', '.join(groups)}" if groups else ""
    same = "".join(f" AND stored.{one} IS NOT DISTINCT FROM newest.{one}" for one in groups)
    times = f"SELECT {columns}max({time}) AS {_LAST_TIME} FROM {source}{grouped}"
    candidates = (
        f"SELECT stored.* FROM {source} AS stored JOIN ({times}) AS newest ON stored.{time} = newest.{_LAST_TIME}{same}"
    )
    return f"{first}SELECT * FROM ({candidates}) QUALIFY row_number() OVER ({by}ORDER BY {order}) = 1"


def _is_whole(plan: QueryPlan) -> bool:
    """Whether all rows that there are belong to the answer."""
    return not plan.skip and plan.rows_at_most <= plan.row_limit


def _page(limit: int, offset: int) -> str:
    return f" LIMIT {limit:d}" + (f" OFFSET {offset:d}" if offset else "")


def _total_order(plan: QueryPlan) -> str:
    """By time, then by all the other columns read: rows that may still change places are alike."""
    time, *rest = _order_names(plan)
    direction = " DESC" if plan.descending or plan.latest else ""
    return ", ".join([quote_identifier(time) + direction, *map(quote_identifier, rest)])


def _order_names(plan: QueryPlan) -> list[str]:
    return list(dict.fromkeys((plan.timestamp_column, *(field.name for field in plan.columns))))


def _key_names(plan: QueryPlan) -> list[str]:
    """What the grouped rows are grouped by, as their columns are called."""
    return (["bucket"] if plan.bucket else []) + [f'"g{index}"' for index in range(len(plan.groups or ()))]


def _grouped_sql(plan: QueryPlan, results: Sequence[str], rows: str) -> str:
    columns = [f'{quote_identifier(field.name)} AS "g{index}"' for index, field in enumerate(plan.groups or ())]
    if plan.bucket is not None:
        columns.insert(0, f"{plan.bucket.key_sql(plan.zone, quote_identifier(plan.timestamp_column))} AS bucket")
    by = f" GROUP BY {', '.join(str(number + 1) for number in range(len(columns)))}" if columns else ""
    return f"SELECT {', '.join([*columns, *results])} FROM ({rows}){by}"


def _named_results(plan: QueryPlan, grouped: str) -> str:
    """The grouped rows in order, gaps filled, their columns in the plan's order and under its names."""
    keys = _key_names(plan)
    results = plan.output[len(keys) :]
    names = [f'"r{index}"' for index in range(len(results))]
    if plan.bucket is not None and plan.fill is not None:
        every = plan.bucket.keys_sql(plan.zone, plan.fill_range or plan.time_range)
        start = plan.bucket.start_sql(plan.zone, "bucket")
        fields = list(zip(names, results, strict=True))
        grouped = filled_sql(grouped, every, start, keys[1:], fields, plan.fill)
    columns = [*keys, *names]
    if plan.bucket is not None:
        columns[0] = f"make_timestamp({plan.bucket.start_sql(plan.zone, 'bucket')})"
    selected = ", ".join(
        f"{column} AS {quote_identifier(field.name)}" for column, field in zip(columns, plan.output, strict=True)
    )
    direction = " DESC" if plan.descending else ""
    order = ", ".join(f"found.{key}{direction if index == 0 else ''}" for index, key in enumerate(keys))
    ordered = f" ORDER BY {order}" if order else ""
    return f"SELECT {selected} FROM ({grouped}) AS found{ordered}{_page(plan.row_limit, plan.skip)}"


def _partial_states(
    plan: QueryPlan, index: int, asked: AskedAggregation, function: Aggregation
) -> list[tuple[str, str]]:
    column, parameters = _column(asked), _parameters(plan, asked, function)
    combine = function.combine
    if isinstance(combine, Decomposable):
        return [(f"s{index}_{number}", sql) for number, sql in enumerate(combine.partial(column, parameters))]
    if isinstance(combine, Multiset):
        distinct = "DISTINCT " if combine.distinct_only else ""
        return [(f"s{index}_0", f"list({distinct}{column}) FILTER (WHERE {column} IS NOT NULL)")]
    if function.uses_time:
        return [(f"s{index}_0", f"list({{'v': {column}, 't': {parameters['time']}}})")]
    return [(f"s{index}_0", f"list({column})")]


def _over_values(values: str, asked: AskedAggregation, function: Aggregation) -> str:
    """The aggregation's own SQL over the values that the fragments shipped."""
    parameters = dict(asked.parameters)
    if function.uses_time:
        sql = function.sql("one.v", {**parameters, "time": "one.t"})
        return f"(SELECT {sql} FROM (SELECT unnest({values}) AS one))"
    return f"(SELECT {function.sql('v', parameters)} FROM (SELECT unnest({values}) AS v))"


def _column(asked: AskedAggregation) -> str:
    return "*" if asked.column is None else quote_identifier(asked.column)


def _names(fields: Sequence[ResultField]) -> str:
    return ", ".join(quote_identifier(field.name) for field in fields)


def union_sql(plan: QueryPlan, partitions: Sequence[PlannedPartition], relations: Relations) -> str:
    """The rows in range of all the files that meet the conditions, with the same columns in the same order."""
    wanted = tuple(dict.fromkeys((Field(plan.timestamp_column, "timestamp"), *plan.columns)))
    if plan.dedupe is not None and any(one.overlaps for one in partitions):
        alone = [one for one in partitions if not one.overlaps]
        last = _last_rows_sql(plan, [one for one in partitions if one.overlaps], relations, wanted)
        return " UNION ALL ".join([*(_branch(plan, one, relations[one.id], wanted) for one in alone), last])
    if not partitions:
        nothing = ", ".join(f"NULL::{SQL_TYPES[one.type]} AS {quote_identifier(one.name)}" for one in wanted)
        return f"SELECT {nothing} WHERE false"
    return " UNION ALL ".join(_branch(plan, partition, relations[partition.id], wanted) for partition in partitions)


def gathered_rows_sql(plan: QueryPlan, partitions: Sequence[PlannedPartition], relations: Relations) -> str:
    """The rows of partitions that overlap, each with its version and place, of which the last have yet to be found."""
    fields = [*needed_fields(plan), *(Field(name, "integer") for name in (VERSION_COLUMN, NUMBER_COLUMN))]
    before = [one for one in plan.conditions if _is_of_key(plan, one.column)]
    branches = []
    for one in partitions:
        stored = Schema((*one.schema.fields, *fields[-2:]))
        columns = ", ".join(_read_as(field, stored.type_of(field.name)) for field in fields)
        held = [_held(condition, one) for condition in before]
        if _is_of_key(plan, plan.timestamp_column) and not one.within_range:
            held.insert(0, _in_range(plan))
        where = f" WHERE {' AND '.join(held)}" if held else ""
        branches.append(f"SELECT {columns} FROM {relations[one.id]}{where}")
    return " UNION ALL ".join(branches)


def _last_rows_sql(
    plan: QueryPlan, partitions: Sequence[PlannedPartition], relations: Relations, wanted: Sequence[Field]
) -> str:
    """Of the overlapping partitions' rows those that were written last; only then what is no key may be asked for."""
    assert plan.dedupe is not None
    rows = gathered_rows_sql(plan, partitions, relations)
    last = last_rows_sql(rows, plan.dedupe, [field.name for field in needed_fields(plan)])
    held = [condition_sql(one) for one in plan.conditions if not _is_of_key(plan, one.column)]
    if not _is_of_key(plan, plan.timestamp_column) and not all(one.within_range for one in partitions):
        held.insert(0, _in_range(plan))
    where = f" WHERE {' AND '.join(held)}" if held else ""
    names = ", ".join(quote_identifier(field.name) for field in wanted)
    return f"SELECT {names} FROM ({last}){where}"


def needed_fields(plan: QueryPlan) -> tuple[Field, ...]:
    """What has to be read of rows of which the last are to be found."""
    assert plan.dedupe is not None
    asked = (Field(one.column, one.type) for one in plan.conditions)
    return tuple(dict.fromkeys((*plan.dedupe_fields, Field(plan.timestamp_column, "timestamp"), *plan.columns, *asked)))


def _is_of_key(plan: QueryPlan, column: str) -> bool:
    return plan.dedupe is not None and column in plan.dedupe.key


def _branch(plan: QueryPlan, partition: PlannedPartition, relation: str, wanted: Sequence[Field]) -> str:
    columns = ", ".join(_read_as(field, partition.schema.type_of(field.name)) for field in wanted)
    held = [] if partition.within_range else [_in_range(plan)]
    held += [_held(condition, partition) for condition in plan.conditions]
    where = f" WHERE {' AND '.join(held)}" if held else ""
    return f"SELECT {columns} FROM {relation}{where}"


def _in_range(plan: QueryPlan) -> str:
    time, wanted = quote_identifier(plan.timestamp_column), plan.time_range
    return f"{time} BETWEEN make_timestamp({wanted.start_us:d}) AND make_timestamp({wanted.end_us:d})"


def _held(condition: Condition, partition: PlannedPartition) -> str:
    if partition.schema.type_of(condition.column) is not None:
        return condition_sql(condition)
    return "true" if condition.operator == "isNull" and condition.values[0] else "false"


def _read_as(field: Field, stored: FieldType | None) -> str:
    name = quote_identifier(field.name)
    if stored == field.type:
        return name
    value = "NULL" if stored is None else name
    return f"CAST({value} AS {SQL_TYPES[field.type]}) AS {name}"
