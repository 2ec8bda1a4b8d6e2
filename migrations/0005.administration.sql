-- What operators do to datasets, and its traces.
-- depends: 0004.takeover

-- A deleted dataset gives its slug free and keeps everything else until its files are collected.
ALTER TABLE datasets ADD COLUMN deleted_at timestamptz, ADD COLUMN deleted_slug text;
CREATE INDEX idx_datasets_updated ON datasets (updated_at DESC, id DESC) WHERE deleted_at IS NULL;

-- Changes to storage targets belong to no dataset.
ALTER TABLE lifecycle_audit_log ALTER COLUMN dataset_id DROP NOT NULL;
CREATE INDEX idx_lifecycle_audit_all ON lifecycle_audit_log (created_at DESC, id DESC);
