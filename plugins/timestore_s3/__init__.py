"""The storage kind `s3`: Amazon's S3 and what speaks its protocol, through s3fs; queries may stream through httpfs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from timestore_remote.config import bucket_of, filled, prefix_of, retry_of, text_of
from timestore_remote.driver import Bucket, Habits, RemoteDriver, staging_below
from timestore_remote.endpoint import check_endpoint

from timestore_core.hookspecs import hookimpl
from timestore_core.settings import Settings
from timestore_core.storage import InPlace, Secret, StorageKind

SECRETS = frozenset({"secretAccessKey", "sessionToken"})
_DEFAULT_REGION = "us-east-1"
_CONNECT_TIMEOUT_S = 5
_READ_TIMEOUT_S = 20


@hookimpl
def timestore_storage_drivers() -> Mapping[str, StorageKind]:
    return {"s3": StorageKind(_open, _default_config, SECRETS, _complete)}


def _default_config(settings: Settings) -> Mapping[str, Any]:
    # Credentials stay in the environment: they are added when the target is opened.
    config = {"bucket": settings.s3_bucket, "endpoint": settings.s3_endpoint, "region": settings.s3_region}
    return {name: value for name, value in config.items() if value is not None}


def _complete(config: Mapping[str, Any], settings: Settings) -> Mapping[str, Any]:
    defaults: dict[str, Any] = {
        "endpoint": settings.s3_endpoint,
        "region": settings.s3_region,
        "accessKeyId": settings.s3_access_key_id,
        "secretAccessKey": settings.s3_secret_access_key,
        "forcePathStyle": settings.s3_force_path_style,
    }
    if config.get("accessKeyId") in (None, ""):
        # A token belongs to its key: another key's would only spoil it.
        defaults["sessionToken"] = settings.s3_session_token
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
    for one in ("region", "accessKeyId", "secretAccessKey", "sessionToken"):
        text_of(config, one)
    bucket = Bucket(name, prefix, f"s3://{'/'.join(part for part in (name, prefix) if part)}")
    credentials = _Credentials(config)
    staging = Path(str(config.get("_staging") or "/tmp/timestore-staging"))
    return RemoteDriver(
        "s3",
        bucket,
        staging,
        lambda: _file_system(config),
        lambda: _in_place(config, bucket, credentials),
        # In one stream: asked for several parts at once, a store that knows no ranges sends the whole file each time.
        Habits(**retry_of(config), download={"max_concurrency": 1}),
    )


def _file_system(config: Mapping[str, Any]) -> Any:
    try:
        import s3fs

        from timestore_s3.sessions import UnredirectedSession
    except ImportError as error:
        raise OSError("s3fs is not installed; pip install 'timestore[s3]'") from error
    path_style = bool(config.get("forcePathStyle"))
    client: dict[str, Any] = {"region_name": text_of(config, "region") or _DEFAULT_REGION}
    if text_of(config, "endpoint"):
        client["endpoint_url"] = text_of(config, "endpoint")
    system = s3fs.S3FileSystem(
        key=text_of(config, "accessKeyId"),
        secret=text_of(config, "secretAccessKey"),
        token=text_of(config, "sessionToken"),
        client_kwargs=client,
        config_kwargs={
            "http_session_cls": UnredirectedSession,
            "connect_timeout": _CONNECT_TIMEOUT_S,
            "read_timeout": _READ_TIMEOUT_S,
            # The driver tries again, for as long as the settings say.
            "retries": {"total_max_attempts": 1, "mode": "standard"},
            "s3": {"addressing_style": "path" if path_style else "auto"},
            # Servers that are not AWS's know nothing of the newer checksums.
            "request_checksum_calculation": "when_required",
            "response_checksum_validation": "when_required",
        },
        use_listings_cache=False,
        skip_instance_cache=True,
    )
    system.retries = 1
    return system


class _Credentials:
    """What DuckDB signs with: the target's own keys, or the host's role, which are renewed before they expire."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = config
        self._found: Any = None

    def options(self) -> dict[str, str | bool]:
        """KEY_ID, SECRET and SESSION_TOKEN as they are now; none for a public bucket."""
        key, secret = text_of(self._config, "accessKeyId"), text_of(self._config, "secretAccessKey")
        token = text_of(self._config, "sessionToken")
        if key is None or secret is None:
            frozen = self._of_the_host()
            if frozen is None:
                return {}
            key, secret, token = frozen.access_key, frozen.secret_key, frozen.token
        found: dict[str, str | bool] = {"KEY_ID": str(key), "SECRET": str(secret)}
        return found | ({"SESSION_TOKEN": token} if token else {})

    def _of_the_host(self) -> Any:
        if self._found is None:
            from botocore.session import get_session

            self._found = get_session().get_credentials()
        # A role's are renewed here, some minutes before they expire.
        return None if self._found is None else self._found.get_frozen_credentials()


def _in_place(config: Mapping[str, Any], bucket: Bucket, credentials: _Credentials) -> InPlace:
    options: dict[str, str | bool] = {
        "REGION": text_of(config, "region") or _DEFAULT_REGION,
        "URL_STYLE": "path" if config.get("forcePathStyle") else "vhost",
        **credentials.options(),
    }
    endpoint = text_of(config, "endpoint")
    if endpoint is not None:
        parts = urlsplit(endpoint)
        options |= {"ENDPOINT": parts.netloc + parts.path.rstrip("/"), "USE_SSL": parts.scheme == "https"}
    return InPlace("httpfs", Secret("s3", f"{bucket.url}/", options))
