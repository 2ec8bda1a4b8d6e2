-- The tables that existing deployments have. Where they exist already they are taken over as they are.
-- depends:

CREATE TABLE IF NOT EXISTS storage_targets (
    id text PRIMARY KEY,
    name text NOT NULL UNIQUE,
    kind text NOT NULL,
    description text,
    config jsonb NOT NULL DEFAULT '{}'::jsonb,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS idx_storage_targets_kind ON storage_targets (kind);

CREATE TABLE IF NOT EXISTS datasets (
    id text PRIMARY KEY,
    slug text NOT NULL UNIQUE,
    name text NOT NULL,
    description text,
    status text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'inactive')),
    write_format text NOT NULL DEFAULT 'duckdb',
    default_storage_target_id text REFERENCES storage_targets (id),
    metadata jsonb NOT NULL DEFAULT '{}'::jsonb,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS idx_datasets_status ON datasets (status);
CREATE INDEX IF NOT EXISTS idx_datasets_storage_target
    ON datasets (default_storage_target_id) WHERE default_storage_target_id IS NOT NULL;

CREATE TABLE IF NOT EXISTS dataset_schema_versions (
    id text PRIMARY KEY,
    dataset_id text NOT NULL REFERENCES datasets (id) ON DELETE CASCADE,
    version integer NOT NULL CHECK (version > 0),
    description text,
    schema jsonb NOT NULL,
    checksum text,
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (dataset_id, version)
);
CREATE INDEX IF NOT EXISTS idx_dataset_schema_versions_dataset ON dataset_schema_versions (dataset_id);

CREATE TABLE IF NOT EXISTS dataset_manifests (
    id text PRIMARY KEY,
    dataset_id text NOT NULL REFERENCES datasets (id) ON DELETE CASCADE,
    version integer NOT NULL CHECK (version > 0),
    status text NOT NULL DEFAULT 'draft' CHECK (status IN ('draft', 'published', 'superseded')),
    schema_version_id text REFERENCES dataset_schema_versions (id) ON DELETE SET NULL,
    parent_manifest_id text REFERENCES dataset_manifests (id) ON DELETE SET NULL,
    summary jsonb NOT NULL DEFAULT '{}'::jsonb,
    statistics jsonb NOT NULL DEFAULT '{}'::jsonb,
    metadata jsonb NOT NULL DEFAULT '{}'::jsonb,
    partition_count integer NOT NULL DEFAULT 0,
    total_rows bigint NOT NULL DEFAULT 0,
    total_bytes bigint NOT NULL DEFAULT 0,
    created_by text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    published_at timestamptz,
    UNIQUE (dataset_id, version)
);
CREATE INDEX IF NOT EXISTS idx_dataset_manifests_dataset ON dataset_manifests (dataset_id, version DESC);
CREATE INDEX IF NOT EXISTS idx_dataset_manifests_status ON dataset_manifests (dataset_id, status);
CREATE UNIQUE INDEX IF NOT EXISTS uq_dataset_manifests_published
    ON dataset_manifests (dataset_id) WHERE status = 'published';

CREATE TABLE IF NOT EXISTS dataset_partitions (
    id text PRIMARY KEY,
    dataset_id text NOT NULL REFERENCES datasets (id) ON DELETE CASCADE,
    manifest_id text NOT NULL REFERENCES dataset_manifests (id) ON DELETE CASCADE,
    partition_key jsonb NOT NULL,
    storage_target_id text NOT NULL REFERENCES storage_targets (id),
    file_format text NOT NULL,
    file_path text NOT NULL,
    file_size_bytes bigint,
    row_count bigint,
    start_time timestamptz NOT NULL,
    end_time timestamptz NOT NULL,
    checksum text,
    metadata jsonb NOT NULL DEFAULT '{}'::jsonb,
    created_at timestamptz NOT NULL DEFAULT now(),
    CHECK (end_time >= start_time)
);
CREATE INDEX IF NOT EXISTS idx_dataset_partitions_manifest ON dataset_partitions (manifest_id);
CREATE INDEX IF NOT EXISTS idx_dataset_partitions_time ON dataset_partitions (dataset_id, start_time, end_time);
CREATE UNIQUE INDEX IF NOT EXISTS uq_dataset_partitions_path
    ON dataset_partitions (dataset_id, storage_target_id, file_path);

CREATE TABLE IF NOT EXISTS dataset_retention_policies (
    dataset_id text PRIMARY KEY REFERENCES datasets (id) ON DELETE CASCADE,
    policy jsonb NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS ingestion_batches (
    id text PRIMARY KEY,
    dataset_id text NOT NULL REFERENCES datasets (id) ON DELETE CASCADE,
    idempotency_key text NOT NULL,
    manifest_id text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (dataset_id, idempotency_key)
);

CREATE TABLE IF NOT EXISTS lifecycle_job_runs (
    id text PRIMARY KEY,
    job_kind text NOT NULL,
    dataset_id text REFERENCES datasets (id) ON DELETE SET NULL,
    operations text[] NOT NULL DEFAULT '{}'::text[],
    trigger_source text NOT NULL,
    status text NOT NULL CHECK (status IN ('queued', 'running', 'completed', 'failed', 'skipped')),
    scheduled_for timestamptz,
    started_at timestamptz NOT NULL DEFAULT now(),
    completed_at timestamptz,
    duration_ms integer,
    attempts integer NOT NULL DEFAULT 0,
    error text,
    metadata jsonb NOT NULL DEFAULT '{}'::jsonb,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS idx_lifecycle_job_runs_dataset ON lifecycle_job_runs (dataset_id, created_at DESC);
CREATE INDEX IF NOT EXISTS idx_lifecycle_job_runs_status ON lifecycle_job_runs (status, created_at DESC);

CREATE TABLE IF NOT EXISTS lifecycle_audit_log (
    id text PRIMARY KEY,
    dataset_id text NOT NULL REFERENCES datasets (id) ON DELETE CASCADE,
    manifest_id text REFERENCES dataset_manifests (id) ON DELETE SET NULL,
    event_type text NOT NULL,
    payload jsonb NOT NULL DEFAULT '{}'::jsonb,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS idx_lifecycle_audit_dataset ON lifecycle_audit_log (dataset_id, created_at DESC);
