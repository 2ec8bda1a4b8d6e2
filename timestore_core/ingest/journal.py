"""The journal of accepted batches: durable before the answer 202, gone in the transaction that publishes."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from psycopg.types.json import Jsonb

from timestore_core.catalog.database import Connection, Database, Row, translated
from timestore_core.errors import Conflict
from timestore_core.model import Actor

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_LEVEL = 1


@dataclass(frozen=True, slots=True)
class Entry:
    """An accepted batch. `attempts` are the runs that began and did not end, this one included."""

    id: str
    dataset_slug: str
    idempotency_key: str | None
    body: bytes
    actor: Actor
    attempts: int


@dataclass(frozen=True, slots=True)
class Totals:
    """What stands in the journal: batches that wait and their stored bytes, and batches that failed for good."""

    pending: int
    pending_bytes: int
    failed: int


@dataclass(frozen=True, slots=True)
class JournalState:
    """Where a batch stands: `failed_reason` is None while it is still to be done."""

    dataset_slug: str
    failed_reason: str | None


# A batch that waits stays as it is, its crashes counted; one that failed for good leaves its key to what is sent now,
# the same batch or a corrected one.
_RECORD = """
INSERT INTO ingest_journal AS waiting (id, dataset_slug, idempotency_key, content_hash, body, body_bytes, actor)
VALUES (%(id)s, %(slug)s, %(key)s, %(hash)s, %(body)s, %(bytes)s, %(actor)s)
ON CONFLICT (id) DO UPDATE SET failed_at = NULL, error = NULL,
    attempts = CASE WHEN waiting.failed_at IS NULL THEN waiting.attempts ELSE 0 END,
    body = CASE WHEN waiting.failed_at IS NULL THEN waiting.body ELSE excluded.body END,
    body_bytes = CASE WHEN waiting.failed_at IS NULL THEN waiting.body_bytes ELSE excluded.body_bytes END,
    actor = CASE WHEN waiting.failed_at IS NULL THEN waiting.actor ELSE excluded.actor END,
    content_hash = excluded.content_hash
WHERE waiting.content_hash = excluded.content_hash OR waiting.failed_at IS NOT NULL
RETURNING id
"""

_DISPATCHED = "UPDATE ingest_journal SET job_id = %(job)s, dispatched_at = now() WHERE id = %(id)s"

_TAKE = "UPDATE ingest_journal SET attempts = attempts + 1 WHERE id = %s AND failed_at IS NULL RETURNING *"

_GIVE_BACK = "UPDATE ingest_journal SET attempts = greatest(attempts - 1, 0) WHERE id = %s"

_FAIL = "UPDATE ingest_journal SET failed_at = now(), error = %(error)s WHERE id = %(id)s"

_DUE = """
SELECT id, job_id, dataset_slug FROM ingest_journal
WHERE failed_at IS NULL AND coalesce(dispatched_at, received_at) < now() - make_interval(secs => %(age)s)
ORDER BY coalesce(dispatched_at, received_at) LIMIT %(limit)s
"""

_BODY = "SELECT * FROM ingest_journal WHERE id = %s"

_TOTALS = """
SELECT count(*) FILTER (WHERE failed_at IS NULL) AS pending,
    coalesce(sum(body_bytes) FILTER (WHERE failed_at IS NULL), 0)::bigint AS pending_bytes,
    count(*) FILTER (WHERE failed_at IS NOT NULL) AS failed
