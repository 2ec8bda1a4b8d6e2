"""Sending an answer: whole where it is small, else in chunks while it is made; broken off where it fails."""

from __future__ import annotations

import itertools
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress

import falcon
import structlog

from timestore_core.query.answer import Answer
from timestore_core.query.formats import AnswerForm
from timestore_http.compression import compressed

log = structlog.get_logger(__name__)

# Below this, compressing costs more than it saves.
_MIN_COMPRESSED_BYTES = 1_024
_MAX_AT_ONCE_BYTES = 1 << 20


def vary(resp: falcon.Response) -> None:
    """Tell caches what else the answer depends on."""
    resp.set_header("Vary", "Accept, Accept-Encoding")


def send(req: falcon.Request, resp: falcon.Response, answer: Answer, form: AnswerForm, coding: str | None) -> None:
    """Make the answer this response's body; it is closed when it is sent, or cannot be."""
    resp.content_type = form.content_type
    try:
        pieces = iter(answer)
        begin, is_whole = _beginning(pieces)
        req.context.log |= {"rows": answer.tally.rows, "partitions": answer.tally.partitions}
    except BaseException:
        answer.close()
        raise
    size_bytes = sum(len(piece) for piece in begin)
    if coding is not None and size_bytes >= _MIN_COMPRESSED_BYTES:
        resp.set_header("Content-Encoding", coding)
    else:
        coding = None
    if is_whole and (coding is None or size_bytes <= _MAX_AT_ONCE_BYTES):
        answer.close()
        resp.data = _joined(begin) if coding is None else b"".join(compressed(begin, coding))
        return
    whole = itertools.chain(begin, pieces)
    resp.stream = _Body(req, answer, whole if coding is None else compressed(whole, coding))


def _beginning(pieces: Iterator[bytes]) -> tuple[list[bytes], bool]:
    """The first pieces, and whether they are all of them."""
    begin: list[bytes] = []
    size_bytes = 0
    for piece in pieces:
        begin.append(piece)
        if size_bytes >= _MIN_COMPRESSED_BYTES:
            return begin, False
        size_bytes += len(piece)
    return begin, True


def _joined(pieces: list[bytes]) -> bytes:
    """All of them as one; a large answer that is one already is not copied."""
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class _Body:
    """The chunks as the server wants them. It calls `close` whatever happens."""

    def __init__(self, req: falcon.Request, answer: Answer, pieces: Iterator[bytes]) -> None:
        self._req = req
        self._answer = answer
        self._pieces = pieces
        self._outcome = "left"

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            return next(self._pieces)
        except StopIteration:
            self._outcome = "whole"
            raise
        except Exception as error:
            self._outcome = "broken"
            log.error("answer.broken", error=type(error).__name__, message=str(error)[:500])
            self._reset()
            raise

    def close(self) -> None:
        """Give back what the answer holds, and note how it ended: whole, broken by us, or left by the client."""
        self._answer.close()
        tally = self._answer.tally
        log.info("answer.sent", outcome=self._outcome, rows=tally.rows, bytes=tally.size_bytes)

    def _reset(self) -> None:
        """Break the connection so that no client takes what it has for the whole, not even one without chunks."""
        connection = self._req.env.get("gunicorn.socket")
        if isinstance(connection, socket.socket):
            with suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.close()
