"""Datasets: listed, made, changed, archived, deleted and restored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType
from psycopg.types.json import Jsonb

from timestore_core.admin.paging import decode_cursor, encode_cursor
from timestore_core.catalog.audit import about, write_audit
from timestore_core.catalog.database import Connection, Row, translated
from timestore_core.catalog.records import dataset_json, dataset_of
from timestore_core.dedupe import KEY as DEDUPE
from timestore_core.dedupe import dedupe_problems
from timestore_core.errors import Conflict, Gone, InvalidRequest, NotFound, PreconditionFailed, Problem
from timestore_core.ingest.envelope import check_slug
from timestore_core.model import Actor, Dataset, StorageTarget, new_id
from timestore_core.names import name_problem
from timestore_core.partitions.inline import AUTO
from timestore_core.runtime import Runtime
from timestore_core.times import format_time, from_us, parse_time_us

MAX_DESCRIPTION_LENGTH = 10_000
MAX_METADATA_BYTES = 256 * 1024


class WireNewDataset(msgspec.Struct, frozen=True, rename="camel"):
    """The body of `POST /admin/datasets`."""

    slug: str
    name: str | None = None
    description: str | None = None
    metadata: dict[str, Any] | None = None
    write_format: str | None = None
    default_storage_target_id: str | None = None


class WireDatasetPatch(msgspec.Struct, frozen=True, rename="camel"):
    """The body of `PATCH /admin/datasets/:id`: what is absent stays; a metadata key that is null goes."""

    name: str | UnsetType = UNSET
    description: str | UnsetType | None = UNSET
    status: str | UnsetType = UNSET
    metadata: dict[str, Any] | UnsetType = UNSET
    write_format: str | UnsetType = UNSET


class WireStorageTargetChoice(msgspec.Struct, frozen=True, rename="camel"):
    """The body of `PUT /admin/datasets/:id/storage-target`."""

    storage_target_id: str


@dataclass(frozen=True, slots=True)
class Page:
    """Some datasets, and the cursor that leads to the next ones."""

    datasets: tuple[Dataset, ...]
    next_cursor: str | None


_FIND = (
    "SELECT * FROM datasets WHERE (id = %(key)s OR slug = %(key)s) AND deleted_at IS NULL ORDER BY id = %(key)s DESC"
)

_LOCK = "SELECT * FROM datasets WHERE id = %s AND deleted_at IS NULL FOR UPDATE"

# Every transaction that this read cannot see yet began after `read_at`.
_NEWEST_FIRST = """
SELECT *, (
    SELECT least(now(), min(xact_start)) FROM pg_stat_activity WHERE datname = current_database()
) AS read_at
FROM datasets
WHERE deleted_at IS NULL AND (%(status)s = 'all' OR status = %(status)s)
    AND (%(search)s::text IS NULL OR position(lower(%(search)s) IN lower(slug)) > 0
        OR position(lower(%(search)s) IN lower(name)) > 0)
    AND (%(updated)s::timestamptz IS NULL OR (updated_at, id) < (%(updated)s, %(id)s))
ORDER BY updated_at DESC, id DESC LIMIT %(limit)s
"""

# Those that were changed, and so moved to the front, after the first page was read.
_CHANGED_SINCE = """
SELECT * FROM datasets
WHERE deleted_at IS NULL AND (%(status)s = 'all' OR status = %(status)s)
    AND (%(search)s::text IS NULL OR position(lower(%(search)s) IN lower(slug)) > 0
        OR position(lower(%(search)s) IN lower(name)) > 0)
    AND updated_at >= %(since)s AND id > %(after)s
ORDER BY id LIMIT %(limit)s
"""

_INSERT = """
INSERT INTO datasets (id, slug, name, description, write_format, default_storage_target_id, metadata)
VALUES (%(id)s, %(slug)s, %(name)s, %(description)s, %(format)s, %(target)s, %(metadata)s)
ON CONFLICT (slug) DO NOTHING RETURNING *
"""

_UPDATE = """
UPDATE datasets SET name = %(name)s, description = %(description)s, status = %(status)s, metadata = %(metadata)s,
    write_format = %(format)s, default_storage_target_id = %(target)s, updated_at = clock_timestamp()
WHERE id = %(id)s RETURNING *
"""

_DELETE = """
UPDATE datasets SET deleted_at = now(), deleted_slug = slug, slug = slug || ' deleted ' || id,
    updated_at = clock_timestamp() WHERE id = %s RETURNING *
