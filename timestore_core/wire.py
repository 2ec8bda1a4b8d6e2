"""JSON from clients into typed structures, with every fault named at once."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Hashable, Iterator
from functools import lru_cache
from typing import Any, TypeVar, cast

import jsonschema
import msgspec
from jsonschema.protocols import Validator

from timestore_core.errors import InvalidRequest, Problem
from timestore_core.model import TimeRange
from timestore_core.times import parse_time_us

T = TypeVar("T")


class WireTimeRange(msgspec.Struct, frozen=True):
    """Two ISO-8601 times, both inclusive."""

    start: str
    end: str


MAX_PROBLEMS = 50

# msgspec 0.22 notes what it knows of a type before it knows it all: a second thread that makes a decoder of the type
# meanwhile decodes by half of it, and the process crashes.
_making_decoder = threading.Lock()


@lru_cache(maxsize=32)
def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    with _making_decoder:
        return msgspec.json.Decoder(kind)


@lru_cache(maxsize=32)
def _validator(kind: Any) -> Validator:
    validator: Validator = jsonschema.Draft202012Validator(msgspec.json.schema(kind))
    return validator


def decode(body: bytes | msgspec.Raw, kind: type[T]) -> T:
    """The body as `kind`. Raises InvalidRequest with every fault's path, or saying that it is no JSON."""
    try:
        value: T = _decoder(cast(Hashable, kind)).decode(body)
    except msgspec.ValidationError as error:
        raise _listed(body, kind, error) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise invalid_json() from None
    except RecursionError:
        raise InvalidRequest.at("body", "is nested too deeply") from None
    return value


def checked_range(wire: WireTimeRange, path: str, problems: list[Problem]) -> TimeRange:
    """The range in microseconds; what is wrong with it is added to the problems."""
    ends: list[int] = []
    for name, text in (("start", wire.start), ("end", wire.end)):
        try:
            ends.append(parse_time_us(text))
        except ValueError as error:
            problems.append(Problem(f"{path}.{name}".lstrip("."), f"{text[:40]!r} {error}"))
    if len(ends) < 2:
        return TimeRange(0, 0)
    if ends[1] < ends[0]:
        problems.append(Problem(f"{path}.end".lstrip("."), f"is before {path}.start".replace(" .", " ")))
    return TimeRange(ends[0], ends[1])


def invalid_json() -> InvalidRequest:
    """The contract's answer to a body that is not JSON at all."""
    return InvalidRequest(
        "Body is not valid JSON but content-type is set to 'application/json'",
        code="FST_ERR_CTP_INVALID_JSON_BODY",
    )


def _listed(body: bytes | msgspec.Raw, kind: type[Any], first: msgspec.ValidationError) -> InvalidRequest:
    """All faults, not only the first: the same types' JSON Schema is held against the body."""
    try:
        value = msgspec.json.decode(body)
        found = (leaf for error in _validator(cast(Hashable, kind)).iter_errors(value) for leaf in _leaves(error))
        problems = [
            Problem(_path(list(error.absolute_path)), _short(error)) for error in itertools.islice(found, MAX_PROBLEMS)
        ]
    except (msgspec.DecodeError, RecursionError):
        problems = []
    if not problems:
        text, _, where = str(first).partition(" - at `$")
        problems = [Problem(where.rstrip("`").lstrip(".") or "body", text)]
    return InvalidRequest.of(sorted(problems, key=lambda problem: problem.path))


def _leaves(error: jsonschema.ValidationError) -> Iterator[jsonschema.ValidationError]:
    """The faults themselves: of an optional field, those inside the form that it was meant to have."""
    inside = [one for one in error.context or [] if one.validator != "type" or one.relative_path]
    if error.validator != "anyOf" or not inside:
        yield error
        return
    for one in inside:
        yield from _leaves(one)


def _path(parts: list[str | int]) -> str:
    path = ""
    for part in parts:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    return path or "body"


def _short(error: jsonschema.ValidationError) -> str:
    """What is wrong without repeating a value of any size."""
    wanted: Any = error.validator_value
    match error.validator:
        case "required":
            missing = sorted(set(wanted) - set(error.instance))
            return f"lacks {', '.join(missing)}"
        case "type":
            return f"must be of type {wanted if isinstance(wanted, str) else ' or '.join(wanted)}"
        case "enum":
            return f"must be one of {', '.join(map(str, wanted))}"
        case "anyOf":
            kinds = [str(one.get("type", one.get("$ref", "object").rsplit("/", 1)[-1])) for one in wanted]
            return f"must be of type {' or '.join(kinds)}"
        case "additionalProperties":
            unknown = sorted(set(error.instance) - set(error.schema.get("properties", ())))
            return f"has no field {', '.join(repr(one[:40]) for one in unknown[:5])}"
        case "minimum":
            return f"must be at least {wanted}"
        case "maximum":
            return f"must be at most {wanted}"
        case "minItems":
            return f"must have at least {wanted} item{'s' if wanted != 1 else ''}"
        case "minLength":
            return f"must have at least {wanted} character{'s' if wanted != 1 else ''}"
        case "maxLength":
            return f"must have at most {wanted} characters"
    return f"breaks the rule {error.validator!r}"
