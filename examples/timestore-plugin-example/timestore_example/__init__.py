"""An example plugin: the storage kind `sharded`, and the aggregations `geomean` and `mad`.

A function marked with `hookimpl` and named like a hook is all that the host looks for in this module. It is
imported at every start, also of `timestore plugins`: nothing here opens a file or a connection.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from timestore_core.aggregations import Aggregation
from timestore_core.errors import ConfigurationError
from timestore_core.hookspecs import hookimpl
from timestore_core.settings import Settings
from timestore_core.storage import StorageKind
from timestore_example.aggregations import GEOMEAN, MAD
from timestore_example.sharded import ShardedDriver

ROOT_VARIABLE = "EXAMPLE_SHARDED_ROOT"


@hookimpl
def timestore_storage_drivers() -> Mapping[str, StorageKind]:
    return {"sharded": StorageKind(open=_open, default_config=_default_config)}


@hookimpl
def timestore_aggregations() -> Mapping[str, Aggregation]:
    return {"geomean": GEOMEAN, "mad": MAD}


def _open(config: Mapping[str, Any]) -> ShardedDriver:
    """The driver of one target. `config` stands in the catalog: somebody may have written it by hand."""
    root = config.get("root")
    if not isinstance(root, str) or not Path(root).is_absolute():
        raise ValueError("config.root: must be an absolute path")
    return ShardedDriver(Path(root))


def _default_config(settings: Settings) -> Mapping[str, Any]:
    """The default target's config. A plugin's own variables have a prefix of their own: TIMESTORE_ is the host's."""
    del settings
    root = os.environ.get(ROOT_VARIABLE, "")
    if not Path(root).is_absolute():
        raise ConfigurationError(f"{ROOT_VARIABLE}: must be the absolute path of the directory that holds the files")
    return {"root": root}
