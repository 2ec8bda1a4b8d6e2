-- What stands in the catalog alone would be lost with its table: gather it into files first.
DO $$
BEGIN
    IF EXISTS (SELECT 1 FROM dataset_partition_blobs) THEN
        RAISE EXCEPTION 'there are partitions in the catalog; run `timestore lifecycle run` and collection first';
    END IF;
END
$$;
DROP FUNCTION publish_batch(jsonb, bytea);
DROP INDEX idx_dataset_partitions_inline;
DROP TABLE dataset_partition_blobs;
