"""Which dataset a measurement of a database is: its slug, and what is kept of the original names."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from typing import Any

from timestore_core.ingest.envelope import check_slug
from timestore_core.ingest.line_protocol.points import TIME_COLUMN
from timestore_core.names import name_problem
from timestore_core.settings import Settings

DEFAULT_DATABASE = "default"
_MAX_PLAIN = 120
# The first dot of a plain slug ends the database.
_PLAIN_DATABASE = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_PLAIN_MEASUREMENT = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*", re.ASCII)
_LIKE_FOLDED = re.compile(r".*-[0-9a-f]{12}", re.ASCII)


def database_named(database: str | None, retention_policy: str | None = None) -> str:
    """The database of a version 1 request: a policy other than the default makes it another one, `db/rp`."""
    name = database or DEFAULT_DATABASE
    return name if retention_policy in (None, "", "autogen", "default") else f"{name}/{retention_policy}"


def slug_of(database: str, measurement: str, settings: Settings) -> str:
    """The slug of the measurement's dataset: `database.measurement`.

    Where one of the names has other characters than letters, digits, `_`, `-` and (the measurement) single dots
    inside, or both together are long, the others become `_`, and a hash of both names follows, so that no two
    measurements share a dataset. Raises InvalidRequest where no form of it is a slug here.
    """
    candidates = list(_candidates(database, measurement))
    for slug in candidates:
        if len(slug) <= settings.max_slug_length and re.fullmatch(settings.slug_pattern, slug):
            return slug
    check_slug(candidates[-1], settings)
    return candidates[-1]


def _candidates(database: str, measurement: str) -> Iterator[str]:
    plain = f"{database}.{measurement}"
    is_plain = _PLAIN_DATABASE.fullmatch(database) and _PLAIN_MEASUREMENT.fullmatch(measurement)
    if is_plain and len(plain) <= _MAX_PLAIN and not _LIKE_FOLDED.fullmatch(plain):
        yield plain
    digest = hashlib.blake2b(f"{len(database)}/{database}/{measurement}".encode(), digest_size=6).hexdigest()
    folded = (
        re.sub(r"[^A-Za-z0-9_-]", "_", name, flags=re.ASCII)[: _MAX_PLAIN // 2] for name in (database, measurement)
    )
    slug = f"{'.'.join(folded)}-{digest}"
    yield slug
    # For patterns of lower-case letters, digits and hyphens.
    yield re.sub(r"[^a-z0-9]+", "-", slug.lower()).strip("-")


def dataset_name(database: str, measurement: str, slug: str, settings: Settings) -> str:
    """What the dataset is called: the original names where they can be shown."""
    name = f"{database}.{measurement}"
    return slug if name_problem(name, settings.max_name_length) else name


def birth_metadata(database: str, measurement: str, tags: tuple[str, ...]) -> dict[str, Any]:
    """The metadata of a dataset that is born here: where it comes from, and that a series has one row for each time."""
    return {
        "lineProtocol": {"database": database, "measurement": measurement},
        "dedupe": {"columns": list(tags), "timeColumn": TIME_COLUMN, "merge": "fields"},
    }
