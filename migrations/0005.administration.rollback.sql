DROP INDEX idx_lifecycle_audit_all, idx_datasets_updated;
DELETE FROM lifecycle_audit_log WHERE dataset_id IS NULL;
ALTER TABLE lifecycle_audit_log ALTER COLUMN dataset_id SET NOT NULL;
ALTER TABLE datasets DROP COLUMN deleted_slug, DROP COLUMN deleted_at;