"""

_LOCK_DELETED = """
SELECT * FROM datasets WHERE (id = %(key)s OR deleted_slug = %(key)s) AND deleted_at IS NOT NULL
ORDER BY deleted_at DESC LIMIT 1 FOR UPDATE
"""

_BEING_COLLECTED = """
SELECT 1 FROM dataset_partitions
WHERE dataset_id = %s AND collecting AND added_version IS NOT NULL AND removed_version IS NULL LIMIT 1
"""

# All that a sweep leaves of a deleted dataset.
_SWEPT = """
SELECT 1 FROM lifecycle_audit_log WHERE event_type = 'collection.dataset.deleted'
    AND (dataset_id = %(key)s OR payload ->> 'datasetSlug' = %(key)s) LIMIT 1
"""

_RESTORE = """
UPDATE datasets SET slug = deleted_slug, deleted_at = NULL, deleted_slug = NULL, updated_at = clock_timestamp()
WHERE id = %(id)s AND NOT EXISTS (SELECT 1 FROM datasets other WHERE other.slug = datasets.deleted_slug) RETURNING *
"""


def find(runtime: Runtime, key: str) -> Dataset:
    """The dataset of this id or slug. Raises NotFound in the admin routes' words."""

    def work(connection: Connection) -> Row | None:
        return connection.execute(_FIND, {"key": key}).fetchone()

    row = None if "\0" in key else runtime.database.read(work)
    if row is None:
        raise NotFound(f"dataset {key} not found")
    return dataset_of(row)


def id_of(runtime: Runtime, key: str) -> str:
    """The id of the dataset of this id or slug; the key itself where there is none, or not any more."""
    try:
        return find(runtime, key).id
    except NotFound:
        return key


def list_page(runtime: Runtime, *, limit: int, cursor: str | None, status: str, search: str | None) -> Page:
    """Newest change first, then id descending; no dataset is lost while others change under the paging.

    One that changes meanwhile moves to the front, past the reader. So the cursor remembers when the first page was
    read, and after the last page those changed since come once more, by id.
    """
    position = decode_cursor(cursor, ()) if cursor is not None else {}
    filters = {"status": status, "search": search, "limit": limit + 1}
    if "after" in position:
        return _changed_page(runtime, position, filters, limit)
    updated = _time_of(position, "updatedAt") if position else None
    values = {**filters, "updated": updated, "id": position.get("id", "")}
    rows = runtime.database.read(lambda connection: connection.execute(_NEWEST_FIRST, values).fetchall())
    shown = rows[:limit]
    since = position.get("since") or (format_time(rows[0]["read_at"]) if rows and not position else None)
    if len(rows) > limit:
        last = {"updatedAt": format_time(shown[-1]["updated_at"]), "id": shown[-1]["id"]}
        return Page(tuple(map(dataset_of, shown)), encode_cursor({**last, **({"since": since} if since else {})}))
    following = position.get("since") and _changed_page(runtime, {**position, "after": ""}, filters, limit).datasets
    next_cursor = encode_cursor({"since": position["since"], "after": ""}) if following else None
    return Page(tuple(map(dataset_of, shown)), next_cursor)


def _changed_page(runtime: Runtime, position: Mapping[str, Any], filters: Mapping[str, Any], limit: int) -> Page:
    values = {**filters, "since": _time_of(position, "since"), "after": position["after"]}
    rows = runtime.database.read(lambda connection: connection.execute(_CHANGED_SINCE, values).fetchall())
    shown = rows[:limit]
    more = len(rows) > limit
    cursor = encode_cursor({"since": position["since"], "after": shown[-1]["id"]}) if more else None
    return Page(tuple(map(dataset_of, shown)), cursor)


def _time_of(position: Mapping[str, Any], name: str) -> datetime:
    text, key = position.get(name), position.get("id", position.get("after"))
    if not isinstance(text, str) or not isinstance(key, str) or "\0" in key:
        raise InvalidRequest("invalid cursor")
    try:
        return from_us(parse_time_us(text))
    except ValueError:
        raise InvalidRequest("invalid cursor") from None


