"""The storage kind `local`: a directory on this machine (or on a file system that all hosts mount)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from timestore_core.hookspecs import hookimpl
from timestore_core.settings import Settings
from timestore_core.storage import StorageKind
from timestore_local.driver import LocalDriver


@hookimpl
def timestore_storage_drivers() -> Mapping[str, StorageKind]:
    return {"local": StorageKind(open=_open, default_config=_default_config)}


def _open(config: Mapping[str, Any]) -> LocalDriver:
    root = config.get("root")
    if not isinstance(root, str) or not Path(root).is_absolute():
        raise ValueError("config.root: must be an absolute path")
    return LocalDriver(Path(root))


def _default_config(settings: Settings) -> Mapping[str, Any]:
    return {"root": str(settings.storage_root)}
