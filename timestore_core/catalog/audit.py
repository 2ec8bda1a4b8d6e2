"""The audit log: one row a change, written in the transaction of the change itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from timestore_core.catalog.database import Connection, Row
from timestore_core.model import Actor, Dataset, new_id
from timestore_core.times import format_time

_INSERT = """
INSERT INTO lifecycle_audit_log (id, dataset_id, manifest_id, event_type, payload)
VALUES (%(id)s, %(dataset)s, %(manifest)s, %(event)s, %(payload)s)
RETURNING *
"""


def write_audit(
    connection: Connection,
    event: str,
    payload: Mapping[str, Any],
    *,
    dataset_id: str | None = None,
    manifest_id: str | None = None,
) -> psycopg.Cursor[Row]:
    """Write the event down on the connection of the change; the cursor has its row. The payload holds no secret."""
    values = {
        "id": new_id("la"),
        "dataset": dataset_id,
        "manifest": manifest_id,
        "event": event,
        "payload": Jsonb(dict(payload)),
    }
    return connection.execute(_INSERT, values)


def about(dataset: Dataset, actor: Actor) -> dict[str, Any]:
    """What every event about a dataset says."""
    return {"actor": actor_json(actor), "datasetId": dataset.id, "datasetSlug": dataset.slug}


def actor_json(actor: Actor) -> dict[str, Any] | None:
    """Who did it, as the log keeps it; None where nobody was named."""
    return None if actor.id is None else {"id": actor.id, "scopes": sorted(actor.scopes)}


def audit_json(row: Row) -> dict[str, Any]:
    """A line of the log as clients see it."""
    return {
        "id": row["id"],
        "datasetId": row["dataset_id"],
        "manifestId": row["manifest_id"],
        "eventType": row["event_type"],
        "payload": row["payload"],
        "createdAt": format_time(row["created_at"]),
    }
