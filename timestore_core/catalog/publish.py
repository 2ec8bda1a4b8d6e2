"""Publishing a batch: one transaction that takes a version, claims the idempotency key and names the file.

The common case is one round trip (`at_once`); everything else goes statement by statement.
The attempt is known by its partition id, so trying again after a lost answer finds what the first try did.
"""

from __future__ import annotations

import stamina
from psycopg.types.json import Jsonb

from timestore_core.catalog.at_once import publish_at_once
from timestore_core.catalog.attempt import Attempt, Claim, ClaimTakenError, Published, StaleFileError, StaleRuleError
from timestore_core.catalog.audit import write_audit
from timestore_core.catalog.database import Connection, Database, Row, lost_connection, translated
from timestore_core.catalog.records import dataset_of, manifest_of, partition_of
from timestore_core.catalog.schemas import EXACT_INTEGER, Merged, merge_schemas
from timestore_core.catalog.snapshot_rows import CREATED_BY, forget_journalled, insert_snapshot
from timestore_core.dedupe import dedupe_of
from timestore_core.errors import Conflict, Unavailable
from timestore_core.model import Dataset, Schema, new_id
from timestore_core.times import running_s

_TRIES = 4
_TRY_FOR_S = 8.0


_CREATE_DATASET = """
INSERT INTO datasets (id, slug, name, write_format, default_storage_target_id, metadata)
VALUES (%(id)s, %(slug)s, %(name)s, %(format)s, %(target)s, %(metadata)s) ON CONFLICT (slug) DO NOTHING RETURNING id
"""

_LOCK_DATASET = "SELECT * FROM datasets WHERE slug = %s FOR UPDATE"

_HEAD = """
SELECT m.*, s.schema FROM dataset_manifests m LEFT JOIN dataset_schema_versions s ON s.id = m.schema_version_id
WHERE m.dataset_id = %s AND m.status = 'published'
"""

_BATCH_BY_KEY = """
SELECT manifest_id, content_hash FROM ingestion_batches WHERE dataset_id = %s AND idempotency_key = %s
"""

# Only what is not there yet, in the batch's order.
_ADD_DEDUPE_TAGS = """
UPDATE datasets SET metadata = jsonb_set(metadata, '{dedupe,columns}', metadata #> '{dedupe,columns}' || (
    SELECT coalesce(jsonb_agg(tag), '[]') FROM jsonb_array_elements(%(tags)s) AS tag
    WHERE NOT (metadata #> '{dedupe,columns}') @> jsonb_build_array(tag)
)) WHERE id = %(dataset)s AND jsonb_typeof(metadata #> '{dedupe,columns}') = 'array'
"""

_MANIFEST_OF_PARTITION = "SELECT manifest_id FROM dataset_partitions WHERE id = %s"

_MANIFEST = """
SELECT m.*, s.schema FROM dataset_manifests m LEFT JOIN dataset_schema_versions s ON s.id = m.schema_version_id
WHERE m.id = %s
"""

_PARTITIONS_OF_MANIFEST = "SELECT * FROM dataset_partitions WHERE manifest_id = %s ORDER BY id"

# The largest magnitude of an integer column over the live files: what widening it to double could blur.
_WIDEST_INTEGER = """
SELECT max(greatest(abs((c ->> 'min')::numeric), abs((c ->> 'max')::numeric))) AS magnitude
FROM dataset_partitions p, jsonb_array_elements(p.columns) c
WHERE p.dataset_id = %s AND p.removed_version IS NULL AND c ->> 'name' = %s AND c ->> 'type' = 'integer'
"""


