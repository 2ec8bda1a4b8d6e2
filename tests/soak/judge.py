"""What is wrong with an answer, row by row where its rows say which they are."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tests.soak.model import Model
from tests.soak.questions import Question

_SHOWN = 5
RowId = tuple[int, int]


def faults(question: Question, found: Mapping[str, Any], model: Model, version: int) -> list[str]:
    """Everything in which the answer is not the version's; nothing where it is."""
    expected = question.answer(model, version)
    if found == expected:
        return []
    said = []
    for name in ("columns", "mode"):
        if found.get(name) != expected[name]:
            said.append(f"{name}: {found.get(name)} instead of {expected[name]}")
    if question.unit is None:
        said += _raw_faults(question, found["rows"], expected["rows"], model, version)
    else:
        said += _bucket_faults(found["rows"], expected["rows"])
    where = f"{model.slug!r} version {version}, asked {question}: "
    return [where + text for text in said or ["not the expected answer, and no row says why"]]


def _raw_faults(
    question: Question, found: Sequence[Any], expected: Sequence[Any], model: Model, version: int
) -> list[str]:
    said = []
    mine, right = [_id(row) for row in found], [_id(row) for row in expected]
    times = Counter(mine)
    doubled = [one for one, count in times.items() if count > 1]
    lost = [one for one in right if one not in times]
    limited = question.limit is not None and len(right) == question.limit
    held = model.rows_in(version, question.start_us, question.end_us, question.wanted) if limited else {}
    for text, ids in (
        ("doubled: ", doubled),
        ("lost: ", lost),
        # Where a limit ends the answer, what stands beyond it in the version has only moved up.
        *_foreign(
            [one for one in times if one not in set(right) and not held.get(one[0], 0) >> one[1] & 1], model, version
        ),
    ):
        if ids:
            said.append(f"{text}{len(ids)} rows, {_shown(ids)}")
    if len(found) != len(expected):
        said.append(f"{len(found)} rows instead of {len(expected)}")
    values = dict(zip(right, expected, strict=True))
    wrong = [(row, values[_id(row)]) for row in found if values.get(_id(row), row) != row]
    if wrong:
        said.append(f"wrong values in {len(wrong)} rows: {_shown(wrong)}")
    if not said and mine != right:
        said.append("the rows are not in time's order")
    return said


def _foreign(ids: Sequence[RowId], model: Model, version: int) -> list[tuple[str, list[RowId]]]:
    """Rows that the version must not have, by what they are."""
    kinds: dict[str, list[RowId]] = {"resurrected: ": [], "of a later version: ": [], "never sent: ": []}
    for one in ids:
        batch, published = model.batches.get(one[0]), model.published.get(one[0])
        if batch is None or published is None or one[1] >= batch.count:
            kinds["never sent: "].append(one)
        else:
            kinds["resurrected: " if published <= version else "of a later version: "].append(one)
    return list(kinds.items())


def _bucket_faults(found: Sequence[Mapping[str, Any]], expected: Sequence[Mapping[str, Any]]) -> list[str]:
    mine, right = ({row["timestamp"]: row for row in rows} for rows in (found, expected))
    differing = [
        (mine.get(start), right.get(start)) for start in sorted({*mine, *right}) if mine.get(start) != right.get(start)
    ]
    if differing:
        return [f"{len(differing)} buckets are not what they must be, answered and right: {_shown(differing)}"]
    return ["the buckets are not in order, or come twice"]


def _id(row: Mapping[str, Any]) -> RowId:
    return row["batch"], row["row"]


def _shown(what: Sequence[Any]) -> str:
    return json.dumps(what[:_SHOWN], default=str) + (" …" if len(what) > _SHOWN else "")
