"""Which queries run, which wait, and which are told to come again."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from tests.service import wait_until
from timestore_core.errors import TooManyRequests
from timestore_core.query.admission import Admission, admission
from timestore_core.settings import Settings


def test_no_more_run_than_may_and_each_gets_its_turn() -> None:
    gate, lock, running, most = Admission(3, 100, 60_000), threading.Lock(), 0, 0

    def query(_: int) -> int:
        nonlocal running, most
        with gate.admitted() as turn:
            turn.begin()
            for _ in range(5):
                with lock:
                    running += 1
                    most = max(most, running)
                with lock:
                    running -= 1
                with turn.away():
                    pass
        return 1

    with ThreadPoolExecutor(32) as pool:
        assert sum(pool.map(query, range(200))) == 200
    assert most <= 3
    with gate.admitted() as turn:
        turn.begin()


def test_beyond_the_queue_the_answer_is_to_come_again() -> None:
    gate = Admission(1, 2, 60_000)
    with gate.admitted() as first, gate.admitted():
        first.begin()
        with pytest.raises(TooManyRequests, match="TIMESTORE_QUERY_QUEUE") as refused, gate.admitted():
            pass
    assert refused.value.retry_after_s == 1
    with gate.admitted(), gate.admitted():
        pass


def test_who_waits_too_long_is_refused_and_takes_nothing_with_it() -> None:
    gate = Admission(1, 10, 1)
    with gate.admitted() as first:
        first.begin()
        with gate.admitted() as second, pytest.raises(TooManyRequests):
            second.begin()
        first.end()
        with gate.admitted() as third:
            third.begin()


def test_one_that_goes_on_goes_before_those_that_begin() -> None:
    gate, order = Admission(1, 10, 60_000), list[str]()

    def begin(name: str, started: threading.Event) -> None:
        with gate.admitted() as turn:
            started.set()
            turn.begin()
            order.append(name)

    with ThreadPoolExecutor(4) as pool, gate.admitted() as stream:
        stream.begin()
        with stream.away():
            other = gate.admitted()
            held = other.__enter__()
            held.begin()
            beginning = pool.submit(begin, "begins", threading.Event())
            wait_until(lambda: len(gate._waiting) == 1, "it to wait")
            resuming = pool.submit(lambda: (gate.begin(again=True), order.append("goes on"), gate.end()))
            wait_until(lambda: len(gate._waiting) == 2, "both to wait")
            held.end()
            resuming.result()
            beginning.result()
            other.__exit__(None, None, None)
    assert order == ["goes on", "begins"]


def test_a_client_that_left_does_not_come_back() -> None:
    gate = Admission(1, 10, 60_000)

    def leaving() -> None:
        with gate.admitted() as turn:
            turn.begin()
            with turn.away():
                raise GeneratorExit

    with pytest.raises(GeneratorExit):
        leaving()
    with gate.admitted() as turn:
        turn.begin()


@pytest.mark.parametrize("threads", [1, 2, 3, 16])
def test_a_part_of_the_server_s_threads_is_never_a_query_s(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIMESTORE_HTTP_THREADS", str(threads))
    gate = admission(Settings())
    with ExitStack() as held:
        for _ in range(max(1, threads * 3 // 4)):
            held.enter_context(gate.admitted())
        with pytest.raises(TooManyRequests):
            held.enter_context(gate.admitted())
