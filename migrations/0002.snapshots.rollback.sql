DROP INDEX idx_dataset_partitions_removed, idx_dataset_partitions_added;
ALTER TABLE ingestion_batches DROP COLUMN content_hash;
ALTER TABLE dataset_partitions DROP COLUMN columns, DROP COLUMN removed_version, DROP COLUMN added_version;
ALTER TABLE datasets DROP COLUMN current_version;
