"""Storage targets: listed without their secrets, made, and changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType
from psycopg.types.json import Jsonb

from timestore_core.catalog.audit import actor_json, write_audit
from timestore_core.catalog.database import translated
from timestore_core.catalog.records import storage_target_json, storage_target_of
from timestore_core.errors import Conflict, InvalidRequest, NotFound, PreconditionFailed, Problem
from timestore_core.model import Actor, StorageTarget, new_id
from timestore_core.names import name_problem
from timestore_core.runtime import Runtime
from timestore_core.times import format_time

MAX_CONFIG_BYTES = 64 * 1024


class WireNewTarget(msgspec.Struct, frozen=True):
    """The body of `POST /admin/storage-targets`."""

    name: str
    kind: str
    config: dict[str, Any] = {}
    description: str | None = None


class WireTargetPatch(msgspec.Struct, frozen=True):
    """The body of `PATCH /admin/storage-targets/:id`: what is absent stays; a config key that is null goes."""

    description: str | UnsetType | None = UNSET
    config: dict[str, Any] | UnsetType = UNSET


_LIST = "SELECT * FROM storage_targets WHERE %(kind)s::text IS NULL OR kind = %(kind)s ORDER BY created_at, id"

_INSERT = """
INSERT INTO storage_targets (id, name, kind, description, config)
VALUES (%(id)s, %(name)s, %(kind)s, %(description)s, %(config)s) ON CONFLICT (name) DO NOTHING RETURNING *
"""

_LOCK = "SELECT * FROM storage_targets WHERE id = %s FOR UPDATE"

_UPDATE = """
UPDATE storage_targets SET description = %(description)s, config = %(config)s, updated_at = clock_timestamp()
WHERE id = %(id)s RETURNING *
"""


def list_targets(runtime: Runtime, kind: str | None) -> list[StorageTarget]:
    """Every target, or those of one kind."""
    values = {"kind": kind}
    return runtime.database.read(
        lambda connection: [storage_target_of(row) for row in connection.execute(_LIST, values).fetchall()]
    )


def create(runtime: Runtime, wire: WireNewTarget, actor: Actor) -> StorageTarget:
    """A new target. Raises InvalidRequest when its driver cannot use the config, Conflict when the name is taken."""
    problems = [
        Problem(path, wrong)
        for path, text in (("name", wire.name), ("kind", wire.kind))
        if (wrong := name_problem(text, runtime.settings.max_name_length))
    ]
    if problems:
        raise InvalidRequest.of(problems)
    _check_config(runtime, wire.kind, wire.config)
    values = {
        "id": new_id("st"),
        "name": wire.name,
        "kind": wire.kind,
        "description": _text(wire.description),
        "config": Jsonb(wire.config),
    }
    with translated(), runtime.database.connection() as connection, connection.transaction():
        row = connection.execute(_INSERT, values).fetchone()
        if row is None:
            raise Conflict(f"a storage target named {wire.name!r} exists already", code="name_taken")
        target = storage_target_of(row)
        write_audit(connection, "admin.storage-target.created", _payload(runtime, target, actor))
    return target


def patch(runtime: Runtime, target_id: str, wire: WireTargetPatch, if_match: str | None, actor: Actor) -> StorageTarget:
    """Change the target; other processes take the new config over within seconds."""
    with translated(), runtime.database.connection() as connection, connection.transaction():
        row = None if "\0" in target_id else connection.execute(_LOCK, [target_id]).fetchone()
        if row is None:
            raise NotFound(f"storage target {target_id} not found")
        before = storage_target_of(row)
        current = format_time(before.updated_at)
        if if_match is not None and if_match.strip() not in ("*", current, f'"{current}"'):
            raise PreconditionFailed("the storage target was changed since it was read; read it again")
        config = dict(before.config)
        if not isinstance(wire.config, UnsetType):
            config |= wire.config
        config = {key: value for key, value in config.items() if value is not None}
        _check_config(runtime, before.kind, config)
        description = before.description if isinstance(wire.description, UnsetType) else _text(wire.description)
        values = {"id": target_id, "description": description, "config": Jsonb(config)}
        changed = connection.execute(_UPDATE, values).fetchone()
        assert changed is not None
        target = storage_target_of(changed)
        write_audit(connection, "admin.storage-target.changed", _payload(runtime, target, actor))
    runtime.targets.forget(target_id)
    return target


def target_json(runtime: Runtime, target: StorageTarget) -> dict[str, Any]:
    """The target as clients see it: of a secret only that it is set."""
    return storage_target_json(target, runtime.plugins.secret_keys(target.kind))


def _payload(runtime: Runtime, target: StorageTarget, actor: Actor) -> dict[str, Any]:
    return {"actor": actor_json(actor), "storageTarget": target_json(runtime, target)}


def _check_config(runtime: Runtime, kind: str, config: Mapping[str, Any]) -> None:
    known = runtime.plugins.storage_kinds.get(kind)
    if known is None:
        raise InvalidRequest.at("kind", f"is unknown; there are {', '.join(sorted(runtime.plugins.storage_kinds))}")
    encoded = msgspec.json.encode(dict(config))
    if len(encoded) > MAX_CONFIG_BYTES or b"\\u0000" in encoded:
        raise InvalidRequest.at("config", f"must have at most {MAX_CONFIG_BYTES} bytes and no NUL character")
    try:
        known.open(known.complete(config, runtime.settings))
    except (ValueError, TypeError) as error:
        raise InvalidRequest.at("config", str(error)) from None
    except OSError:
        raise InvalidRequest.at("config", "the storage that it names cannot be reached") from None


def _text(description: str | None) -> str | None:
    if description is not None and ("\0" in description or len(description) > 10_000):
        raise InvalidRequest.at("description", "must be text of at most 10000 characters")
    return description
