"""What stands in the catalog is gathered into files without anyone asking, and never grows without bounds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from tests.integration.maintenance import Stand, ingest, make_stand
from tests.integration.test_inline import formats, made, rows_of
from tests.service import Service, batch, numbers_of, wait_until

MOST = 10


@pytest.fixture(scope="module")
def stand(
    make_service: Callable[..., Service], postgres_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stand]:
    root = tmp_path_factory.mktemp("limits") / "storage"
    limits = {
        "TIMESTORE_INGEST_INLINE_MAX_PARTITIONS": str(MOST),
        "TIMESTORE_INGEST_INLINE_MAX_TOTAL_BYTES": "60000",
        "TIMESTORE_INGEST_INLINE_MAX_AGE_SECONDS": "2",
    }
    running = make_stand(make_service, postgres_url, root, TIMESTORE_HTTP_WORKERS="2", **limits)
    yield running
    assert running.service.stop() == 0


def no_more_than(stand: Stand, slug: str, most: int) -> bool:
    """Whether at most so many of the dataset's partitions stand in the catalog."""
    return formats(stand, slug).count("inline") <= most


def test_above_the_limit_they_are_gathered(stand: Stand) -> None:
    service, slug = stand.service, made(stand.service)
    for number in range(MOST + 2):
        ingest(service, slug, batch([number]))
    wait_until(lambda: no_more_than(stand, slug, 1), "the batches to be gathered")
    assert numbers_of(service, slug) == list(range(MOST + 2))


def test_a_single_one_does_not_grow_old(stand: Stand) -> None:
    service, slug = stand.service, made(stand.service)
    ingest(service, slug, batch([1]))
    wait_until(lambda: formats(stand, slug) == ["duckdb"], "the batch to be gathered")
    assert numbers_of(service, slug) == [1]


def test_while_nobody_gathers_new_batches_are_files(stand: Stand) -> None:
    service, slug = stand.service, made(stand.service)
    dataset_id = rows_of(stand, "SELECT id FROM datasets WHERE slug = %s", slug)[0]["id"]
    with psycopg.connect(stand.settings["TIMESTORE_DATABASE_URL"], autocommit=True) as holder:
        lock = f"timestore-maintenance-{dataset_id}"
        holder.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", [lock])
        numbers = iter(range(10_000))

        def is_full() -> bool:
            ingest(service, slug, batch([next(numbers)]))
            return formats(stand, slug).count("duckdb") >= 2 * MOST

        wait_until(is_full, "new batches to be files")
        # Each of the two processes knows what it published itself, and soon what the other did.
        assert no_more_than(stand, slug, 4 * MOST + 2)
        holder.execute("SELECT pg_advisory_unlock(hashtextextended(%s, 0))", [lock])
        sent = next(numbers)
        wait_until(lambda: no_more_than(stand, slug, 0), "the batches to be gathered")
    assert numbers_of(service, slug) == list(range(sent))


def test_batches_that_come_meanwhile_are_kept(stand: Stand) -> None:
    service, slug = stand.service, made(stand.service)

    def send(number: int) -> None:
        ingest(service, slug, batch([number]), f"key-{number}")
        if number % 20 == 0:
            assert number in numbers_of(service, slug)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(send, range(120)))
    assert numbers_of(service, slug) == list(range(120))
    wait_until(lambda: no_more_than(stand, slug, MOST), "the batches to be gathered")
    assert numbers_of(service, slug) == list(range(120))
    assert service.ingest(slug, batch([7]), "key-7").headers["idempotent-replayed"] == "true"
