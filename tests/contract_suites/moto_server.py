"""An S3 of its own on a free port: moto's server, which keeps everything in memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx
from botocore.session import get_session

from tests.service import free_port, wait_until

# Nothing that anybody uses: moto takes every key.
KEY_ID = "AKIATIMESTORETESTS"
SECRET = "a-secret/of+the/tests-0123456789"


@contextmanager
def moto_server() -> Iterator[str]:
    """The URL of a running one."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        try:
            return httpx.get(f"{url}/moto-api/", timeout=5).status_code < 500
        except httpx.HTTPError:
            return False

    try:
        wait_until(answers, "moto's server to answer")
        yield url
    finally:
        process.kill()
        process.wait(30)


def make_bucket(url: str, name: str) -> None:
    """A new, empty bucket."""
    client = get_session().create_client(
        "s3", region_name="us-east-1", endpoint_url=url, aws_access_key_id=KEY_ID, aws_secret_access_key=SECRET
    )
    client.create_bucket(Bucket=name)


def config(url: str, bucket: str) -> Mapping[str, Any]:
    """The config of a target in the bucket."""
    return {
        "bucket": bucket,
        "prefix": "below/here",
        "endpoint": url,
        "region": "us-east-1",
        "accessKeyId": KEY_ID,
        "secretAccessKey": SECRET,
        "forcePathStyle": True,
    }
