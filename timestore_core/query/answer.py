"""An answer on its way to the client, and all that is held for it until it is there."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pyarrow as pa
import structlog

from timestore_core.errors import TooLarge
from timestore_core.query.admission import Turn
from timestore_core.query.formats import AnswerForm, Shape

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Tally:
    """What an answer took so far."""

    rows: int = 0
    partitions: int = 0
    size_bytes: int = 0

    def counted(self, batches: Iterator[pa.RecordBatch]) -> Generator[pa.RecordBatch, None, None]:
        """The batches, counted."""
        for batch in batches:
            self.rows += batch.num_rows
            yield batch


class Answer:
    """The bytes in pieces, to be read once. To be closed in any case, read or not.

    `next_cursor` is where the next page begins, of an answer that is a page and not the last.
    """

    def __init__(
        self, pieces: Iterator[bytes], tally: Tally, turn: Turn | None = None, held: ExitStack | None = None
    ) -> None:
        self.tally = tally
        self.next_cursor: str | None = None
        self._pieces = pieces
        self._turn = turn
        self._held = held or ExitStack()

    def __iter__(self) -> Iterator[bytes]:
        """The pieces. While one is being sent, another query may run."""
        for piece in self._pieces:
            if piece:
                self.tally.size_bytes += len(piece)
                if self._turn is None:
                    yield piece
                else:
                    with self._turn.away():
                        yield piece

    def close(self) -> None:
        """Give back what the answer holds: files, the engine, the query's turn."""
        self._held.close()


def begun(
    form: AnswerForm,
    batches: Iterator[pa.RecordBatch],
    shape: Shape,
    tally: Tally,
    turn: Turn,
    held: ExitStack,
    ended: Callable[[float], None],
) -> Answer:
    """The answer as soon as nothing that could be said with a status can go wrong any more.

    A stream has its first rows then, the other forms all of theirs. Takes what `held` holds; `ended` is told how many
    milliseconds the last row took. Raises TooLarge naming the limit.
    """
    started = time.perf_counter()
    first = next(batches, None)
    pieces = form.encode(itertools.chain([] if first is None else [first], batches), shape)

    def to_the_end() -> Iterator[bytes]:
        yield from pieces
        ended((time.perf_counter() - started) * 1000)

    if form.delivery == "memory":
        body = b"".join(_limited(to_the_end(), shape.max_bytes))
        held.close()
        return Answer(iter([body]), tally)
    pieces_left = to_the_end()
    if form.delivery == "disk":
        pieces_left = itertools.chain([next(pieces_left)], pieces_left)
    return Answer(pieces_left, tally, turn, held.pop_all())


def _limited(pieces: Iterator[bytes], max_bytes: int) -> Iterator[bytes]:
    size_bytes = 0
    for piece in pieces:
        size_bytes += len(piece)
        if size_bytes > max_bytes:
            raise TooLarge(
                f"the answer has more than {max_bytes} bytes (TIMESTORE_QUERY_MAX_ANSWER_BYTES); ask for fewer "
                "columns, a limit, a shorter time range or larger buckets, or for application/x-ndjson, which has none",
                code="query_bytes",
            )
        yield piece
