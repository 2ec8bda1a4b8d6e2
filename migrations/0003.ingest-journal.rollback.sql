DROP INDEX idx_ingestion_batches_job;
ALTER TABLE ingestion_batches DROP COLUMN job_id;
DROP TABLE ingest_journal;
