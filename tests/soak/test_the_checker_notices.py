"""The checker can fail: each kind of fault, fed to it on purpose, is reported as what it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from tests.soak.batches import Batch, moment
from tests.soak.judge import faults
from tests.soak.ledger import Ledger
from tests.soak.model import COMPACTION, DELETION, INGEST, RESTORE, RETENTION, TIERING, Added, Change, Model
from tests.soak.questions import ALL_TIME_US, Question
from tests.soak.watch import Watch

KEY = (("site", "north"),)
SECOND_US = 1_000_000
BATCHES = [Batch(number, "rivers", KEY, number * SECOND_US, 1000, 10) for number in range(4)]
ALL = Question(*ALL_TIME_US)


@dataclass
class History:
    """A dataset's model with what it reported; each call is a version."""

    reported: list[str] = field(default_factory=list)
    max_age_hours: float | None = None

    def __post_init__(self) -> None:
        known = {batch.idempotency_key: batch for batch in BATCHES}
        self.model = Model("rivers", known.get, self.reported.append, self.max_age_hours)

    def change(self, *events: tuple[str, Mapping[str, Any]], added: Sequence[Added] = ()) -> History:
        self.model.apply(Change(self.model.version + 1, events, added))
        return self

    def ingest(self, number: int, **changes: Any) -> History:
        batch = BATCHES[number]
        payload = {"idempotencyKeys": [batch.idempotency_key], "partitionId": f"p{number}", "rowCount": batch.count}
        return self.change((INGEST, {**payload, **changes}), added=[come(f"p{number}", number)])

    def compact(self, *numbers: int, rows: int, come_rows: int | None = None) -> History:
        payload = {
            "sourcePartitionIds": [f"p{number}" for number in numbers],
            "replacementPartitionId": "c",
            "rowCount": rows,
        }
        return self.change(
            (COMPACTION, payload), added=[come("c", numbers[0], rows if come_rows is None else come_rows)]
        )

    def retain(self, number: int, judged_at_us: int, rows: int = 10) -> History:
        payload = {"partitionId": f"p{number}", "rowCount": rows, "reason": "maxAgeHours"}
        return self.change((RETENTION, {**payload, "judgedAt": moment(judged_at_us)}))

    def delete(self, partitions: Sequence[str], start_us: int, end_us: int, rows: int, *added: Added) -> History:
        payload = {"partitionIds": partitions, "startUs": start_us, "endUs": end_us, "rowCount": rows}
        return self.change((DELETION, {**payload, "partitionKey": {}}), added=added)

    def restore(self, version: int, add: int, remove: int, *added: Added) -> History:
        payload = {"restoredVersion": version, "added": add, "removed": remove}
        return self.change((RESTORE, payload), added=added)

    def judged(self, change: Callable[[list[dict[str, Any]]], Any], question: Question = ALL) -> str:
        """What is said of the current version's answer once it was changed."""
        version = self.model.version
        answer = question.answer(self.model, version)
        rows = [dict(row) for row in answer["rows"]]
        change(rows)
        return "\n".join(faults(question, {**answer, "rows": rows}, self.model, version))


def come(id_: str, number: int, rows: int = 10, path: str | None = None) -> Added:
    return Added(id_, f"rivers/{path or id_}.duckdb", KEY, BATCHES[number].start_us, rows)


def test_what_is_right_is_not_reported() -> None:
    history = History(max_age_hours=1).ingest(0).ingest(1).ingest(2).compact(0, 1, rows=20)
    history.delete(["c"], 5000, SECOND_US + 2000, 8, come("d", 0, 12))
    history.restore(3, 2, 1, come("r0", 0, path="p0"), come("r1", 1, path="p1"))
    history.change((TIERING, {"partitionId": "r0", "replacementPartitionId": "t"}), added=[come("t", 0)])
    history.retain(2, judged_at_us=BATCHES[2].end_us + 3600 * SECOND_US + 1)

    assert history.reported == []
    assert history.model.totals == [0, 10, 20, 30, 30, 22, 30, 30, 20]
    assert history.judged(lambda rows: None) == ""
    assert history.judged(lambda rows: None, Question(*ALL_TIME_US, limit=3)) == ""


def test_a_lost_row_is_reported() -> None:
    said = History().ingest(0).ingest(1).judged(lambda rows: rows.pop(12))

    assert "lost: 1 rows, [[1, 2]]" in said
    assert "19 rows instead of 20" in said


def test_a_doubled_row_is_reported() -> None:
    said = History().ingest(0).judged(lambda rows: rows.insert(3, rows[3]))

    assert "doubled: 1 rows, [[0, 3]]" in said


def test_a_resurrected_row_is_reported() -> None:
    history = History().ingest(0).ingest(1).delete(["p0"], 0, SECOND_US - 1, 10)

    said = history.judged(lambda rows: rows.insert(0, BATCHES[0].rows(0b100)[0]))

    assert history.reported == []
    assert "resurrected: 1 rows, [[0, 2]]" in said


def test_a_row_that_comes_early_and_one_that_nobody_sent_are_reported() -> None:
    history = History().ingest(0).ingest(1)
    answer = ALL.answer(history.model, 2)

    assert "of a later version: 10 rows" in "".join(faults(ALL, answer, history.model, 1))
    assert "never sent: 10 rows" in history.judged(lambda rows: rows.extend(BATCHES[3].rows(BATCHES[3].all_rows)))


