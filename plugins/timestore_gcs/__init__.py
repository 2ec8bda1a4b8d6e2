"""The storage kind `gcs`: Google Cloud Storage through gcsfs; with HMAC keys queries may stream through httpfs."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from timestore_remote.config import bucket_of, filled, prefix_of, retry_of, text_of
from timestore_remote.driver import Bucket, Habits, RemoteDriver, staging_below
from timestore_remote.endpoint import check_endpoint

from timestore_core.hookspecs import hookimpl
from timestore_core.settings import Settings
from timestore_core.storage import InPlace, Secret, StorageKind

SECRETS = frozenset({"credentials", "hmacSecret"})
_TIMEOUT_S = 20
_DEADLINE_S = 10


@hookimpl
def timestore_storage_drivers() -> Mapping[str, StorageKind]:
    return {"gcs": StorageKind(_open, _default_config, SECRETS, _complete)}


def _default_config(settings: Settings) -> Mapping[str, Any]:
    config = {"bucket": settings.gcs_bucket, "endpoint": settings.gcs_endpoint, "project": settings.gcs_project}
    return {name: value for name, value in config.items() if value is not None}


def _complete(config: Mapping[str, Any], settings: Settings) -> Mapping[str, Any]:
    defaults: dict[str, Any] = {
        "endpoint": settings.gcs_endpoint,
        "project": settings.gcs_project,
        "credentials": settings.gcs_credentials,
        "hmacKeyId": settings.gcs_hmac_key_id,
        "hmacSecret": settings.gcs_hmac_secret,
    }
    return {
        **filled(config, defaults),
        "_staging": str(staging_below(settings.spill_dir)),
        "_allowLinkLocal": settings.storage_allow_link_local,
        "_retryMs": settings.storage_retry_ms,
    }


def _open(config: Mapping[str, Any]) -> RemoteDriver:
    name, prefix = bucket_of(config, "bucket"), prefix_of(config)
    endpoint = text_of(config, "endpoint")
    if endpoint is not None:
        check_endpoint(endpoint, allow_link_local=bool(config.get("_allowLinkLocal")))
    _token(config)
    bucket = Bucket(name, prefix, f"gs://{'/'.join(part for part in (name, prefix) if part)}")
    staging = Path(str(config.get("_staging") or "/tmp/timestore-staging"))
    # gcsfs tries again by itself, six times and ever more slowly, and cannot be told not to.
    habits = Habits(**retry_of(config), tries=1, deadline_s=_DEADLINE_S)
    return RemoteDriver("gcs", bucket, staging, lambda: _file_system(config), lambda: _in_place(config, bucket), habits)


def _file_system(config: Mapping[str, Any]) -> Any:
    endpoint = text_of(config, "endpoint")
    if endpoint is not None:
        # Asked of a server that is not Google's, this costs a minute for each bucket.
        os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    try:
        import gcsfs
    except ImportError as error:
        raise OSError("gcsfs is not installed; pip install 'timestore[gcs]'") from error
    return gcsfs.GCSFileSystem(
        project=text_of(config, "project"),
        token=_token(config),
        endpoint_url=endpoint,
        timeout=_TIMEOUT_S,
        use_listings_cache=False,
        skip_instance_cache=True,
    )


def _token(config: Mapping[str, Any]) -> Any:
    """A service account's key as gcsfs takes it; `anon`, or None for what the host has. Raises ValueError."""
    text = text_of(config, "credentials")
    if text is None or text == "anon":
        return text
    try:
        key = json.loads(text)
    except ValueError:
        key = None
    if not isinstance(key, dict):
        raise ValueError("config.credentials: must be a service account's key as JSON, or `anon`")
    return key


def _in_place(config: Mapping[str, Any], bucket: Bucket) -> InPlace | None:
    key, secret = text_of(config, "hmacKeyId"), text_of(config, "hmacSecret")
    if key is None or secret is None or text_of(config, "endpoint") is not None:
        return None
    return InPlace("httpfs", Secret("gcs", f"{bucket.url}/", {"KEY_ID": key, "SECRET": secret}))
