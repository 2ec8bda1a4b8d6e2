"""One line, read with care: escapes, quoted strings, and what is wrong with it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from timestore_core.ingest.line_protocol.points import LineError
from timestore_core.ingest.line_protocol.precision import Precision, time_us
from timestore_core.model import FieldType

# A separator behind a backslash is part of the name. Nothing else is escaped there: other backslashes stand for
# themselves.
_MEASUREMENT = re.compile(r"(?:[^, ]|(?<=\\)[, ])+")
_KEY = re.compile(r"(?:[^,= ]|(?<=\\)[,= ])+")
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_BARE = re.compile(r"[^, ]+")
_TIME = re.compile(r" *(-?\d{1,19})? *", re.ASCII)
_ESCAPED_IN_NAME = re.compile(r"\\([, =])")
# QuestDB's clients put a backslash before a line's end, too.
_ESCAPED_IN_STRING = re.compile(r'\\(["\\\r\n])')
_INTEGER = re.compile(r"-?\d{1,19}", re.ASCII)
_DOUBLE = re.compile(r"[+-]?(\d{1,400}(\.\d*)?|\.\d+)([eE][+-]?\d{1,4})?", re.ASCII)
_BOOLEANS = {
    **dict.fromkeys(("t", "T", "true", "True", "TRUE"), True),
    **dict.fromkeys(("f", "F", "false", "False", "FALSE"), False),
}


class OpenStringError(LineError):
    """A string is not closed where the line ends: it may go on in the next one."""


@dataclass(frozen=True, slots=True)
class Point:
    """A line's measurement, tags, fields with their types, and time."""

    measurement: str
    tags: dict[str, str]
    fields: dict[str, tuple[FieldType, Any]]
    time_us: int


def scan(line: str, precision: Precision, now_us: int) -> Point:
    """The line as a point. Raises LineError saying what is wrong."""
    found = _MEASUREMENT.match(line)
    if found is None:
        raise LineError("missing measurement")
    at, tags = found.end(), {}
    while line.startswith(",", at):
        key, at = _key(line, at + 1, "tag")
        value = _KEY.match(line, at)
        if value is None:
            raise LineError(f"missing value of the tag {key!r}")
        if key in tags:
            raise LineError(f"duplicate tag {key!r}")
        tags[key], at = _name(value.group()), value.end()
    if at == len(line):
        raise LineError("missing fields")
    if line[at] != " ":
        raise LineError(f"unexpected {line[at]!r} in the tags")
    while line.startswith(" ", at):
        at += 1
    fields: dict[str, tuple[FieldType, Any]] = {}
    while True:
        key, at = _key(line, at, "field")
        fields[key], at = _value(line, at, key)
        if not line.startswith(",", at):
            break
        at += 1
    clash = tags.keys() & fields.keys()
    if clash:
        raise LineError(f"{min(clash)!r} is both a tag and a field")
    return Point(_name(found.group()), tags, fields, _time(line, at, precision, now_us))


def _key(line: str, at: int, kind: str) -> tuple[str, int]:
    key = _KEY.match(line, at)
    if key is None:
        raise LineError(f"missing {kind} key")
    if not line.startswith("=", key.end()):
        raise LineError(f"missing value of the {kind} {_name(key.group())[:80]!r}")
    return _name(key.group()), key.end() + 1


def _value(line: str, at: int, key: str) -> tuple[tuple[FieldType, Any], int]:
    if line.startswith('"', at):
        quoted = _STRING.match(line, at)
        if quoted is None:
            raise OpenStringError(f"the string of the field {key[:80]!r} is not closed")
        return ("string", _ESCAPED_IN_STRING.sub(r"\1", quoted[1])), quoted.end()
    bare = _BARE.match(line, at)
    if bare is None:
        raise LineError(f"missing value of the field {key[:80]!r}")
    return _bare_value(bare.group(), key), bare.end()


def _bare_value(text: str, key: str) -> tuple[FieldType, Any]:
    if text in _BOOLEANS:
        return "boolean", _BOOLEANS[text]
    if _DOUBLE.fullmatch(text):
        number = float(text)
        if math.isfinite(number):
            return "double", number
    elif text[-1] in "iut" and _INTEGER.fullmatch(text, 0, len(text) - 1):
        whole = int(text[:-1])
        if -(2**63) <= whole < 2**63 and (text[-1] != "u" or text[0] != "-"):
            # `t` is QuestDB's: a time in microseconds.
            return ("timestamp", time_us(whole, 1_000)) if text[-1] == "t" else ("integer", whole)
    shown = text if len(text) <= 40 else f"{text[:40]}…"
    raise LineError(f"invalid value {shown!r} of the field {key[:80]!r}")


def _time(line: str, at: int, precision: Precision, now_us: int) -> int:
    if at < len(line) and line[at] != " ":
        raise LineError("unexpected text after a string")
    found = _TIME.fullmatch(line, at)
    if found is None:
        raise LineError("invalid timestamp")
    if found[1] is None:
        return now_us
    try:
        time = int(found[1])
        if not -(2**63) <= time < 2**63:
            raise OverflowError
        return time_us(time, precision)
    except OverflowError:
        raise LineError("the timestamp is out of range") from None


def _name(text: str) -> str:
    return _ESCAPED_IN_NAME.sub(r"\1", text) if "\\" in text else text
