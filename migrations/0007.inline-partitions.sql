-- Small batches stand in the catalog, and a batch is published in one round trip.
-- depends: 0006.lifecycle

-- The bytes of partitions whose path is `inline:<id>`; they go with the partition's row. Compressed already.
CREATE TABLE dataset_partition_blobs (
    partition_id text PRIMARY KEY REFERENCES dataset_partitions (id) ON DELETE CASCADE,
    content bytea NOT NULL
);
ALTER TABLE dataset_partition_blobs ALTER COLUMN content SET STORAGE EXTERNAL;
CREATE INDEX idx_dataset_partitions_inline ON dataset_partitions (dataset_id)
    WHERE file_format = 'inline' AND added_version IS NOT NULL AND removed_version IS NULL;

-- The common case of publishing: one batch into an active dataset that has a snapshot and all of the batch's columns,
-- under a key that is not known. Gives no row, and has changed nothing, in every other case: the service then takes
-- its general way, statement by statement.
-- `given`: slug, key, hash, job, journal, leftSeconds, fields, and the values of the rows to be written.
CREATE FUNCTION publish_batch(given jsonb, content bytea)
RETURNS TABLE (found_dataset jsonb, found_manifest jsonb, partition_created_at timestamptz)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    d datasets%ROWTYPE;
    head dataset_manifests%ROWTYPE;
    made dataset_manifests%ROWTYPE;
    began timestamptz;
    ended timestamptz;
    made_at timestamptz;
BEGIN
    SELECT * INTO d FROM datasets WHERE slug = given ->> 'slug' FOR UPDATE;
    -- Each statement from here on sees what the holder of the lock before this one has committed.
    IF d.id IS NULL OR d.status <> 'active'
        OR extract(epoch FROM clock_timestamp() - statement_timestamp()) > (given ->> 'leftSeconds')::float8 THEN
        RETURN;
    END IF;
    SELECT * INTO head FROM dataset_manifests WHERE dataset_id = d.id AND status = 'published';
    IF head.id IS NULL THEN
        RETURN;
    END IF;
    PERFORM 1 FROM dataset_schema_versions s
    WHERE s.id = head.schema_version_id AND s.schema -> 'fields' @> (given -> 'fields');
    IF NOT FOUND THEN
        RETURN;
    END IF;
    IF given ->> 'key' IS NOT NULL THEN
        INSERT INTO ingestion_batches (id, dataset_id, idempotency_key, manifest_id, content_hash, job_id)
        VALUES (given ->> 'batchId', d.id, given ->> 'key', given ->> 'manifestId', given ->> 'hash', given ->> 'job')
        ON CONFLICT (dataset_id, idempotency_key) DO NOTHING;
        IF NOT FOUND THEN
            RETURN;
        END IF;
    END IF;
    began := (given ->> 'start')::timestamptz;
    ended := (given ->> 'end')::timestamptz;
    UPDATE dataset_manifests SET status = 'superseded', updated_at = now() WHERE id = head.id;
    INSERT INTO dataset_manifests (id, dataset_id, version, status, schema_version_id, parent_manifest_id, summary,
        statistics, metadata, partition_count, total_rows, total_bytes, created_by, published_at)
    VALUES (given ->> 'manifestId', d.id, d.current_version + 1, 'published', head.schema_version_id, head.id,
        given -> 'summary',
        jsonb_build_object(
            'startTime', CASE WHEN (head.statistics ->> 'startTime')::timestamptz < began
                THEN head.statistics -> 'startTime' ELSE given -> 'start' END,
            'endTime', CASE WHEN (head.statistics ->> 'endTime')::timestamptz > ended
                THEN head.statistics -> 'endTime' ELSE given -> 'end' END,
            'rowCount', head.total_rows + (given ->> 'rows')::bigint,
            'fileSizeBytes', head.total_bytes + (given ->> 'bytes')::bigint),
        -- What maintenance remembers of a dataset goes from snapshot to snapshot.
        (given -> 'manifestMetadata') || CASE WHEN jsonb_typeof(head.metadata -> 'lifecycle') = 'object'
            THEN jsonb_build_object('lifecycle', head.metadata -> 'lifecycle') ELSE '{}'::jsonb END,
        head.partition_count + 1, head.total_rows + (given ->> 'rows')::bigint,
        head.total_bytes + (given ->> 'bytes')::bigint, given ->> 'createdBy', now())
    RETURNING * INTO made;
    INSERT INTO dataset_partitions (id, dataset_id, manifest_id, partition_key, storage_target_id, file_format,
        file_path, file_size_bytes, row_count, start_time, end_time, checksum, metadata, added_version, columns)
    VALUES (given ->> 'partitionId', d.id, made.id, given -> 'partitionKey', given ->> 'target', given ->> 'format',
        given ->> 'path', (given ->> 'bytes')::bigint, (given ->> 'rows')::bigint, began, ended,
        given ->> 'checksum', given -> 'metadata', made.version, given -> 'columns')
    RETURNING created_at INTO made_at;
    IF content IS NOT NULL THEN
        INSERT INTO dataset_partition_blobs VALUES (given ->> 'partitionId', publish_batch.content);
    END IF;
    IF given ->> 'journal' IS NOT NULL THEN
        DELETE FROM ingest_journal WHERE id = given ->> 'journal';
    END IF;
    INSERT INTO lifecycle_audit_log (id, dataset_id, manifest_id, event_type, payload)
    VALUES (given ->> 'auditId', d.id, made.id, 'ingest.published',
        (given -> 'audit') || jsonb_build_object('version', made.version));
    UPDATE datasets SET current_version = made.version, updated_at = now() WHERE id = d.id RETURNING * INTO d;
    RETURN QUERY SELECT to_jsonb(d), to_jsonb(made), made_at;
END
$$;
