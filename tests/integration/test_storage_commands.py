"""`timestore storage`: whether a place works and what to do where it does not, and moving a dataset to another."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psycopg
import pytest
import stamina
import timestore_s3
from timestore_workers.storage_probe import remedy

from tests.contract_suites.moto_server import SECRET, config, make_bucket, moto_server
from tests.integration.maintenance import Stand, ask, head, make_stand, numbers
from tests.service import Service, free_port, numbers_of, wait_until


@pytest.fixture(scope="module")
def stand(
    make_service: Callable[..., Service], postgres_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stand]:
    stand = make_stand(make_service, postgres_url, tmp_path_factory.mktemp("storage"))
    yield stand
    assert stand.service.stop() == 0


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    with moto_server() as url:
        yield url


def target(stand: Stand, name: str, kind: str, config: Any) -> str:
    """A new storage target's id."""
    made = ask(
        stand.service,
        "POST",
        "/admin/storage-targets",
        {"name": name, "kind": kind, "config": dict(config)},
        status=201,
    )
    id_: str = made["storageTarget"]["id"]
    return id_


def places(stand: Stand, slug: str) -> set[str]:
    """The ids of the storage targets where the dataset's partitions are."""
    return {one["storageTargetId"] for one in head(stand.service, slug)["partitions"]}


# check


def test_a_target_that_works_passes_and_nothing_is_left_in_it(stand: Stand) -> None:
    checked = stand.command("storage", "check", "timestore-default-local")

    assert checked.returncode == 0, checked.stderr
    for step in ("write a partition", "read it in place with DuckDB", "list", "delete"):
        assert f"well  {step} (" in checked.stdout
    assert "does what the service needs" in checked.stdout
    # Every command that opens the catalog renews its marker.
    left = {path.relative_to(stand.root).parts[0] for path in stand.root.rglob("*") if path.is_file()}
    assert left <= {".timestore"}


def test_a_bucket_that_works_passes_by_id_and_shows_no_secret(stand: Stand, moto: str) -> None:
    make_bucket(moto, "well")
    id_ = target(stand, "a bucket", "s3", config(moto, "well"))

    checked = stand.command("storage", "check", id_)

    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "well  read it in place with DuckDB (" in checked.stdout
    assert SECRET not in checked.stdout + checked.stderr


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("no bucket", "there is no such bucket"),
        ("nobody listens", "no connection: refused, or no such host"),
        ("a file for a root", "a file is in the way"),
    ],
)
def test_a_target_that_does_not_work_is_status_1_and_says_what_to_do(
    stand: Stand, moto: str, tmp_path: Path, what: str, said: str
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    given: dict[str, Any] = {
        "no bucket": config(moto, "no-such-bucket"),
        "nobody listens": config(f"http://127.0.0.1:{free_port()}", "bucket"),
        "a file for a root": {"root": str(root)},
    }
    target(stand, what, "local" if "root" in what else "s3", given[what])
    root.rmdir()
    root.write_bytes(b"")

    checked = stand.command("storage", "check", what)

    assert checked.returncode == 1
    assert said in " ".join(checked.stderr.split())
    assert SECRET not in checked.stdout + checked.stderr
    assert "Traceback" not in checked.stderr


def test_an_unknown_target_is_status_1_and_the_names_that_there_are(stand: Stand) -> None:
    checked = stand.command("storage", "check", "nowhere")

    assert checked.returncode == 1
    assert "timestore-default-local" in checked.stderr


@pytest.mark.parametrize(
    ("code", "status", "said"),
    [
        ("NoSuchBucket", 404, "there is no such bucket"),
        ("AccessDenied", 403, "s3:PutObject"),
        ("InvalidAccessKeyId", 403, "does not know this access key"),
        ("SignatureDoesNotMatch", 403, "the secret does not belong to the access key"),
        ("RequestTimeTooSkewed", 403, "set the clock"),
        ("AuthorizationHeaderMalformed", 400, "another region"),
        ("PermanentRedirect", 301, "another region"),
        ("ExpiredToken", 400, "the session token has expired"),
    ],
)
def test_what_an_s3_says_becomes_what_to_do(tmp_path: Path, code: str, status: int, said: str) -> None:
    with answering(code, status) as url:
        assert said in remedy_for(url, tmp_path)


def test_tls_where_there_is_none_says_so(tmp_path: Path) -> None:
    with answering("AccessDenied", 403) as url:
        assert "TLS fails" in remedy_for(url.replace("http:", "https:"), tmp_path)


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    driver = timestore_s3.timestore_storage_drivers()["s3"].open(config("http://127.0.0.1:1", "bucket"))

    with pytest.raises(OSError, match="s3fs is not installed; pip install") as raised:
        driver.check()

    assert "install that package" in (remedy(raised.value) or "")


def remedy_for(url: str, tmp_path: Path) -> str:
    """What to do about the failure of a check of a bucket there."""
    kind = timestore_s3.timestore_storage_drivers()["s3"]
    driver = kind.open({**config(url, "bucket"), "_staging": str(tmp_path)})
    with stamina.set_testing(True), pytest.raises(OSError) as raised:
        driver.check()
    assert SECRET not in str(raised.value)
    return remedy(raised.value) or f"nothing is known about {raised.value!r}"


@contextmanager
def answering(code: str, status: int) -> Iterator[str]:
    """The URL of an S3 that answers every request with this error."""
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{SECRET}</Message></Error>".encode()

    class Answer(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("content-length") or 0))
            shown = b"" if self.command == "HEAD" else body
            self.send_response(status)
            self.send_header("content-type", "application/xml")
            self.send_header("content-length", str(len(shown)))
            self.end_headers()
            self.wfile.write(shown)

        do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = answer  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