def create(runtime: Runtime, wire: WireNewDataset, actor: Actor) -> tuple[Dataset, bool]:
    """The dataset, and whether it is new: one that exists under the slug is answered as it is."""
    check_slug(wire.slug, runtime.settings)
    _check(runtime, wire.name, wire.description, wire.metadata, wire.write_format)
    target = runtime.targets.get(wire.default_storage_target_id) if wire.default_storage_target_id else None
    values = {
        "id": new_id("ds"),
        "slug": wire.slug,
        "name": wire.name or wire.slug,
        "description": wire.description,
        "format": wire.write_format or "duckdb",
        "target": (target or runtime.targets.default).id,
        "metadata": Jsonb(wire.metadata or {}),
    }
    with translated(), runtime.database.connection() as connection, connection.transaction():
        row = connection.execute(_INSERT, values).fetchone()
        if row is not None:
            made = dataset_of(row)
            write_audit(connection, "admin.dataset.created", about(made, actor), dataset_id=made.id)
            return made, True
    return find(runtime, wire.slug), False


def patch(runtime: Runtime, key: str, wire: WireDatasetPatch, if_match: str | None, actor: Actor) -> Dataset:
    """Change what the patch names. Raises PreconditionFailed when `if_match` is not the current `updatedAt`."""
    changes: dict[str, Any] = msgspec.to_builtins(wire)
    _check(
        runtime, changes.get("name"), changes.get("description"), changes.get("metadata"), changes.get("writeFormat")
    )
    if changes.get("status", "active") not in ("active", "inactive"):
        raise InvalidRequest.at("status", "must be active or inactive")

    def change(dataset: Dataset) -> dict[str, Any]:
        metadata = dict(dataset.metadata)
        for name, value in (changes.get("metadata") or {}).items():
            metadata.pop(name, None)
            if value is not None:
                metadata[name] = value
        return {
            "name": changes.get("name", dataset.name),
            "description": changes.get("description", dataset.description),
            "status": changes.get("status", dataset.status),
            "format": changes.get("writeFormat", dataset.write_format),
            "metadata": Jsonb(metadata),
        }

    return _change(runtime, key, change, "admin.dataset.updated", {"changes": changes}, actor, if_match)


def archive(runtime: Runtime, key: str, actor: Actor) -> Dataset:
    """Make the dataset inactive: it answers queries and takes no batches. Repeating it is no error."""
    return _change(runtime, key, lambda _: {"status": "inactive"}, "admin.dataset.archived", {}, actor, None)


def set_storage_target(runtime: Runtime, key: str, target: StorageTarget, actor: Actor) -> Dataset:
    """Where the dataset's next batches go."""
    payload = {"storageTargetId": target.id}
    return _change(runtime, key, lambda _: {"target": target.id}, "admin.storage-target.updated", payload, actor, None)


_PREVIEW_DELETION = """
SELECT count(*) AS partitions, coalesce(sum(row_count), 0)::bigint AS rows,
    coalesce(sum(file_size_bytes), 0)::bigint AS bytes
FROM dataset_partitions WHERE dataset_id = %s AND added_version IS NOT NULL AND removed_version IS NULL
"""


def preview_deletion(runtime: Runtime, key: str) -> dict[str, Any]:
    """What deleting the dataset would take away."""
    dataset = find(runtime, key)
    row = runtime.database.read(lambda connection: connection.execute(_PREVIEW_DELETION, [dataset.id]).fetchone())
    assert row is not None
    return {"dryRun": True, "datasetId": dataset.id, "datasetSlug": dataset.slug, "status": dataset.status, **row}


def delete(runtime: Runtime, key: str, confirm: str | None, actor: Actor) -> Dataset:
    """Delete an inactive dataset: its slug is free at once, its files stay until the grace period is over."""
    dataset = find(runtime, key)
    if confirm != dataset.slug:
        raise InvalidRequest.at("confirm", f"must be the dataset's slug: ?confirm={dataset.slug}")
    with translated(), runtime.database.connection() as connection, connection.transaction():
        row = connection.execute(_LOCK, [dataset.id]).fetchone()
        if row is None:
            raise NotFound(f"dataset {key} not found")
        if row["status"] != "inactive":
            raise Conflict("the dataset is active; archive it before it is deleted", code="dataset_active")
        connection.execute(_DELETE, [dataset.id])
        write_audit(connection, "admin.dataset.deleted", about(dataset, actor), dataset_id=dataset.id)
    return dataset