FROM ingest_journal
"""

_STATE = "SELECT dataset_slug, failed_at, error FROM ingest_journal WHERE id = %s"

_PUBLISHED_BY_JOB = """
SELECT d.slug, b.manifest_id, m.version, m.metadata ->> 'storageTargetId' AS storage_target_id
FROM ingestion_batches b
JOIN datasets d ON d.id = b.dataset_id LEFT JOIN dataset_manifests m ON m.id = b.manifest_id
WHERE b.job_id = %s ORDER BY (d.deleted_at IS NULL) DESC, b.created_at DESC LIMIT 1
"""


def record(
    database: Database, entry_id: str, slug: str, key: str | None, content_hash: str, body: bytes, actor: Actor
) -> None:
    """Write the batch down; when this returns it is durable. The same batch again is no error.

    Where PostgreSQL's answer is lost it is asked again, so that a client is not told to send once more what was taken.
    Raises Conflict when the key waits with other rows.
    """
    packed = zstd.compress(body, _LEVEL)
    values = {
        "id": entry_id,
        "slug": slug,
        "key": key,
        "hash": content_hash,
        "body": packed,
        "bytes": len(packed),
        "actor": Jsonb({"id": actor.id, "scopes": sorted(actor.scopes)}),
    }
    if database.read(lambda connection: connection.execute(_RECORD, values).fetchone()) is None:
        raise Conflict(
            f"idempotencyKey: {key!r} was already accepted with other rows, which wait to be published; "
            "send these rows under a key of their own",
            code="idempotency_key_reused",
            details={"jobId": entry_id},
        )


def dispatched(database: Database, entry_id: str, job_id: str) -> None:
    """Note that a job for the batch is in the queue."""
    _execute(database, _DISPATCHED, {"id": entry_id, "job": job_id})


def take(database: Database, entry_id: str) -> Entry | None:
    """The batch, for a run that begins now; None when it was published, failed for good, or never journalled."""
    with translated(), database.connection() as connection:
        row = connection.execute(_TAKE, [entry_id]).fetchone()
    return None if row is None else _entry_of(row)


def read(database: Database, entry_id: str) -> Entry | None:
    """The batch as it stands, without beginning a run."""

    def work(connection: Connection) -> Entry | None:
        row = connection.execute(_BODY, [entry_id]).fetchone()
        return None if row is None else _entry_of(row)

    return database.read(work)


def give_back(database: Database, entry_id: str) -> None:
    """The run ended without a result, and without being the batch's fault."""
    _execute(database, _GIVE_BACK, [entry_id])


def fail(database: Database, entry_id: str, reason: str) -> None:
    """The batch can never be published; it stays, visible, with the reason."""
    _execute(database, _FAIL, {"id": entry_id, "error": reason.replace("\0", "")})


def due(database: Database, age_s: float, limit: int) -> list[tuple[str, str | None, str]]:
    """Batches that were dispatched, or accepted, longer ago than this: (id, last job's id, dataset's slug)."""
    return database.read(
        lambda connection: [
            (row["id"], row["job_id"], row["dataset_slug"])
            for row in connection.execute(_DUE, {"age": age_s, "limit": limit})
        ]
    )


def totals(database: Database) -> Totals:
    """How much stands in the journal."""

    def work(connection: Connection) -> Totals:
        row = connection.execute(_TOTALS).fetchone()
        assert row is not None
        return Totals(row["pending"], row["pending_bytes"], row["failed"])

    return database.read(work)


def state(database: Database, entry_id: str) -> JournalState | None:
    """Where the batch stands, or None when it is not in the journal."""

    def work(connection: Connection) -> JournalState | None:
        row = connection.execute(_STATE, [entry_id]).fetchone()
        if row is None:
            return None
        failed = row["failed_at"] is not None
        return JournalState(row["dataset_slug"], (row["error"] or "failed") if failed else None)

    return database.read(work)


def published_by(database: Database, job_id: str) -> Mapping[str, Any] | None:
    """The slug, manifest's id and version that this job's batch was published with, or None."""
    return database.read(lambda connection: connection.execute(_PUBLISHED_BY_JOB, [job_id]).fetchone())


def _execute(database: Database, statement: str, values: Any) -> None:
    with translated(), database.connection() as connection:
        connection.execute(statement, values)


def _entry_of(row: Row) -> Entry:
    actor = row["actor"] or {}
    return Entry(
        id=row["id"],
        dataset_slug=row["dataset_slug"],
        idempotency_key=row["idempotency_key"],
        body=zstd.decompress(row["body"]),
        actor=Actor(actor.get("id"), frozenset(actor.get("scopes") or ())),
        attempts=row["attempts"],
    )
