"""Names that users make: which are allowed, when two are one, and how they reach SQL (one function, ever)."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable


def quote_identifier(name: str) -> str:
    """The name as a quoted SQL identifier, safe for any text, in DuckDB as in PostgreSQL."""
    return '"' + name.replace('"', '""') + '"'


def quote_literal(text: str) -> str:
    """The text as a SQL string literal. Only for statements that take no parameters (ATTACH, SET)."""
    return "'" + text.replace("'", "''") + "'"


def name_problem(name: str, max_length: int) -> str | None:
    """Why this text cannot be a name, or None: it must be non-empty, printable, and not too long."""
    if not name.strip():
        return "must not be empty or blank"
    if len(name) > max_length:
        return f"has {len(name)} characters; the limit is {max_length}"
    if not all(character.isprintable() for character in name):
        return "holds a character that cannot be printed"
    return None


def folded(name: str) -> str:
    """What two names must differ in to be two: the engine ignores case, and look-alikes are one (NFC)."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def first_clash(names: Iterable[str]) -> tuple[str, str] | None:
    """The first two names of the list that are one to the engine, or None."""
    seen: dict[str, str] = {}
    for name in names:
        key = folded(name)
        if key in seen:
            return seen[key], name
        seen[key] = name
    return None
