"""The storage kind `azure_blob`: Azure Blob Storage through adlfs. Its files are fetched."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from timestore_remote.config import bucket_of, filled, prefix_of, retry_of, text_of
from timestore_remote.driver import Bucket, Habits, RemoteDriver, staging_below
from timestore_remote.endpoint import check_endpoint

from timestore_core.hookspecs import hookimpl
from timestore_core.settings import Settings
from timestore_core.storage import StorageKind

SECRETS = frozenset({"accountKey", "connectionString", "sasToken"})
_CONNECT_TIMEOUT_S = 5
_READ_TIMEOUT_S = 20


@hookimpl
def timestore_storage_drivers() -> Mapping[str, StorageKind]:
    return {"azure_blob": StorageKind(_open, _default_config, SECRETS, _complete)}


def _default_config(settings: Settings) -> Mapping[str, Any]:
    config = {"container": settings.azure_container, "accountName": settings.azure_account_name}
    return {name: value for name, value in config.items() if value is not None}


def _complete(config: Mapping[str, Any], settings: Settings) -> Mapping[str, Any]:
    defaults: dict[str, Any] = {"accountName": settings.azure_account_name}
    if not any(config.get(name) for name in SECRETS):
        defaults |= {
            "accountKey": settings.azure_account_key,
            "connectionString": settings.azure_connection_string,
            "sasToken": settings.azure_sas_token,
        }
    return {
        **filled(config, defaults),
        "_staging": str(staging_below(settings.spill_dir)),
        "_allowLinkLocal": settings.storage_allow_link_local,
        "_retryMs": settings.storage_retry_ms,
    }


def _open(config: Mapping[str, Any]) -> RemoteDriver:
    name, prefix = bucket_of(config, "container"), prefix_of(config)
    connection = text_of(config, "connectionString")
    if connection is None and text_of(config, "accountName") is None:
        raise ValueError("config.accountName: is required, or a connectionString")
    for part in (connection or "").split(";"):
        key, _, value = part.partition("=")
        if key.strip().lower().endswith("endpoint") and value:
            check_endpoint(value.strip(), allow_link_local=bool(config.get("_allowLinkLocal")))
    bucket = Bucket(name, prefix, f"az://{'/'.join(part for part in (name, prefix) if part)}")
    staging = Path(str(config.get("_staging") or "/tmp/timestore-staging"))
    habits = Habits(**retry_of(config))
    return RemoteDriver("azure_blob", bucket, staging, lambda: _file_system(config), habits=habits)


def _file_system(config: Mapping[str, Any]) -> Any:
    try:
        import adlfs
    except ImportError as error:
        raise OSError("adlfs is not installed; pip install 'timestore[azure]'") from error
    names = ("accountName", "accountKey", "connectionString", "sasToken")
    account, key, connection, token = (text_of(config, name) for name in names)
    system = adlfs.AzureBlobFileSystem(
        account_name=None if connection else account,
        account_key=None if connection else key,
        connection_string=connection,
        sas_token=token,
        connection_timeout=_CONNECT_TIMEOUT_S,
        read_timeout=_READ_TIMEOUT_S,
        use_listings_cache=False,
        skip_instance_cache=True,
    )
    # The driver tries again, for as long as the settings say; left to itself the library waits 15 seconds first.
    system.service_client._config.retry_policy.total_retries = 0
    return system
