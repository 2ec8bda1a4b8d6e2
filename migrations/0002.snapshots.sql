-- A manifest becomes a snapshot: a partition is in version v when added_version <= v and it was not removed by v.
-- depends: 0001.contract-tables

ALTER TABLE datasets ADD COLUMN current_version integer NOT NULL DEFAULT 0;
UPDATE datasets d SET current_version = m.version
    FROM (SELECT dataset_id, max(version) AS version FROM dataset_manifests GROUP BY dataset_id) m
    WHERE m.dataset_id = d.id;

-- columns: [{"name", "type", "min", "max", "nulls"}] of the file itself; NULL in files that others wrote.
ALTER TABLE dataset_partitions
    ADD COLUMN added_version integer,
    ADD COLUMN removed_version integer CHECK (removed_version > added_version),
    ADD COLUMN columns jsonb;
UPDATE dataset_partitions p SET added_version = m.version
    FROM dataset_manifests m WHERE m.id = p.manifest_id AND m.status <> 'draft';
CREATE INDEX idx_dataset_partitions_added ON dataset_partitions (dataset_id, added_version);
CREATE INDEX idx_dataset_partitions_removed
    ON dataset_partitions (dataset_id, removed_version) WHERE removed_version IS NOT NULL;

-- content_hash: of schema and rows, to tell a repeated batch from another one under its key.
ALTER TABLE ingestion_batches ADD COLUMN content_hash text;
-- A key outlives the manifest that it was published with.
ALTER TABLE ingestion_batches DROP CONSTRAINT IF EXISTS ingestion_batches_manifest_id_fkey;

-- Kinds and formats are what plugins give, not what the catalog lists.
ALTER TABLE storage_targets DROP CONSTRAINT IF EXISTS storage_targets_kind_check;
ALTER TABLE datasets DROP CONSTRAINT IF EXISTS datasets_write_format_check;
ALTER TABLE dataset_partitions DROP CONSTRAINT IF EXISTS dataset_partitions_file_format_check;
