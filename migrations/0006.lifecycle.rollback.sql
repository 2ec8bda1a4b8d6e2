UPDATE lifecycle_audit_log a SET manifest_id = NULL
WHERE NOT EXISTS (SELECT 1 FROM dataset_manifests m WHERE m.id = a.manifest_id);
UPDATE lifecycle_audit_log a SET dataset_id = NULL
WHERE NOT EXISTS (SELECT 1 FROM datasets d WHERE d.id = a.dataset_id);
UPDATE dataset_manifests m SET parent_manifest_id = NULL
WHERE NOT EXISTS (SELECT 1 FROM dataset_manifests p WHERE p.id = m.parent_manifest_id);
ALTER TABLE lifecycle_audit_log
    ADD CONSTRAINT lifecycle_audit_log_manifest_id_fkey
        FOREIGN KEY (manifest_id) REFERENCES dataset_manifests (id) ON DELETE SET NULL,
    ADD CONSTRAINT lifecycle_audit_log_dataset_id_fkey
        FOREIGN KEY (dataset_id) REFERENCES datasets (id) ON DELETE CASCADE;
ALTER TABLE dataset_manifests ADD CONSTRAINT dataset_manifests_parent_manifest_id_fkey
    FOREIGN KEY (parent_manifest_id) REFERENCES dataset_manifests (id) ON DELETE SET NULL;
DROP TABLE catalog_identity, dataset_pins;
ALTER TABLE datasets DROP COLUMN readable_from;
DROP INDEX idx_dataset_partitions_path;
-- Of several rows that name one file, the newest is the one in use.
DELETE FROM dataset_partitions p USING dataset_partitions newer
WHERE newer.dataset_id = p.dataset_id AND newer.storage_target_id = p.storage_target_id
    AND newer.file_path = p.file_path AND newer.added_version > p.added_version;
CREATE UNIQUE INDEX uq_dataset_partitions_path
    ON dataset_partitions (dataset_id, storage_target_id, file_path);
ALTER TABLE dataset_partitions DROP COLUMN collecting, DROP COLUMN removed_at;
