"""The typed and the lenient path give the same columns, and the hash depends on values alone."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from timestore_core.errors import InvalidRequest
from timestore_core.ingest.lenient import lenient_columns
from timestore_core.ingest.rows import ARROW_TYPES, _typed_columns, content_hash, rows_to_table
from timestore_core.model import Field, Schema

SCHEMA = Schema(
    (
        Field("at", "timestamp"),
        Field("label", "string"),
        Field("value", "double"),
        Field("count", "integer"),
        Field("ok", "boolean"),
    )
)
times = st.datetimes().map(lambda moment: moment.isoformat() + "Z")
rows = st.lists(
    st.fixed_dictionaries(
        {
            "at": st.none() | times,
            "label": st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
            "value": st.none() | st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53), 2**53),
            "count": st.none() | st.integers(-(2**63), 2**63 - 1),
            "ok": st.none() | st.booleans(),
        }
    ),
    max_size=20,
)


def table_of(raw: str) -> pa.Table:
    return rows_to_table(msgspec.Raw(raw.encode()), SCHEMA, 1000)


@given(rows=rows)
def test_both_paths_give_the_same_columns(rows: list[dict[str, Any]]) -> None:
    raw = json.dumps(rows, ensure_ascii=False).encode()
    typed = _typed_columns(raw, SCHEMA.fields)
    lenient = lenient_columns(raw, SCHEMA.fields, ARROW_TYPES)

    if typed is not None:
        assert typed == lenient
    else:
        assert b"\\" in raw


def test_complete_rows_take_the_typed_path() -> None:
    raw = '[{"at": "2024-01-01T00:00:00Z", "label": "x", "value": 1, "count": 2, "ok": null}]'

    assert _typed_columns(raw.encode(), SCHEMA.fields) is not None


@pytest.mark.parametrize(
    "raw",
    [
        '[{"at": null, "label": "x", "value": 1, "count": 2, "ok": true, "ok": true}]',
        '[{"at": null, "label": "x", "value": 1, "count": 2, "ok": true, "extra": {"label": 1, "label": 1}}]',
        '[{"at": null, "label": "x", "value": 1, "count": 2, "ok": true}, {"at": null, "at": null}]',
        '[{"label": "\\u003a", "label": "x"}]',
    ],
)
def test_a_repeated_key_is_refused_wherever_it_hides(raw: str) -> None:
    with pytest.raises(InvalidRequest, match="uplicate"):
        table_of(raw)


def test_the_hash_is_of_the_values_not_of_their_spelling() -> None:
    plain = table_of('[{"at": "2024-01-01T00:00:00Z", "label": "x", "value": 1.0, "count": 2, "ok": null}]')
    odd = table_of('[{"ok": null, "count": "2", "value": 1, "label": "\\u0078", "at": "2024-01-01T01:00:00+01:00"}]')

    assert content_hash(SCHEMA, plain) == content_hash(SCHEMA, odd)


@given(first=rows, second=rows)
def test_other_values_have_another_hash(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> None:
    one, two = table_of(json.dumps(first)), table_of(json.dumps(second))

    assert (content_hash(SCHEMA, one) == content_hash(SCHEMA, two)) == (repr(one.to_pylist()) == repr(two.to_pylist()))


def test_too_many_rows_name_the_limit() -> None:
    with pytest.raises(InvalidRequest, match="TIMESTORE_INGEST_MAX_ROWS is 1000"):
        table_of(json.dumps([{}] * 1001))
