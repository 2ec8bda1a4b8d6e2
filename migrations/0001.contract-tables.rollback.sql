DROP TABLE lifecycle_audit_log, lifecycle_job_runs, ingestion_batches, dataset_retention_policies,
    dataset_partitions, dataset_manifests, dataset_schema_versions, datasets, storage_targets;