def test_a_short_answer_is_reported_where_a_limit_ends_it_too() -> None:
    history, limited = History().ingest(0).ingest(1), Question(*ALL_TIME_US, limit=12)

    assert "10 rows instead of 20" in history.judged(lambda rows: rows.__delitem__(slice(10, None)))
    assert "11 rows instead of 12" in history.judged(lambda rows: rows.pop(), limited)

    def skip_one(rows: list[dict[str, Any]]) -> None:
        rows[:] = [*rows[:4], *rows[5:], BATCHES[1].rows(0b100)[0]]

    said = history.judged(skip_one, limited)
    assert "lost: 1 rows, [[0, 4]]" in said
    assert "resurrected" not in said


def test_a_wrong_value_a_wrong_order_and_a_wrong_bucket_are_reported() -> None:
    history = History().ingest(0).ingest(1)
    asked = ({"fn": "count", "alias": "rows"}, {"fn": "sum", "column": "value", "alias": "total"})
    seconds = Question(*ALL_TIME_US, unit="second", asked=asked)

    assert "wrong values in 1 rows" in history.judged(lambda rows: rows[2].update(value=0.25))
    assert "not in time's order" in history.judged(lambda rows: rows.reverse())
    assert "1 buckets are not what they must be" in history.judged(lambda rows: rows[1].update(rows=9), seconds)
    assert "1 buckets are not what they must be" in history.judged(lambda rows: rows.pop(), seconds)


@pytest.mark.parametrize(
    ("history", "said"),
    [
        (History().ingest(0).ingest(0), "version 2: doubled: batch-0 was published by version 1 already"),
        (History().ingest(0, rowCount=9), "batch-0 has 10 rows, 9 of them arrived"),
        (History().ingest(0, idempotencyKeys=["batch-77"]), "'batch-77' is no batch that was sent to it"),
        (History().ingest(0).ingest(1).compact(0, 1, rows=19), "compacted 20 rows to 19"),
        (History().ingest(0).ingest(1).compact(0, 1, rows=20, come_rows=19), "c has 19 rows of"),
        (History().ingest(0).compact(0, 1, rows=20), "p1 was taken away, which version 1 does not have"),
        (History(max_age_hours=1).ingest(0).retain(0, SECOND_US), "lost: retention removed batches [0] before"),
        (History().ingest(0).retain(0, SECOND_US), "for a rule that there is not: maxAgeHours"),
        (History(max_age_hours=1e-9).ingest(0).retain(0, SECOND_US, rows=9), "retention says 9 rows of p0, it had 10"),
        (History().ingest(0).delete(["p0"], 0, 4000, 5), "lost: delete-rows left 5 rows of p0 nowhere"),
        (History().ingest(0).delete(["p0"], 0, 4000, 4, come("d", 0, 5)), "says 4 rows, its range had 5"),
        (History().ingest(0).delete(["p0"], 0, SECOND_US, 10).restore(1, 1, 0), "lost: rivers/p0.duckdb of version 1"),
        (History().ingest(0).change((TIERING, {"partitionId": "p0", "replacementPartitionId": "t"})), "did not come"),
        (
            History().ingest(0).delete([], 0, 0, 0, come("d", 0)),
            "the partition d of 10 rows came, and nothing says why",
        ),
        (History().ingest(0).delete(["p0"], 0, 4000, 5, come("d", 0, 5, path="p0")), "p0.duckdb was used before"),
    ],
)
def test_a_history_that_cannot_be_is_reported(history: History, said: str) -> None:
    assert any(said in one for one in history.reported), history.reported


def test_a_version_without_a_line_in_the_audit_log_is_reported() -> None:
    history = History()

    history.model.apply(
        Change(2, [(INGEST, {"idempotencyKeys": ["batch-0"], "partitionId": "p0", "rowCount": 10})], [])
    )

    assert "version 1: no line of the audit log says what it did" in history.reported[0]


def test_a_version_that_goes_back_is_reported() -> None:
    watch = Watch()
    watch.saw("rivers", 7, floor=0)
    watch.saw("rivers", 8, watch.highest("rivers"))
    watch.saw("rivers", 5, floor=4)
    assert watch.problems == []

    watch.saw("rivers", 7, watch.highest("rivers"))

    assert watch.problems == ["'rivers' went back: version 7 after version 8 had been seen"]
    assert watch.stop.is_set()


def test_a_version_that_changes_its_answer_is_reported() -> None:
    watch = Watch()
    watch.answered("rivers", 7, "how many?", b"10")
    watch.answered("rivers", 8, "how many?", b"11")
    assert watch.problems == []

    watch.answered("rivers", 7, "how many?", b"11")

    assert "version 7 changed its answer" in watch.problems[0]


def test_acknowledgements_that_contradict_each_other_are_reported() -> None:
    reported: list[str] = []
    ledger = Ledger(reported.append)
    ledger.told(BATCHES[0], 4, replayed=False)
    ledger.told(BATCHES[0], 4, replayed=True)
    assert reported == []

    ledger.told(BATCHES[0], 5, replayed=True)
    ledger.told(BATCHES[0], 4, replayed=False)

    assert reported == [
        "batch-0: acknowledged in version 5, before that in version 4",
        "doubled: batch-0 was taken as new twice, in version 4",
    ]


def test_a_part_that_fails_is_a_problem() -> None:
    watch = Watch()

    thread = watch.thread("writer", lambda: [][1])
    thread.start()
    thread.join()

    assert "writer failed" in watch.problems[0]
    assert "IndexError" in watch.problems[0]


def test_a_range_of_time_means_certain_rows_of_a_batch() -> None:
    batch = replace(BATCHES[1], step_us=7, count=9)
    times = [batch.start_us + 7 * row for row in range(9)]

    for start_us in range(batch.start_us - 9, batch.end_us + 9):
        for end_us in range(start_us, batch.end_us + 9, 5):
            right = sum(1 << row for row, time_us in enumerate(times) if start_us <= time_us <= end_us)
            assert batch.within(start_us, end_us) == right
