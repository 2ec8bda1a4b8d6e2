"""Fixtures: an S3 (moto's server) behind a proxy that knows two keys, and services whose partitions it keeps."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.maintenance import Json, Stand, ask, make_stand, questions
from tests.remote.fault_proxy import FaultProxy, Key
from tests.remote.recorder import Recorder
from tests.service import Service, free_port, wait_until

FIRST = Key("first-key-id", "first-secret-hunter2", frozenset({"first"}))
SECOND = Key("second-key-id", "second-secret-hunter3", frozenset({"second"}))


@dataclass(frozen=True)
class S3:
    """Two buckets, each with a key of its own, asked through the proxy; `client` sees them as they are."""

    proxy: FaultProxy
    client: Any

    def keys(self, bucket: str, prefix: str = "") -> set[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return {one["Key"] for page in pages for one in page.get("Contents", [])}

    def settings(self, key: Key = FIRST, bucket: str = "first") -> dict[str, str]:
        """Those of a service whose default target is the bucket."""
        return {"TIMESTORE_STORAGE_DRIVER": "s3", "TIMESTORE_S3_BUCKET": bucket, **self.access(key)}

    def access(self, key: Key = FIRST) -> dict[str, str]:
        """Those of a service that reaches the store."""
        return {
            "TIMESTORE_S3_ENDPOINT": self.proxy.url,
            "TIMESTORE_S3_FORCE_PATH_STYLE": "true",
            "TIMESTORE_S3_ACCESS_KEY_ID": key.id,
            "TIMESTORE_S3_SECRET_ACCESS_KEY": key.secret,
        }


@dataclass(frozen=True)
class RemoteStand(Stand):
    """A service over remote targets, with all that it ever answered."""

    recorder: Recorder

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    def cached(self) -> list[Path]:
        """The whole files in the cache."""
        return [path for path in self.cache.rglob("*.*") if path.suffix in (".duckdb", ".parquet")]

    def answers(self, slug: str) -> dict[str, bytes]:
        """The bytes of the answers to some questions of every kind: all of them are asked over local files."""
        found = {}
        for name, question in list(questions())[::4]:
            answer = self.service.query(slug, question)
            assert answer.status_code == 200, (name, answer.text)
            found[name] = answer.content
        return found

    def target(self, name: str, kind: str = "s3", **config: Any) -> str:
        """The id of a new storage target."""
        body = {"name": name, "kind": kind, "config": config}
        made: Json = ask(self.service, "POST", "/admin/storage-targets", body, status=201)["storageTarget"]
        return str(made["id"])


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    from botocore.session import get_session

    port = free_port()
    with (tmp_path_factory.mktemp("moto") / "log").open("wb") as log:
        server = subprocess.Popen([sys.executable, "-m", "moto.server", "-p", str(port)], stdout=log, stderr=log)
    wait_until(lambda: _answers(f"http://127.0.0.1:{port}/moto-api/"), "moto's server")
    client = get_session().create_client(
        "s3", "us-east-1", endpoint_url=f"http://127.0.0.1:{port}", aws_access_key_id="a", aws_secret_access_key="b"
    )
    for bucket in ("first", "second"):
        client.create_bucket(Bucket=bucket)
    proxy = FaultProxy(("127.0.0.1", port), {one.id: one for one in (FIRST, SECOND)})
    yield S3(proxy, client)
    proxy.shutdown()
    proxy.server_close()
    server.kill()
    server.wait(30)


@pytest.fixture(scope="session")
def new_stand(
    make_service: Callable[..., Service], postgres_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., RemoteStand]]:
    """Makes running stands; at the end nothing that they answered or logged may hold a secret."""
    made: list[RemoteStand] = []

    def make(**settings: str) -> RemoteStand:
        root = tmp_path_factory.mktemp("remote")
        given = {
            "TIMESTORE_QUERY_CACHE_DIR": str(root / "cache"),
            "TIMESTORE_LIFECYCLE_RETENTION_DELETE_GRACE_MINUTES": "0",
            **settings,
        }
        stand = make_stand(make_service, postgres_url, root / "storage", **given)
        remote = RemoteStand(stand.service, root, stand.settings, Recorder(stand.service))
        made.append(remote)
        return remote

    yield make
    for stand in made:
        stand.service.kill()
        stand.recorder.check()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=10).status_code < 500
    except httpx.HTTPError:
        return False
