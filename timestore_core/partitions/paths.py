"""The key of a partition's file below its target's root: `<dataset>/<key>=<value>/…/<partition id>.<extension>`."""

from __future__ import annotations

import re
from collections.abc import Mapping

_OUTSIDE = re.compile(r"[^a-z0-9._-]+", re.ASCII)
# 16 pairs of such segments stay below the 4,096 bytes that file systems take for a path.
_SEGMENT_LENGTH = 80


def fold_segment(text: str) -> str:
    """The text as a safe path segment: lower case, everything outside `a-z0-9._-` as `_`, never empty or hidden."""
    folded = _OUTSIDE.sub("_", text.lower())[:_SEGMENT_LENGTH]
    # A leading dot is kept for the service's own directories (`.tmp`), and `.` and `..` are no names at all.
    return folded if folded[:1] not in ("", ".") else f"_{folded[1:]}"


def partition_key_path(slug: str, partition_key: Mapping[str, str], partition_id: str, extension: str) -> str:
    """The storage key of a partition's file. The partition id makes it unique, the rest is for people."""
    pairs = [f"{fold_segment(key)}={fold_segment(value)}" for key, value in sorted(partition_key.items())]
    return "/".join([fold_segment(slug), *pairs, f"{partition_id}.{extension}"])
