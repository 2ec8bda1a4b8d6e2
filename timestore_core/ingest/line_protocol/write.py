"""Lines to datasets: every measurement is one publish.

Nothing is written before every line is read and every dataset is known to take what goes to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow.compute as pc
import structlog

from timestore_core.catalog.attempt import Claim
from timestore_core.catalog.snapshots import Head, read_head
from timestore_core.errors import Conflict
from timestore_core.ingest.envelope import Envelope
from timestore_core.ingest.line_protocol.body import Parsed, parse_lines
from timestore_core.ingest.line_protocol.names import birth_metadata, dataset_name, slug_of
from timestore_core.ingest.line_protocol.points import TIME_COLUMN, BadLines, Piece
from timestore_core.ingest.line_protocol.precision import Precision
from timestore_core.ingest.line_protocol.series import LineTexts, Series, dedupe_tags, series_of
from timestore_core.ingest.pipeline import Work, ingest_batch
from timestore_core.model import Actor, Dataset, Schema, TimeRange
from timestore_core.partitions.inline import AUTO
from timestore_core.runtime import Runtime

log = structlog.get_logger(__name__)

# Another writer may have changed a dataset's columns since they were read.
_TRIES = 3


@dataclass(frozen=True, slots=True)
class Lot:
    """A body of lines as it came: for which database, of which precision, by whom, and when."""

    database: str
    body: bytes
    precision: Precision
    now_us: int
    actor: Actor


@dataclass(frozen=True, slots=True)
class Written:
    """How many rows were published, and the lines that were left out."""

    rows: int
    bad: BadLines


def write_lines(
    runtime: Runtime, lot: Lot, authorize: Callable[[Dataset | None], None], *, accept_partial: bool = True
) -> Written:
    """Publish the good lines; with `accept_partial` off, nothing where one is bad.

    `authorize` is asked for every dataset before anything is written, and raises where the actor may not. Raises
    TooLarge for a body beyond its limits, and what publishing raises: measurements before that one are then published,
    and sending the same again does no harm, since a series has one row for each time. Lines for a dataset that takes no
    batches are bad lines where there are others.
    """
    parsed = parse_lines(lot.body, lot.precision, lot.now_us, runtime.settings.ingest_max_rows)
    lines = LineTexts(lot.body)
    writers = [_Measurement(runtime, lot, name, pieces) for name, pieces in parsed.measurements.items()]
    for writer in writers:
        writer.prepare(authorize, lines)
    if not writers:
        authorize(None)
    runtime.plugins.step("ingest.decoded")
    rows = 0
    if accept_partial or not _bad_lines(parsed, writers).count:
        rows = sum(
            writer.publish(lines, accept_partial=accept_partial, is_alone=len(writers) == 1) for writer in writers
        )
    return Written(rows, _bad_lines(parsed, writers))


def _bad_lines(parsed: Parsed, writers: Sequence[_Measurement]) -> BadLines:
    bad = BadLines()
    for one in (parsed.bad, *(writer.bad for writer in writers)):
        bad.take(one)
    return bad


class _Measurement:
    """One measurement's way into its dataset."""

    def __init__(self, runtime: Runtime, lot: Lot, measurement: str, pieces: list[Piece]) -> None:
        self._runtime = runtime
        self._lot = lot
        self._measurement = measurement
        self._pieces = pieces
        self._slug = slug_of(lot.database, measurement, runtime.settings)
        self._head: Head | None = None
        self._series: Series | None = None
        self.bad = BadLines()

    def prepare(self, authorize: Callable[[Dataset | None], None], lines: LineTexts) -> None:
        """Read what the dataset is, and make the rows fit it."""
        if not self._measurement.isprintable():
            authorize(None)
            self._refuse("the measurement holds a character that cannot be printed", lines)
            return
        self._head = read_head(self._runtime.database, self._slug)
        authorize(self._dataset)
        self._fit(lines)

    def publish(self, lines: LineTexts, *, accept_partial: bool, is_alone: bool) -> int:
        """Publish the rows; how many they are. `is_alone` where the body has no other measurement."""
        for trial in range(_TRIES):
            if self._series is None or (self.bad.count and not accept_partial):
                return 0
            try:
                return ingest_batch(self._runtime, self._work(self._series), self._dataset).rows
            except Conflict as conflict:
                if conflict.code == "dataset_inactive" and accept_partial and not is_alone:
                    self._refuse(conflict.message, lines)
                    return 0
                if conflict.code != "schema_conflict" or trial == _TRIES - 1:
                    raise
                log.info("lines.fitted_again", dataset=self._slug)
                self._head = read_head(self._runtime.database, self._slug)
                self._fit(lines)
        raise AssertionError("unreachable")

    @property
    def _dataset(self) -> Dataset | None:
        return None if self._head is None else self._head.dataset

    def _fit(self, lines: LineTexts) -> None:
        schema = Schema(()) if self._head is None else self._head.schema
        self.bad = BadLines()
        self._series = series_of(self._pieces, self._dataset, schema, self._runtime.settings, self.bad, lines)

    def _brings_columns(self, schema: Schema) -> bool:
        return any(self._head is None or self._head.schema.type_of(name) is None for name in schema.names)

    def _refuse(self, reason: str, lines: LineTexts) -> None:
        """All of the lines are bad."""
        self.bad = BadLines()
        for piece in self._pieces:
            for number in map(int, piece.lines):
                self.bad.add(number, reason, lines[number] if self.bad.has_room else b"")

    def _work(self, series: Series) -> Work:
        database, measurement = self._lot.database, self._measurement
        ends = pc.min_max(series.rows.column(TIME_COLUMN).cast("int64")).as_py()
        known = dedupe_tags(self._dataset)
        envelope = Envelope(
            dataset_name=dataset_name(database, measurement, self._slug, self._runtime.settings),
            storage_target_id=None,
            table_name="records",
            schema=series.schema,
            partition_key={},
            time_range=TimeRange(ends["min"], ends["max"]),
            idempotency_key=None,
        )
        return Work(
            self._slug,
            envelope,
            series.rows,
            (Claim(None, "", series.rows.num_rows),),
            self._lot.actor,
            write_format=AUTO,
            dataset_metadata=birth_metadata(database, measurement, series.tags),
            dedupe_tags=() if known is None else tuple(tag for tag in series.tags if tag not in known),
            is_fitted=known is not None and self._brings_columns(series.schema),
        )
