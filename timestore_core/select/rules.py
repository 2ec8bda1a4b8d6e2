"""What a SELECT may hold, judged by the engine's own reading of it: the tree that `json_serialize_sql` gives.

Nothing is allowed that is not named here. Columns and aliases may be called anything; a table is one of the statement's
own `WITH` or a dataset, never anything else that the engine would find under that name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from timestore_core.errors import InvalidRequest
from timestore_core.names import folded
from timestore_core.select.functions import FUNCTIONS, TABLE_FUNCTIONS

# What the checked text and the text that runs have around the client's, see `wrapped`.
_ALIAS = "answer"

_NODES = frozenset({"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"})
_TABLES = frozenset({"BASE_TABLE", "SUBQUERY", "JOIN", "TABLE_FUNCTION", "EXPRESSION_LIST", "EMPTY"})
_MODIFIERS = frozenset(
    {
        "ORDER_MODIFIER",
        "LIMIT_MODIFIER",
        "LIMIT_PERCENT_MODIFIER",
        "DISTINCT_MODIFIER",
        "ORDER_DEFAULT",
        "ASCENDING",
        "DESCENDING",
    }
)
_EXPRESSIONS = frozenset(
    {
        "BETWEEN",
        "CASE",
        "CAST",
        "COLLATE",
        "COLUMN_REF",
        "COMPARISON",
        "CONJUNCTION",
        "CONSTANT",
        "FUNCTION",
        "LAMBDA",
        "LAMBDA_REF",
        "OPERATOR",
        "POSITIONAL_REFERENCE",
        "STAR",
        "SUBQUERY",
        "WINDOW",
    }
)
_KINDS = _NODES | _TABLES | _MODIFIERS
_PLAIN = re.compile(r"[^\W\d]\w*")
# Names under which the engine keeps tables of its own.
_RESERVED = re.compile(r"(duckdb|pg|sqlite|pragma|information_schema)(_|$)")
_MAX_TABLES = 64

_WHAT = {
    "PIVOT": "PIVOT and UNPIVOT are not supported here; aggregate with FILTER instead",
    "SHOW_REF": "DESCRIBE, SHOW and SUMMARIZE are not supported here; GET /datasets/:slug/schema has the columns",
    "PARAMETER": "parameters are not supported here; write the values into the statement",
}


def wrapped(sql: str) -> str:
    """The statement as it is checked; it runs between the same parentheses."""
    return f"SELECT * FROM (\n{sql}\n) AS {_ALIAS}"


def tables_of(tree: str) -> tuple[str, ...]:
    """The tables that the checked statement reads, as it writes their names, from the JSON of its tree.

    Raises InvalidRequest naming what is not allowed.
    """
    try:
        statement: Any = msgspec.json.decode(tree)
        node = statement["statements"][0]["node"]
        outer = node["from_table"]
        if node["type"] != "SELECT_NODE" or outer["type"] != "SUBQUERY" or outer["alias"] != _ALIAS:
            raise _refused("it must be one SELECT")
        found = _Walk()
        found.visit(node, frozenset())
    except RecursionError:
        raise _refused("it is nested too deeply") from None
    if len(found.tables) > _MAX_TABLES:
        raise _refused(f"it reads {len(found.tables)} tables; at most {_MAX_TABLES} are")
    return tuple(found.tables.values())


def _refused(why: str) -> InvalidRequest:
    return InvalidRequest.at("sql", why)


class _Walk:
    """Visits everything in the tree, with the names that the statement's own WITH clauses give at each place."""

    def __init__(self) -> None:
        self.tables: dict[str, str] = {}

    def visit(self, value: Any, scope: frozenset[str]) -> None:
        if isinstance(value, list):
            for one in value:
                self.visit(one, scope)
        elif isinstance(value, Mapping):
            self._visit_node(value, scope)

    def _visit_node(self, value: Mapping[str, Any], scope: frozenset[str]) -> None:
        kind = self._kind(value)
        if kind == "CONSTANT":
            return
        if "cte_map" in value:
            # Each sees those before it; only a recursive one sees itself, below.
            for entry in value["cte_map"]["map"]:
                self.visit(entry["value"], scope)
                scope = scope | {self._own_name(entry["key"])}
        own = value.get("cte_name") or value.get("ctename")
        for key, part in value.items():
            if key == "cte_map":
                continue
            sees_itself = own is not None and key in ("right", "child")
            self.visit(part, scope | {self._own_name(own)} if sees_itself and isinstance(own, str) else scope)
        if kind == "BASE_TABLE":
            self._table(value, scope)
        elif kind == "TABLE_FUNCTION":
            self._function(value["function"], TABLE_FUNCTIONS, "table function")
        elif kind in ("FUNCTION", "WINDOW"):
            self._function(value, FUNCTIONS | TABLE_FUNCTIONS, "function")

    @staticmethod
    def _kind(value: Mapping[str, Any]) -> str | None:
        """What this part of the tree is; None for one without a kind of its own, whose parts are visited."""
        if "class" in value:
            kind = value["class"]
            if kind not in _EXPRESSIONS:
                raise _refused(_WHAT.get(kind, f"{str(kind)[:40]} is not supported here"))
            return str(kind)
        kind = value.get("type")
        if isinstance(kind, str):
            if kind not in _KINDS and not kind.endswith("_TYPE_INFO"):
                raise _refused(_WHAT.get(kind, f"{kind[:40]} is not supported here"))
            return kind
        return None

    @staticmethod
    def _own_name(name: str) -> str:
        # Out of the reach of its WITH, the engine would look for a file or a table of its own under such a name.
        if not _PLAIN.fullmatch(name) or _RESERVED.match(name.lower()):
            raise _refused(f"WITH {name[:80]!r}: take letters, digits and _ for it, and no name of the engine's")
        return folded(name)

    def _table(self, value: Mapping[str, Any], scope: frozenset[str]) -> None:
        name = value["table_name"]
        if value["schema_name"] or value["catalog_name"]:
            path = ".".join(part for part in (value["catalog_name"], value["schema_name"], name) if part)
            raise _refused(
                f"there is no table {path[:120]!r}: a dataset is named by its slug alone, quoted where needed"
            )
        if value.get("at_clause") is not None:
            raise _refused("AT is not supported here; `asOf` beside the statement is")
        if folded(name) in scope:
            return
        if self.tables.setdefault(folded(name), name) != name:
            raise _refused(f"{name[:80]!r} and {self.tables[folded(name)][:80]!r} are one name to the engine")

    @staticmethod
    def _function(value: Mapping[str, Any], known: frozenset[str], what: str) -> None:
        name = str(value["function_name"])
        if value["catalog"] or value["schema"] not in ("", "main"):
            raise _refused(f"the {what} {name[:80]!r} is called through something; write it as {name[:80]}(…)")
        if name.lower() not in known:
            raise _refused(f"there is no {what} {name[:80]!r} here")
