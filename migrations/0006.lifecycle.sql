-- What rewriting, expiring and collecting data needs to know.
-- depends: 0005.administration

-- removed_at: when a version took the partition out; collecting: its file may be gone already.
ALTER TABLE dataset_partitions
    ADD COLUMN removed_at timestamptz,
    ADD COLUMN collecting boolean NOT NULL DEFAULT false;
UPDATE dataset_partitions SET removed_at = now() WHERE removed_version IS NOT NULL;
-- A restored version names files again that an earlier one had.
DROP INDEX IF EXISTS uq_dataset_partitions_path;
CREATE INDEX idx_dataset_partitions_path ON dataset_partitions (file_path);

-- Versions below it are not whole any more, except those that are pinned.
ALTER TABLE datasets ADD COLUMN readable_from integer NOT NULL DEFAULT 0;

CREATE TABLE dataset_pins (
    dataset_id text NOT NULL REFERENCES datasets (id) ON DELETE CASCADE,
    name text NOT NULL,
    version integer NOT NULL,
    created_by text,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (dataset_id, name)
);

-- Which catalog this is. A copy of it (a restored dump, a cloned database) is told by the transaction that wrote
-- the row and by the database that it was written in: neither survives copying.
CREATE TABLE catalog_identity (
    only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    id text NOT NULL,
    epoch bigint NOT NULL DEFAULT 1,
    written_by xid8 NOT NULL,
    written_in oid NOT NULL,
    restored_at timestamptz
);

-- The history outlives what it tells of: no row of it goes, or is changed, with a manifest or a dataset.
ALTER TABLE dataset_manifests DROP CONSTRAINT IF EXISTS dataset_manifests_parent_manifest_id_fkey;
ALTER TABLE lifecycle_audit_log
    DROP CONSTRAINT IF EXISTS lifecycle_audit_log_manifest_id_fkey,
    DROP CONSTRAINT IF EXISTS lifecycle_audit_log_dataset_id_fkey;