def publish(database: Database, attempt: Attempt) -> Published:
    """Make the attempt's file part of its dataset, or answer with the batch that has its key already.

    Raises Conflict when a key was used for other rows or the schema does not fit, and ClaimTakenError when one of
    several claims was published before, StaleFileError when the file has become too old, StaleRuleError when its rows
    were merged by another rule: nothing was published and nothing will be. Raises Unavailable when PostgreSQL stayed
    away: whether the last try was committed is then unknown, and the file must stay.
    """
    try:
        return _try(database, attempt, is_retry=False)
    except Unavailable:
        pass
    for trial in stamina.retry_context(
        on=Unavailable, attempts=_TRIES - 1, timeout=_TRY_FOR_S, wait_initial=0.05, wait_max=1.0
    ):
        with trial:
            return _try(database, attempt, is_retry=True)
    raise AssertionError("unreachable")


def _try(database: Database, attempt: Attempt, *, is_retry: bool) -> Published:
    try:
        with translated(), database.connection() as connection:
            if not is_retry and not attempt.dataset_is_new and not attempt.dedupe_tags:
                published = publish_at_once(connection, attempt)
                if published is not None:
                    return published
            with connection.transaction():
                return _publish(connection, attempt, is_retry=is_retry)
    except Unavailable as error:
        if lost_connection(error):
            database.drop_dead_connections()
        raise


def find_replay(database: Database, dataset: Dataset, claim: Claim) -> Published | None:
    """What was published under the claim's key, or None. Raises Conflict when it had other rows."""
    if claim.idempotency_key is None:
        return None

    def work(connection: Connection) -> Published | None:
        replay = _replay(connection, dataset, claim)
        if replay is not None:
            forget_journalled(connection, (claim,))
        return replay

    return database.read(work)


def _publish(connection: Connection, attempt: Attempt, *, is_retry: bool) -> Published:
    locked = _locked_dataset(connection, attempt)
    dataset = dataset_of(locked)
    if is_retry:
        found = connection.execute(_MANIFEST_OF_PARTITION, [attempt.partition_id]).fetchone()
        if found is not None:
            return _as_first_answered(connection, dataset, found["manifest_id"], replayed=False)
    for claim in attempt.claims:
        replay = _replay(connection, dataset, claim)
        if replay is not None and len(attempt.claims) > 1:
            raise ClaimTakenError
        if replay is not None:
            forget_journalled(connection, attempt.claims)
            return replay
    require_active(dataset)
    if running_s() > attempt.publish_before_s:
        raise StaleFileError
    head = connection.execute(_HEAD, [dataset.id]).fetchone()
    schema = Schema.from_json((head and head["schema"]) or {})
    _check_rule(dataset, attempt, schema)
    merged = merge_schemas(schema, attempt.schema)
    _check_widening(connection, dataset, merged)
    _check_doubles(schema, attempt)
    _add_dedupe_tags(connection, dataset, attempt)
    return insert_snapshot(connection, attempt, locked, head, merged.schema)


def _check_rule(dataset: Dataset, attempt: Attempt, schema: Schema) -> None:
    """Another batch may have added a tag, or an administrator changed the rule, since the rows were held against it."""
    rule = dedupe_of(dataset.metadata, attempt.schema, attempt.dedupe_tags)
    known = dedupe_of(dataset.metadata, schema)
    fields = {name for name in attempt.dedupe_tags if schema.type_of(name) and name not in (known.key if known else ())}
    if attempt.fitted_to and (fields or not attempt.fitted_to.is_as(rule)):
        raise Conflict("a column is a tag in one batch and a field in another", code="schema_conflict")
    if attempt.merged_by and not attempt.merged_by.is_as(rule):
        raise StaleRuleError


def _check_doubles(schema: Schema, attempt: Attempt) -> None:
    """Integers that come into a column of doubles must be what a double can be."""
    for field in attempt.schema.fields:
        known = attempt.statistics.get(field.name)
        if field.type != "integer" or schema.type_of(field.name) != "double" or known is None:
            continue
        if any(isinstance(end, int) and abs(end) > EXACT_INTEGER for end in (known.minimum, known.maximum)):
            raise Conflict(
                f"schema.fields: the column {field.name!r} is of doubles, which cannot keep integers beyond 2^53; "
                "send them as doubles, rounded by you",
                code="schema_conflict",
            )


