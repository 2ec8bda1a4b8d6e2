"""Redis flushed, restarted, cut off, loading, read-only, silent or talking nonsense: weather, and nothing is lost."""

from __future__ import annotations

import functools
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.faults.queue_stand import Mood, QueueStand, RedisProxy, queue_stand, redis_proxy, started_valkey
from tests.service import Service, batch, free_port, wait_until

pytestmark = pytest.mark.extended

BATCHES = 200
OUTAGE_S = 10
# What the proxy does for each kind of weather; Valkey itself is read-only.
MOODS: dict[str, Mood] = {"loading": "loading", "talking nonsense": "garbage", "silent": "silent"}
KINDS = [*MOODS, "read-only"]
# Commands after which the server and the worker both have met it.
ENOUGH = {"loading": 20, "talking nonsense": 60, "silent": 4}
SLOW = {"silent": [pytest.mark.slow]}


class Senders:
    """Clients that send numbered batches in four parts, each part when it is opened, until each is accepted."""

    def __init__(self, base: str, slug: str) -> None:
        self._base = base
        self._slug = slug
        self._opened = [threading.Event() for _ in range(4)]
        self._lock = threading.Lock()
        self.jobs: dict[int, str] = {}
        self.refused: set[tuple[int, bool]] = set()

    def send(self, number: int) -> None:
        self._opened[number * 4 // BATCHES].wait()
        # Every other batch has no key, so that sending it again would publish it again.
        headers = {"idempotency-key": f"batch-{number}"} if number % 2 else {}
        with httpx.Client(base_url=self._base, timeout=60) as client:
            while True:
                answer = client.post(f"/datasets/{self._slug}/ingest", json=batch([number]), headers=headers)
                with self._lock:
                    if answer.status_code == 202:
                        self.jobs[number] = answer.json()["jobId"]
                        return
                    self.refused.add((answer.status_code, bool(headers)))
                assert answer.status_code in (429, 503), answer.text
                time.sleep(0.05)

    def open(self, part: int) -> None:
        """Open a part, and return in the middle of it."""
        self._opened[part].set()
        wait_until(lambda: len(self.jobs) >= BATCHES * part // 4 + BATCHES // 8, f"the middle of part {part}", 60)

    def open_all(self) -> None:
        for one in self._opened:
            one.set()


@pytest.mark.slow
@pytest.mark.parametrize("coalesce", ["off", "on"])
def test_batches_accepted_while_redis_is_flushed_restarted_and_away_are_all_there_once(
    make_service: Callable[..., Service], postgres_url: str, tmp_path: Path, coalesce: str
) -> None:
    with queue_stand(make_service, postgres_url, tmp_path, TIMESTORE_INGEST_COALESCE=coalesce) as stand:
        stand.service.start()
        for worker in [stand.worker() for _ in range(2)]:
            worker.start()
        senders = Senders(stand.service.base, "weather")
        with ThreadPoolExecutor(8) as pool:
            sending = [pool.submit(senders.send, number) for number in range(BATCHES)]
            try:
                senders.open(0)
                stand.redis().flushall()
                senders.open(1)
                stand.valkey.terminate()
                stand.valkey.start()
                senders.open(2)
                stand.valkey.stop()
                # The outage is the fault here, not a wait for anything.
                time.sleep(OUTAGE_S)
                stand.valkey.start()
                senders.open(3)
            finally:
                senders.open_all()
            for one in sending:
                one.result()

        stand.wait_for("weather", list(range(BATCHES)))
        assert {status for status, has_key in senders.refused if not has_key} <= {429}
        for number, job_id in senders.jobs.items():
            assert stand.status("weather", job_id)["status"] == "completed", number
        assert stand.count("ingest_journal") == 0
        stand.assert_the_catalog_names_only_whole_files()


@dataclass(frozen=True)
class Weather:
    """A stand with one worker, and a server without a journal; all behind a proxy, and how to make Redis' weather."""

    stand: QueueStand
    direct: Service
    proxy: RedisProxy

    @contextmanager
    def of(self, kind: str) -> Iterator[None]:
        if kind == "read-only":
            self.stand.redis().replicaof("127.0.0.1", free_port())
        else:
            self.proxy.become(MOODS[kind])
        try:
            yield
        finally:
            self.stand.redis().replicaof("NO", "ONE")
            self.proxy.become("well")

    def is_met(self, kind: str) -> bool:
        """Whether Redis was asked for this and for that meanwhile, by the servers and by the worker."""
        return kind == "read-only" or self.proxy.met[MOODS[kind]] >= ENOUGH[kind]


@pytest.fixture(scope="module")
def weather(
    make_service: Callable[..., Service], postgres_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Weather]:
    home = tmp_path_factory.mktemp("weather")
    valkey = started_valkey(home)
    with (
        redis_proxy(valkey.port) as proxy,
        queue_stand(make_service, postgres_url, home, valkey, REDIS_URL=proxy.url) as stand,
    ):
        direct = make_service(**stand.settings, TIMESTORE_INGEST_JOURNAL="off")
        for one in (stand.service, direct, stand.worker()):
            one.start()
        yield Weather(stand, direct, proxy)
        direct.kill()


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=SLOW.get(kind, ())) for kind in KINDS])
def test_a_redis_that_does_not_answer_as_it_should_delays_batches_and_nothing_else(weather: Weather, kind: str) -> None:
    stand, slug = weather.stand, f"weather-{kind}"
    (worker,) = stand.workers_made
    before = (worker.pid, [process.pid for process in stand.workers()])
    stand.accept(slug, [0])
    stand.wait_for(slug, [0])
    numbers, refused = itertools.count(1), []

    with weather.of(kind):

        def send_more() -> bool:
            stand.accept(slug, [number := next(numbers)], f"batch-{number}")
            refused.append(weather.direct.ingest(slug, batch([1000 + number]), f"batch-{1000 + number}"))
            return number >= 2 and weather.is_met(kind)

        wait_until(send_more, f"Redis to be asked while it is {kind}", 120)
        ready = [queue_status(one) for one in (stand.service, weather.direct)]

    assert [one.status_code for one in refused] == [503] * len(refused), refused[0].text
    assert all(int(one.headers["retry-after"]) >= 1 for one in refused)
    # Some nonsense is an answer to the question whether Redis is there.
    assert ready == [(200, "degraded"), (503, "down")] or kind == "talking nonsense"
    assert ready[0][0] == 200
    sent_again = list(range(1001, 1001 + len(refused)))
    for number in sent_again:
        again = functools.partial(weather.direct.ingest, slug, batch([number]), f"batch-{number}")
        wait_until(lambda again=again: again().status_code == 202, "an acceptance")
    stand.wait_for(slug, [*range(len(refused) + 1), *sent_again])
    assert worker.running
    assert (worker.pid, [process.pid for process in stand.workers()]) == before
    wait_until(lambda: queue_status(stand.service) == (200, "up"), "readiness")


def queue_status(service: Service) -> tuple[int, str]:
    """What /ready says, as a whole and of the queue."""
    answer = httpx.get(f"{service.base}/ready", timeout=60)
    return answer.status_code, answer.json()["details"]["queue"]["status"]
