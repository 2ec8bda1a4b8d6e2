"""How long a dataset's data stays: its own policy, or the default of the settings."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta
from psycopg.types.json import Jsonb

from timestore_core.admin import datasets
from timestore_core.catalog.audit import about, write_audit
from timestore_core.catalog.database import translated
from timestore_core.errors import InvalidRequest
from timestore_core.lifecycle.policy import READ_POLICY, default_policy
from timestore_core.model import Actor
from timestore_core.runtime import Runtime
from timestore_core.times import format_time
from timestore_core.wire import decode

MAX_POLICY_BYTES = 64 * 1024
Amount = Annotated[float, Meta(ge=0)]


class WireRules(msgspec.Struct, frozen=True, rename="camel"):
    max_age_hours: Annotated[float, Meta(ge=1e-6)] | None = None
    max_total_bytes: Annotated[float, Meta(gt=0)] | None = None


class WirePolicy(msgspec.Struct, frozen=True, rename="camel"):
    """The body of `PUT /admin/datasets/:id/retention`. Unknown keys are kept."""

    mode: Literal["time", "size", "hybrid"] = "hybrid"
    rules: WireRules = WireRules()
    delete_grace_minutes: Amount | None = None
    cold_storage_after_hours: Amount | None = None
    metadata: dict[str, Any] | None = None


_WRITE = """
INSERT INTO dataset_retention_policies (dataset_id, policy) VALUES (%(dataset)s, %(policy)s)
ON CONFLICT (dataset_id) DO UPDATE SET policy = excluded.policy, updated_at = now() RETURNING policy, updated_at
"""


def read(runtime: Runtime, key: str) -> dict[str, Any]:
    """The dataset's policy, what is in force, and the default."""
    dataset = datasets.find(runtime, key)
    row = runtime.database.read(lambda connection: connection.execute(READ_POLICY, [dataset.id]).fetchone())
    default = default_policy(runtime.settings)
    policy = None if row is None else row["policy"]
    return {
        "datasetId": dataset.id,
        "datasetSlug": dataset.slug,
        "policy": policy,
        "updatedAt": None if row is None else format_time(row["updated_at"]),
        "effectivePolicy": policy or default,
        "defaultPolicy": default,
    }


def write(runtime: Runtime, key: str, body: bytes, actor: Actor) -> dict[str, Any]:
    """Store the policy as it was sent. Raises InvalidRequest naming what is wrong in it."""
    decode(body, WirePolicy)
    policy: dict[str, Any] = decode(body, dict)
    if len(body) > MAX_POLICY_BYTES or b"\\u0000" in body:
        raise InvalidRequest.at("body", f"must have at most {MAX_POLICY_BYTES} bytes and no NUL character")
    dataset = datasets.find(runtime, key)
    with translated(), runtime.database.connection() as connection, connection.transaction():
        values = {"dataset": dataset.id, "policy": Jsonb(policy)}
        row = connection.execute(_WRITE, values).fetchone()
        assert row is not None
        payload = {**about(dataset, actor), "policy": policy}
        write_audit(connection, "admin.retention.updated", payload, dataset_id=dataset.id)
    return {
        "datasetId": dataset.id,
        "datasetSlug": dataset.slug,
        "policy": row["policy"],
        "updatedAt": format_time(row["updated_at"]),
        "effectivePolicy": row["policy"],
    }
