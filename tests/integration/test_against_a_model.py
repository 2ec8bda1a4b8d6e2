"""Random batches, repeats, growing schemas and questions of every kind, compared with a plain Python model."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.integration.model import WIDTHS, Model, iso, multiset, same, wire
from tests.service import Service

COLUMNS = {
    "count": ["integer", "double"],
    "value": ["double"],
    "label": ["string"],
    "ok": ["boolean"],
    "seen at": ["timestamp"],
}
UNITS = [*WIDTHS, "month"]

moments = st.builds(
    lambda days, us: datetime(1969, 12, 20, tzinfo=UTC) + timedelta(days=days, microseconds=us),
    st.integers(0, 100),
    st.sampled_from([0, 1, 1000, 3_600_000_000, 86_399_999_999]) | st.integers(0, 86_399_999_999),
)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "integer": st.integers(-1000, 1000),
    # Eighths add up exactly, so that a wrong sum cannot hide in a tolerance.
    "double": st.integers(-4000, 4000).map(lambda n: n / 8),
    "string": st.text(st.characters(exclude_categories=["Cs"]), max_size=4),
    "boolean": st.booleans(),
    "timestamp": moments,
}
keys = st.fixed_dictionaries({"site": st.sampled_from(["north", "South ✓", "a/b"])}, optional={"n": st.just("1")})


@st.composite
def batches(draw: st.DrawFn) -> tuple[dict[str, str], dict[str, str], list[dict[str, Any]]]:
    """Fields with their types, a partition key, and rows as Python values; NULLs and absent values included."""
    fields = {"timestamp": "timestamp"}
    for name, types in COLUMNS.items():
        if draw(st.booleans()):
            fields[name] = draw(st.sampled_from(types))
    row = st.fixed_dictionaries(
        {"timestamp": moments | st.none()},
        optional={name: VALUES[type_] | st.none() for name, type_ in fields.items() if name != "timestamp"},
    )
    return fields, draw(keys), draw(st.lists(row, max_size=12))


def body_of(fields: dict[str, str], key: dict[str, str], rows: list[dict[str, Any]]) -> dict[str, Any]:
    times = [row["timestamp"] for row in rows if row["timestamp"] is not None] or [datetime(1970, 1, 1, tzinfo=UTC)]
    return {
        "schema": {"fields": [{"name": name, "type": type_} for name, type_ in fields.items()]},
        "partition": {"key": key, "timeRange": {"start": iso(min(times)), "end": iso(max(times))}},
        "rows": [{name: wire(value) for name, value in row.items()} for row in rows],
    }


class Comparison(RuleBasedStateMachine):
    """Drives one dataset of a running service and the model side by side."""

    service: Service

    @initialize()
    def begin(self) -> None:
        self.slug = f"model-{uuid4().hex[:10]}"
        self.model = Model()

    @rule(batch=batches(), named=st.booleans())
    def ingest(self, batch: Any, named: bool) -> None:
        fields, key, rows = batch
        name = uuid4().hex if named else None
        answer = self.service.ingest(self.slug, body_of(*batch), name)

        assert answer.status_code == 201, answer.text
        self.model.add(fields, key, rows)
        assert answer.json()["manifest"]["version"] == self.model.version
        assert answer.json()["manifest"]["totalRows"] == len(self.model.rows)
        if name is not None:
            self.model.keys[name] = (batch, answer.json()["manifest"])

    @precondition(lambda self: self.model.keys)
    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.model.keys)))
        batch, first = self.model.keys[name]
        answer = self.service.ingest(self.slug, body_of(*batch), name)

        assert answer.status_code == 201
        assert answer.headers["idempotent-replayed"] == "true"
        assert answer.json()["manifest"] == first

    @precondition(lambda self: self.model.keys)
    @rule(data=st.data(), other=batches())
    def reuse(self, data: st.DataObject, other: Any) -> None:
        name = data.draw(st.sampled_from(sorted(self.model.keys)))
        (fields, _, rows), _ = self.model.keys[name]
        filled = [{column: row.get(column) for column in fields} for row in rows]
        if (other[0], [{column: row.get(column) for column in other[0]} for row in other[2]]) != (fields, filled):
            assert self.service.ingest(self.slug, body_of(*other), name).status_code == 409

    @precondition(lambda self: self.model.version)
    @rule(
        data=st.data(),
        ends=st.tuples(moments, moments),
        accepted=st.none() | st.lists(st.sampled_from(["north", "a/b", "?"])),
    )
    def ask_raw(self, data: st.DataObject, ends: Any, accepted: list[str] | None) -> None:
        times = [name for name, type_ in self.model.columns.items() if type_ == "timestamp"]
        time = data.draw(st.sampled_from(times))
        columns = data.draw(st.none() | st.lists(st.sampled_from(list(self.model.columns)), min_size=1, unique=True))
        limit = data.draw(st.none() | st.integers(1, 20))
        question, expected = self._question(time, ends, accepted)
        question |= {"columns": columns} if columns else {}
        question |= {"limit": limit} if limit else {}
        answer = self._ask(question)
        shown = columns or list(self.model.columns)
        wanted = [{name: row[name] for name in shown} for row in expected]

        assert answer["columns"] == shown
        assert answer["mode"] == "raw"
        assert len(answer["rows"]) == min(len(wanted), limit or len(wanted))
        # Rows of one time may come in any order, also at the limit.
        assert not multiset(answer["rows"]) - multiset(wanted)
        if time in shown:
            found = [row[time] for row in answer["rows"]]
            assert found == [iso(row[time]) for row in expected[: len(found)]]

    @precondition(lambda self: self.model.version)
    @rule(data=st.data(), ends=st.tuples(moments, moments), unit=st.sampled_from(UNITS), size=st.integers(1, 9))
    def ask_downsampled(self, data: st.DataObject, ends: Any, unit: str, size: int) -> None:
        asked = data.draw(st.lists(self._aggregations(), min_size=1, max_size=4))
        asked = [{**one, "alias": f"a{index}"} for index, one in enumerate(asked)]
        question, rows = self._question("timestamp", ends, None)
        limit = data.draw(st.none() | st.integers(1, 20))
        question |= {"limit": limit} if limit else {}
        question["downsample"] = {"intervalUnit": unit, "intervalSize": size, "aggregations": asked}
        expected = self.model.buckets(rows, "timestamp", unit, size, asked)[:limit]
        answer = self._ask(question)

        assert answer["columns"] == ["timestamp", *(one["alias"] for one in asked)]
        assert len(answer["rows"]) == len(expected)
        for row, wanted in zip(answer["rows"], expected, strict=True):
            assert row.keys() == wanted.keys()
            assert all(same(wanted[name], row[name]) for name in wanted), (question, row, wanted)

    @invariant()
    def every_row_is_visible_once(self) -> None:
        if self.model.version:
            counted = {"intervalUnit": "month", "intervalSize": 1000, "aggregations": [{"fn": "count", "alias": "n"}]}
            question, rows = self._question("timestamp", (datetime.min, datetime.max), None)
            assert sum(row["n"] for row in self._ask({**question, "downsample": counted})["rows"]) == len(rows)

    def _aggregations(self) -> st.SearchStrategy[dict[str, Any]]:
        kinds = self.model.columns
        numbers = [name for name, type_ in kinds.items() if type_ in ("integer", "double")]
        choices = [st.just({"fn": "count"})]
        for names, functions in (
            (numbers, ["avg", "sum", "median"]),
            ([name for name in kinds if kinds[name] != "boolean"], ["min", "max"]),
            (list(kinds), ["count", "count_distinct"]),
        ):
            if names:
                pair = st.fixed_dictionaries({"fn": st.sampled_from(functions), "column": st.sampled_from(names)})
                choices.append(pair)
        if numbers:
            percentile = st.integers(0, 20).map(lambda n: n / 20)
            choices.append(
                st.fixed_dictionaries(
                    {"fn": st.just("percentile"), "column": st.sampled_from(numbers), "percentile": percentile}
                )
            )
        return st.one_of(choices)

    def _question(
        self, time: str, ends: Any, accepted: list[str] | None
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        start, end = sorted(one.replace(tzinfo=UTC) for one in ends)
        question: dict[str, Any] = {"timeRange": {"start": iso(start), "end": iso(end)}, "timestampColumn": time}
        if accepted is not None:
            question["filters"] = {"partitionKey": {"site": accepted}}
        return question, self.model.selected(time, start, end, {} if accepted is None else {"site": accepted})

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        answer = self.service.query(self.slug, question)
        assert answer.status_code == 200, (question, answer.text)
        assert answer.headers["x-timestore-version"] == str(self.model.version)
        decoded: dict[str, Any] = json.loads(answer.content)
        return decoded


def test_every_answer_is_the_model_s(service: Service) -> None:
    class Bound(Comparison):
        pass

    Bound.service = service
    run_state_machine_as_test(
        Bound,
        settings=settings(
            max_examples=40, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
