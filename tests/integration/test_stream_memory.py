"""What a process grows by while it streams more rows than it would want to have in memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import duckdb
import httpx
import psutil
import pytest

from tests.service import ALL_TIME, Service
from timestore_core.query.formats import ARROW, CSV, NDJSON, AnswerForm

pytestmark = pytest.mark.extended

ROWS = 5_000_000
MIB = 1024 * 1024


class Peak:
    """The largest resident size of a process while the block runs, in bytes above that at its start."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.grown_bytes = 0

    def __enter__(self) -> Peak:
        self._begin = self._process.memory_info().rss
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.01):
            self.grown_bytes = max(self.grown_bytes, self._process.memory_info().rss - self._begin)


@pytest.fixture(scope="module")
def filled(make_service: Callable[..., Service]) -> Iterator[Service]:
    """100 hosts, a row each ten seconds, in five batches; then started anew, so that nothing is warm."""
    service = make_service(TIMESTORE_INGEST_MAX_BODY_BYTES=str(1 << 30)).start()
    for number in range(0, ROWS, 200_000):
        service.client.post(
            "/datasets/cpu/ingest",
            content=batch_json(number, number + 200_000),
            headers={"content-type": "application/json"},
            timeout=120,
        ).raise_for_status()
    service.stop()
    yield service.start()
    assert service.stop() == 0


def batch_json(begin: int, end: int) -> bytes:
    sql = f"""
        SELECT string_agg(to_json({{
            'timestamp': strftime(make_timestamp(1704067200000000 + i // 100 * 10000000), '%Y-%m-%dT%H:%M:%S.%gZ'),
            'host': 'host_' || (i % 100), 'usage': hash(i) % 100000 / 1000.0, 'idle': hash(i + 1) % 100000 / 1000.0,
            'n': i
        }})::VARCHAR, ',') FROM range({begin}, {end}) t(i)"""
    found = duckdb.connect().execute(sql).fetchone()
    assert found is not None
    fields = [("timestamp", "timestamp"), ("host", "string"), ("usage", "double"), ("idle", "double"), ("n", "integer")]
    schema = ",".join(f'{{"name":"{name}","type":"{type_}"}}' for name, type_ in fields)
    head = (
        f'{{"schema":{{"fields":[{schema}]}},"partition":{{"key":{{"window":"w"}},"timeRange":{{'
        f'"start":"2024-01-01T00:00:00Z","end":"2024-12-31T00:00:00Z"}}}},"rows":['
    )
    return f"{head}{found[0]}]}}".encode()


@pytest.mark.parametrize("form", [NDJSON, ARROW, CSV], ids=["ndjson", "arrow", "csv"])
def test_five_million_rows_are_streamed_in_constant_memory(filled: Service, form: AnswerForm, tmp_path: Path) -> None:
    (server,) = psutil.Process(filled.pid).children()
    question = {"timeRange": ALL_TIME}
    headers = {"accept": form.media_type, "accept-encoding": "identity"}
    received = tmp_path / "received"

    with (
        Peak(server.pid) as peak,
        httpx.Client(base_url=filled.base, timeout=300) as client,
        received.open("wb") as file,
        client.stream("POST", "/datasets/cpu/query", json=question, headers=headers) as answer,
    ):
        assert answer.status_code == 200
        for piece in answer.iter_raw():
            file.write(piece)
    assert rows_in(received, form) == ROWS
    assert peak.grown_bytes < 200 * MIB, f"grown by {peak.grown_bytes / MIB:.0f} MiB"


def rows_in(path: Path, form: AnswerForm) -> int:
    if form is ARROW:
        import pyarrow as pa

        with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as reader:
            return sum(batch.num_rows for batch in reader)
    with path.open("rb") as file:
        lines = sum(piece.count(b"\n") for piece in iter(lambda: file.read(1 << 20), b""))
    return lines - (form is CSV)