def restore(runtime: Runtime, key: str, actor: Actor) -> Dataset:
    """Take back a deletion, by id or by the slug that it had. Raises Conflict where the slug is taken by now."""
    with translated(), runtime.database.connection() as connection, connection.transaction():
        row = None if "\0" in key else connection.execute(_LOCK_DELETED, {"key": key}).fetchone()
        if row is None:
            if "\0" not in key and connection.execute(_SWEPT, {"key": key}).fetchone() is not None:
                raise Gone(f"the files of {key} are deleted already: its grace period is over")
            raise NotFound(f"deleted dataset {key} not found")
        if connection.execute(_BEING_COLLECTED, [row["id"]]).fetchone() is not None:
            raise Gone(f"the files of {row['deleted_slug']} are deleted already: its grace period is over")
        restored = connection.execute(_RESTORE, {"id": row["id"]}).fetchone()
        if restored is None:
            raise Conflict(f"the slug {row['deleted_slug']} belongs to another dataset by now", code="slug_taken")
        dataset = dataset_of(restored)
        write_audit(connection, "admin.dataset.restored", about(dataset, actor), dataset_id=dataset.id)
    return dataset


def _change(
    runtime: Runtime, key: str, change: Any, event: str, payload: Mapping[str, Any], actor: Actor, if_match: str | None
) -> Dataset:
    found = find(runtime, key)
    with translated(), runtime.database.connection() as connection, connection.transaction():
        row = connection.execute(_LOCK, [found.id]).fetchone()
        if row is None:
            raise NotFound(f"dataset {key} not found")
        dataset = dataset_of(row)
        _check_unchanged(dataset, if_match)
        values = {
            "id": dataset.id,
            "name": dataset.name,
            "description": dataset.description,
            "status": dataset.status,
            "format": dataset.write_format,
            "target": dataset.default_storage_target_id,
            "metadata": Jsonb(dict(dataset.metadata)),
            **change(dataset),
        }
        changed = connection.execute(_UPDATE, values).fetchone()
        assert changed is not None
        write_audit(connection, event, {**about(dataset, actor), **payload}, dataset_id=dataset.id)
    return dataset_of(changed)


def _check_unchanged(dataset: Dataset, if_match: str | None) -> None:
    current = format_time(dataset.updated_at)
    if if_match is not None and if_match.strip() not in ("*", current, f'"{current}"'):
        raise PreconditionFailed(
            "the dataset was changed since it was read; read it again and repeat the change",
            details={"updatedAt": current},
        )


def _check(
    runtime: Runtime,
    name: str | None,
    description: str | None,
    metadata: Mapping[str, Any] | None,
    write_format: str | None,
) -> None:
    problems: list[Problem] = []
    wrong = None if name is None else name_problem(name, runtime.settings.max_name_length)
    if wrong:
        problems.append(Problem("name", wrong))
    if description is not None and ("\0" in description or len(description) > MAX_DESCRIPTION_LENGTH):
        problems.append(Problem("description", f"must be text of at most {MAX_DESCRIPTION_LENGTH} characters"))
    formats = sorted({*runtime.plugins.partition_formats, AUTO})
    if write_format is not None and write_format not in formats:
        known = ", ".join(formats)
        problems.append(Problem("writeFormat", f"is unknown; there are {known}"))
    if metadata is not None:
        problems += _metadata_problems(metadata)
    if problems:
        raise InvalidRequest.of(problems)


def _metadata_problems(metadata: Mapping[str, Any]) -> list[Problem]:
    encoded = msgspec.json.encode(dict(metadata))
    if len(encoded) > MAX_METADATA_BYTES:
        return [Problem("metadata", f"has more than {MAX_METADATA_BYTES} bytes")]
    if b"\\u0000" in encoded:
        return [Problem("metadata", "holds a NUL character")]
    rule, iam = metadata.get(DEDUPE), metadata.get("iam")
    problems = [] if rule is None else dedupe_problems(rule)
    return [*problems, *_iam_problems(iam)]


def _iam_problems(iam: Any) -> list[Problem]:
    if iam is None:
        return []
    if not isinstance(iam, Mapping):
        return [Problem("metadata.iam", "must be an object")]
    return [
        Problem(f"metadata.iam.{name}", "must be a list of scopes")
        for name in ("readScopes", "writeScopes")
        if iam.get(name) is not None
        and not (isinstance(iam[name], list) and all(isinstance(one, str) and one for one in iam[name]))
    ]


def page_json(page: Page) -> dict[str, Any]:
    """The page as clients see it."""
    return {"datasets": [dataset_json(one) for one in page.datasets], "nextCursor": page.next_cursor}
