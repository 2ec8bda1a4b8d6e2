from __future__ import annotations

import pytest

from timestore_core.catalog.schemas import merge_schemas
from timestore_core.errors import Conflict
from timestore_core.model import Field, FieldType, Schema


def schema(**types: FieldType) -> Schema:
    return Schema(tuple(Field(name, type_) for name, type_ in types.items()))


def test_columns_may_come_and_stay_away_without_changing_their_order() -> None:
    merged = merge_schemas(schema(a="string", b="double"), schema(c="boolean", b="double"))

    assert merged.schema == schema(a="string", b="double", c="boolean")
    assert merged.widened == ()


def test_integer_widens_to_double_and_stays_so() -> None:
    widened = merge_schemas(schema(a="integer"), schema(a="double"))
    again = merge_schemas(widened.schema, schema(a="integer"))

    assert (widened.schema, widened.widened) == (schema(a="double"), ("a",))
    assert (again.schema, again.widened) == (schema(a="double"), ())


def test_any_other_change_of_type_says_what_was_and_is() -> None:
    with pytest.raises(Conflict, match="'a' is string in this dataset and boolean in this batch"):
        merge_schemas(schema(a="string"), schema(a="boolean"))


def test_a_name_that_only_looks_new_is_refused() -> None:
    with pytest.raises(Conflict, match="existing 'Temp'"):
        merge_schemas(schema(Temp="double"), schema(temp="double"))
