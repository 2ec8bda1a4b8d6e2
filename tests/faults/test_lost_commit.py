"""A COMMIT whose answer is lost is neither done nor failed: the service finds out, and publishes once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.faults.postgres_proxy import Cut, PostgresProxy, postgres_proxy
from tests.faults.stand import Stand, make_stand
from tests.service import Service, batch, numbers_of

CUTS: list[Cut] = ["before the server has it", "after the server has done it"]
KEYS = ["key", None]


@pytest.fixture(scope="module")
def proxied(
    make_service: Callable[..., Service], postgres_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Stand, PostgresProxy]]:
    with postgres_proxy(postgres_url) as (proxy, url):
        root = tmp_path_factory.mktemp("proxied") / "storage"
        stand = make_stand(make_service, postgres_url, root, TIMESTORE_DATABASE_URL=url)
        stand.service.start()
        # What a process writes down when it first comes to a target: the cuts are for what it publishes.
        assert stand.service.ingest("warm", batch([0])).status_code == 201
        yield stand, proxy
        stand.service.kill()


def assert_published_once(stand: Stand, slug: str, numbers: list[int], versions: int = 1) -> None:
    """One visible copy, a version and a file for each publish, and nothing beside them."""
    named = [one for one in stand.partitions() if one["slug"] == slug]
    assert numbers_of(stand.service, slug) == numbers
    assert [one["added_version"] for one in named] == list(range(1, versions + 1))
    assert sorted(stand.root / one["file_path"] for one in named) == [
        path for path in stand.files() if path.is_relative_to(stand.root / slug)
    ]
    stand.assert_the_catalog_names_only_whole_files()


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("cut", CUTS)
def test_a_batch_whose_commit_is_cut_is_published_once(
    proxied: tuple[Stand, PostgresProxy], cut: Cut, key: str | None
) -> None:
    stand, proxy = proxied
    slug = f"cut-{cut.split()[0]}-{key}".lower()
    proxy.cut_next(cut)

    answer = stand.service.ingest(slug, batch([1, 2]), key)

    assert proxy.cut_count == 1
    assert answer.status_code == 201
    assert "idempotent-replayed" not in answer.headers
    assert answer.json()["manifest"]["version"] == 1
    assert answer.json()["manifest"]["partitions"][0]["rowCount"] == 2
    assert_published_once(stand, slug, [1, 2])


@pytest.mark.parametrize("cut", CUTS)
def test_a_second_batch_whose_commit_is_cut_takes_one_version(proxied: tuple[Stand, PostgresProxy], cut: Cut) -> None:
    stand, proxy = proxied
    slug = f"second-{cut.split()[0]}"
    stand.service.ingest(slug, batch([1]))
    proxy.cut_next(cut, times=2)

    answer = stand.service.ingest(slug, batch([2]))

    assert proxy.cut_count == 2
    assert (answer.status_code, answer.json()["manifest"]["version"]) == (201, 2)
    assert_published_once(stand, slug, [1, 2], versions=2)


def test_when_no_commit_is_ever_answered_the_client_is_told_to_retry_and_then_gets_the_first_answer(
    proxied: tuple[Stand, PostgresProxy],
) -> None:
    stand, proxy = proxied
    proxy.cut_next("after the server has done it", times=100)
    unknown = stand.service.ingest("never-answered", batch([1]), "key")
    proxy.cut_next("after the server has done it", times=0)

    assert unknown.status_code == 503
    assert int(unknown.headers["retry-after"]) >= 1
    assert_published_once(stand, "never-answered", [1])
    again = stand.service.ingest("never-answered", batch([1]), "key")

    assert (again.status_code, again.headers["idempotent-replayed"]) == (201, "true")
    assert_published_once(stand, "never-answered", [1])


def test_when_no_commit_ever_arrives_nothing_is_published_until_the_client_retries(
    proxied: tuple[Stand, PostgresProxy],
) -> None:
    stand, proxy = proxied
    proxy.cut_next("before the server has it", times=100)
    lost = stand.service.ingest("never-arrived", batch([1]), "key")
    proxy.cut_next("before the server has it", times=0)

    assert lost.status_code == 503
    assert [one for one in stand.partitions() if one["slug"] == "never-arrived"] == []
    again = stand.service.ingest("never-arrived", batch([1]), "key")

    assert (again.status_code, "idempotent-replayed" in again.headers) == (201, False)
    assert numbers_of(stand.service, "never-arrived") == [1]
    stand.assert_the_catalog_names_only_whole_files()


@pytest.mark.parametrize("cut", CUTS)
def test_16_writers_that_lose_three_commits_all_publish_once(proxied: tuple[Stand, PostgresProxy], cut: Cut) -> None:
    stand, proxy = proxied
    slug = f"writers-{cut.split()[0]}"
    stand.service.ingest(slug, batch([0]))
    # Fewer than the service's tries: whoever is hit, and be it one writer each time, succeeds in the end.
    proxy.cut_next(cut, times=3)

    def write(number: int) -> httpx.Response:
        return stand.service.ingest(slug, batch([number]), f"key-{number}" if number % 2 else None)

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(write, range(1, 17)))

    assert proxy.cut_count == 3
    assert sorted(answer.json()["manifest"]["version"] for answer in answers) == list(range(2, 18))
    assert_published_once(stand, slug, list(range(17)), versions=17)
