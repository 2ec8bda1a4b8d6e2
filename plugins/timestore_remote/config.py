"""Reading a target's config: what it names, what the settings add, and what is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import SecretStr

_PREFIX = re.compile(r"[A-Za-z0-9!_.*'()=-]+(/[A-Za-z0-9!_.*'()=-]+)*")


def text_of(config: Mapping[str, Any], name: str) -> str | None:
    """The config's text, or None where it has none. Raises ValueError for anything else."""
    value = config.get(name)
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise ValueError(f"config.{name}: must be text")
    return value


def bucket_of(config: Mapping[str, Any], name: str) -> str:
    """The bucket or container. Raises ValueError where it is missing or no name of one."""
    bucket = text_of(config, name)
    if bucket is None or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}", bucket):
        raise ValueError(f"config.{name}: must be the name of a {name}")
    return bucket


def prefix_of(config: Mapping[str, Any]) -> str:
    """The prefix below which all files of the target stand; empty for the bucket itself."""
    prefix = (text_of(config, "prefix") or "").strip("/")
    if prefix and (not _PREFIX.fullmatch(prefix) or any(one in (".", "..") for one in prefix.split("/"))):
        raise ValueError("config.prefix: must be path segments of letters, digits and !_.*'()=-")
    return prefix


def filled(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The config, with a default for each name that it leaves open. Secrets are unwrapped."""
    added = {
        name: value.get_secret_value() if isinstance(value, SecretStr) else value
        for name, value in defaults.items()
        if value is not None and config.get(name) in (None, "")
    }
    return {**config, **added}


def retry_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """For how long a failing call is tried again, where the service's settings have told."""
    return {"retry_ms": config["_retryMs"]} if "_retryMs" in config else {}