def _add_dedupe_tags(connection: Connection, dataset: Dataset, attempt: Attempt) -> None:
    """A batch's new tags name its rows from the snapshot on that has them."""
    if attempt.dedupe_tags:
        connection.execute(_ADD_DEDUPE_TAGS, {"dataset": dataset.id, "tags": Jsonb(list(attempt.dedupe_tags))})


def require_active(dataset: Dataset) -> None:
    """Raise Conflict for a dataset that takes no batches now."""
    if dataset.status != "active":
        raise Conflict(
            f"the dataset {dataset.slug} is {dataset.status} and takes no batches; make it active first",
            code="dataset_inactive",
        )


def _locked_dataset(connection: Connection, attempt: Attempt) -> Row:
    row = connection.execute(_LOCK_DATASET, [attempt.slug]).fetchone()
    if row is None:
        values = {
            "id": new_id("ds"),
            "slug": attempt.slug,
            "name": attempt.dataset_name,
            "format": attempt.write_format,
            "target": attempt.target.id,
            "metadata": Jsonb({"createdBy": CREATED_BY, **attempt.dataset_metadata}),
        }
        made = connection.execute(_CREATE_DATASET, values).fetchone()
        if made is not None:
            payload = {"actor": attempt.actor_id, "datasetId": made["id"], "datasetSlug": attempt.slug}
            write_audit(connection, "dataset.created", payload, dataset_id=made["id"])
        row = connection.execute(_LOCK_DATASET, [attempt.slug]).fetchone()
        assert row is not None
    return row


def _replay(connection: Connection, dataset: Dataset, claim: Claim) -> Published | None:
    key = claim.idempotency_key
    if key is None:
        return None
    found = connection.execute(_BATCH_BY_KEY, [dataset.id, key]).fetchone()
    if found is None:
        return None
    if found["content_hash"] not in (None, claim.content_hash):
        raise Conflict(
            f"idempotencyKey: {key!r} was already used for a batch with other rows, published by manifest "
            f"{found['manifest_id']}; send these rows under a key of their own",
            code="idempotency_key_reused",
            details={"manifestId": found["manifest_id"]},
        )
    return _as_first_answered(connection, dataset, found["manifest_id"], replayed=True)


def _as_first_answered(connection: Connection, dataset: Dataset, manifest_id: str, *, replayed: bool) -> Published:
    row = connection.execute(_MANIFEST, [manifest_id]).fetchone()
    if row is None:
        # The key outlives its manifest: the batch counts once for ever, and what is current answers for it.
        row = connection.execute(_HEAD, [dataset.id]).fetchone()
    if row is None:
        raise Conflict(
            "idempotencyKey: this batch was published, and its manifest has since expired",
            code="manifest_expired",
            details={"manifestId": manifest_id},
        )
    schema = Schema.from_json(row["schema"] or {})
    # Later publishes mark the manifest superseded; the answer to a repeat is the first one's.
    manifest = manifest_of({**row, "status": "published", "updated_at": row["created_at"]})
    partitions = connection.execute(_PARTITIONS_OF_MANIFEST, [manifest_id]).fetchall()
    return Published(dataset, manifest, tuple(partition_of(one, schema) for one in partitions), replayed)


def _check_widening(connection: Connection, dataset: Dataset, merged: Merged) -> None:
    for column in merged.widened:
        found = connection.execute(_WIDEST_INTEGER, [dataset.id, column]).fetchone()
        if found is not None and found["magnitude"] is not None and found["magnitude"] > EXACT_INTEGER:
            raise Conflict(
                f"schema.fields: the column {column!r} holds integers beyond 2^53, which a double cannot keep; "
                "it has to stay integer",
                code="schema_conflict",
            )
