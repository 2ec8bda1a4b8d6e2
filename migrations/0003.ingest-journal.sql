-- The journal of accepted batches: what 202 promises stands here until the transaction that publishes it.
-- depends: 0002.snapshots

CREATE TABLE ingest_journal (
    id text PRIMARY KEY,                        -- the id of the first dispatch's job
    dataset_slug text NOT NULL,
    idempotency_key text,
    content_hash text NOT NULL,
    body bytea NOT NULL,                        -- the body as it came, zstd
    body_bytes bigint NOT NULL,                 -- of `body` as it is stored
    actor jsonb,
    received_at timestamptz NOT NULL DEFAULT now(),
    job_id text,                                -- the last dispatch
    dispatched_at timestamptz,
    attempts integer NOT NULL DEFAULT 0,        -- runs that began and did not end: crashes
    failed_at timestamptz,
    error text
);
ALTER TABLE ingest_journal ALTER COLUMN body SET STORAGE EXTERNAL;
CREATE INDEX idx_ingest_journal_due ON ingest_journal (coalesce(dispatched_at, received_at)) WHERE failed_at IS NULL;

-- Which manifest a job's batch was published with, for as long as its key is kept.
ALTER TABLE ingestion_batches ADD COLUMN job_id text;
CREATE INDEX idx_ingestion_batches_job ON ingestion_batches (job_id) WHERE job_id IS NOT NULL;
