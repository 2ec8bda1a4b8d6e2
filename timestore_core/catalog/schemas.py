"""How a dataset's schema may change: columns may come, stay away, and widen from integer to double."""

from __future__ import annotations

from dataclasses import dataclass

from timestore_core.errors import Conflict
from timestore_core.model import Field, FieldType, Schema
from timestore_core.names import folded

# Beyond this a double no longer tells two neighbouring integers apart.
EXACT_INTEGER = 2**53


@dataclass(frozen=True, slots=True)
class Merged:
    """The dataset's schema once the batch is in, and the columns that it widens from integer to double."""

    schema: Schema
    widened: tuple[str, ...]


def merge_schemas(current: Schema, batch: Schema) -> Merged:
    """The schema that reads both. Raises Conflict saying which column was what and is now what."""
    by_name = {field.name: field for field in current.fields}
    by_folded = {folded(field.name): field.name for field in current.fields}
    types: dict[str, FieldType] = {field.name: field.type for field in current.fields}
    widened = []
    for field in batch.fields:
        known = by_name.get(field.name)
        if known is None:
            twin = by_folded.get(folded(field.name))
            if twin is not None:
                raise Conflict(
                    f"schema.fields: the column {field.name!r} differs from the existing {twin!r} only in a way "
                    "that the engine does not see; use the existing spelling",
                    code="schema_conflict",
                )
            types[field.name] = field.type
        elif known.type != field.type:
            types[field.name] = _common_type(field.name, known.type, field.type)
            if known.type == "integer":
                widened.append(field.name)
    return Merged(Schema(tuple(Field(name, type_) for name, type_ in types.items())), tuple(widened))


def _common_type(name: str, known: FieldType, new: FieldType) -> FieldType:
    if {known, new} == {"integer", "double"}:
        return "double"
    raise Conflict(
        f"schema.fields: the column {name!r} is {known} in this dataset and {new} in this batch; "
        "only integer may become double",
        code="schema_conflict",
        details=[{"path": "schema.fields", "column": name, "was": known, "is": new}],
    )