# move


def test_a_dry_run_moves_nothing_and_says_what_would_move(stand: Stand, tmp_path: Path) -> None:
    id_ = target(stand, "dry", "local", {"root": str(tmp_path / "dry")})
    numbers(stand.service, "dry", [1, 2], [3])

    shown = stand.command("storage", "move", "dry", "--to", id_, "--dry-run", "--and-new-batches")

    assert shown.returncode == 0, shown.stderr
    assert "would move 2 partitions" in shown.stdout
    assert id_ not in places(stand, "dry")
    assert ask(stand.service, "GET", "/admin/datasets/dry")["dataset"]["defaultStorageTargetId"] != id_


def test_a_moved_dataset_answers_the_same_and_new_batches_stay_where_they_went(stand: Stand, tmp_path: Path) -> None:
    id_ = target(stand, "moved", "local", {"root": str(tmp_path / "moved")})
    numbers(stand.service, "moved", [1, 2], [3], [4, 5])

    moved = stand.command("storage", "move", "moved", "--to", "moved")

    assert moved.returncode == 0, moved.stderr
    assert "moved 3 partitions" in moved.stdout
    assert "0 are elsewhere" in moved.stdout
    assert places(stand, "moved") == {id_}
    assert numbers_of(stand.service, "moved") == [1, 2, 3, 4, 5]
    (run, *_) = ask(stand.service, "GET", "/admin/lifecycle/status", datasetId="moved")["jobs"]
    assert (run["operations"], run["status"], run["triggerSource"]) == (["move"], "completed", "manual")
    numbers(stand.service, "moved", [6])
    assert len(places(stand, "moved")) == 2

    again = stand.command("storage", "move", "moved", "--to", "moved", "--and-new-batches")

    assert again.returncode == 0, again.stderr
    assert "moved 1 partitions" in again.stdout
    numbers(stand.service, "moved", [7])
    assert places(stand, "moved") == {id_}
    assert numbers_of(stand.service, "moved") == [1, 2, 3, 4, 5, 6, 7]


def test_a_dataset_that_is_maintained_just_now_is_not_moved(stand: Stand, tmp_path: Path) -> None:
    id_ = target(stand, "locked", "local", {"root": str(tmp_path / "locked")})
    numbers(stand.service, "locked", [1])
    dataset = ask(stand.service, "GET", "/admin/datasets/locked")["dataset"]["id"]
    with psycopg.connect(stand.settings["TIMESTORE_DATABASE_URL"], autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", [f"timestore-maintenance-{dataset}"])

        refused = stand.command("storage", "move", "locked", "--to", "locked")

    assert refused.returncode == 1
    assert "another maintenance of locked is running" in refused.stderr
    assert id_ not in places(stand, "locked")


def test_an_interrupted_move_goes_on_where_it_was(stand: Stand, tmp_path: Path) -> None:
    id_ = target(stand, "half", "local", {"root": str(tmp_path / "half")})
    numbers(stand.service, "half", *[[number] for number in range(40)])
    command = "from timestore_workers.cli import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", command, "storage", "move", "half", "--to", "half"],
        env={"PATH": "/usr/bin:/bin", "REDIS_URL": "inline", **stand.settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as moving:
        wait_until(lambda: id_ in places(stand, "half"), "the first partition to move")
        moving.send_signal(signal.SIGINT)
        _, complaint = moving.communicate(timeout=60)

    assert moving.returncode == 1, complaint
    assert "run the command again" in complaint
    assert len(places(stand, "half")) == 2
    assert numbers_of(stand.service, "half") == list(range(40))

    assert stand.command("storage", "move", "half", "--to", "half").returncode == 0
    assert places(stand, "half") == {id_}
    assert numbers_of(stand.service, "half") == list(range(40))


# cache


def test_the_cache_is_counted_and_cleared(stand: Stand, moto: str) -> None:
    make_bucket(moto, "cached")
    id_ = target(stand, "cached", "s3", config(moto, "cached"))
    ask(stand.service, "POST", "/admin/datasets", {"slug": "cached", "defaultStorageTargetId": id_}, status=201)
    numbers(stand.service, "cached", [1, 2, 3])
    assert numbers_of(stand.service, "cached") == [1, 2, 3]

    shown = stand.command("storage", "cache", "--clear")
    # What the service has open stays: removed, it would still fill the disk.
    assert stand.service.stop() == 0
    cleared = stand.command("storage", "cache", "--clear")
    stand.service.start()

    assert shown.returncode == cleared.returncode == 0, shown.stderr + cleared.stderr
    assert counted(shown.stdout, "files now") >= 1
    assert counted(cleared.stdout, "files now") == 0
    assert numbers_of(stand.service, "cached") == [1, 2, 3]


def counted(shown: str, what: str) -> int:
    """The number in the table's line of that name."""
    (line,) = [line for line in shown.splitlines() if line.strip("│ ").startswith(f"{what} ")]
    return int(line.strip("│ ").split()[-1].replace(",", ""))
