"""What DuckDB needs to read files where a remote store keeps them: an extension, its limits, and secrets."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import structlog

from timestore_core.names import quote_identifier, quote_literal
from timestore_core.storage import Secret

log = structlog.get_logger(__name__)

HTTPFS = "httpfs"
_WHEEL = "duckdb_extension_httpfs"
_INSTALL_TIMEOUT_S = 30
# Per request, and a file takes several before its first row: a store that hangs must not hold a query for minutes.
_HTTP_TIMEOUT_S = 5
_HTTP_RETRIES = 1


@lru_cache(maxsize=1)
def httpfs_statement() -> str | None:
    """The statement that loads httpfs, or None where it can be had neither from its wheel nor by installing it.

    Found out once a process; trying to install it may take as long as the network makes it, up to a limit.
    """
    wheel = _wheel_path()
    if wheel is not None:
        return f"LOAD {quote_literal(str(wheel))}"
    script = "import duckdb; c = duckdb.connect(); c.execute('INSTALL httpfs'); c.execute('LOAD httpfs')"
    try:
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, timeout=_INSTALL_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        done = None
    if done is not None and done.returncode == 0:
        return "LOAD httpfs"
    log.warning(
        "httpfs.missing",
        effect="remote partitions are fetched whole before they are read",
        remedy="pip install duckdb-extension-httpfs, or let this host reach DuckDB's extensions",
    )
    return None


def remote_statements(locations: Iterable[str]) -> list[str]:
    """What an instance that may reach these places runs before its configuration is locked."""
    if not any(is_remote(one) for one in locations):
        return []
    load = httpfs_statement()
    if load is None:
        return []
    return [load, f"SET http_timeout = {_HTTP_TIMEOUT_S:d}", f"SET http_retries = {_HTTP_RETRIES:d}"]


def secret_statement(secret: Secret) -> str:
    """The statement that makes the secret, or replaces the one for the same place."""
    options = [f"TYPE {quote_identifier(secret.type)}", f"SCOPE {quote_literal(secret.scope)}"]
    for name, value in secret.options.items():
        shown = str(value).lower() if isinstance(value, bool) else quote_literal(value)
        options.append(f"{quote_identifier(name)} {shown}")
    return f"CREATE OR REPLACE TEMPORARY SECRET {quote_identifier(secret.scope)} ({', '.join(options)})"


def is_remote(location: str) -> bool:
    """Whether this is a URL and no path."""
    return "://" in location


def _wheel_path() -> Path | None:
    found = importlib.util.find_spec(_WHEEL)
    if found is None or not found.submodule_search_locations:
        return None
    for directory in found.submodule_search_locations:
        for path in Path(directory).rglob("*.duckdb_extension"):
            return path
    return None
