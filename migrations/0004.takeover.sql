-- A taken-over catalog becomes one of snapshots: what every earlier ingest added is in the current version, what a
-- compaction replaced or retention removed is not, and each manifest's totals are those of its whole snapshot.
-- depends: 0003.ingest-journal

-- Compaction left the ids of its sources with the partition that replaced them, and in the audit log.
CREATE TEMPORARY TABLE taken_away ON COMMIT DROP AS
SELECT r.dataset_id, source.id, r.added_version AS version
FROM dataset_partitions r, jsonb_array_elements_text(
    CASE jsonb_typeof(r.metadata #> '{lifecycle,compaction,sourcePartitionIds}')
        WHEN 'array' THEN r.metadata #> '{lifecycle,compaction,sourcePartitionIds}' ELSE '[]'::jsonb END
) AS source (id)
WHERE r.added_version IS NOT NULL
UNION
SELECT a.dataset_id, source.id, r.added_version
FROM lifecycle_audit_log a
JOIN dataset_partitions r ON r.id = a.payload ->> 'replacementPartitionId' AND r.added_version IS NOT NULL
CROSS JOIN jsonb_array_elements_text(
    CASE WHEN jsonb_typeof(a.payload -> 'sourcePartitionIds') = 'array' THEN a.payload -> 'sourcePartitionIds'
         WHEN jsonb_typeof(a.payload -> 'partitionIds') = 'array' THEN a.payload -> 'partitionIds'
         ELSE '[]'::jsonb END
) AS source (id)
WHERE a.event_type = 'compaction.group.compacted'
UNION
SELECT a.dataset_id, a.payload ->> 'partitionId', d.current_version
FROM lifecycle_audit_log a JOIN datasets d ON d.id = a.dataset_id
WHERE a.event_type = 'retention.partition.deleted' AND a.payload ? 'partitionId';

-- What left in the very version that it came with was never to be seen.
UPDATE dataset_partitions p
SET removed_version = CASE WHEN t.version > p.added_version THEN t.version END,
    added_version = CASE WHEN t.version > p.added_version THEN p.added_version END
FROM (SELECT dataset_id, id, min(version) AS version FROM taken_away GROUP BY dataset_id, id) t
WHERE t.dataset_id = p.dataset_id AND t.id = p.id AND p.columns IS NULL AND p.removed_version IS NULL;

UPDATE dataset_manifests m
SET partition_count = s.partitions, total_rows = s.rows, total_bytes = s.bytes,
    statistics = m.statistics || jsonb_build_object('rowCount', s.rows, 'fileSizeBytes', s.bytes) ||
        CASE WHEN s.partitions = 0 THEN '{}'::jsonb ELSE jsonb_build_object(
            'startTime', to_char(s.first AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
            'endTime', to_char(s.last AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')) END
FROM (
    SELECT v.id, count(p.id) AS partitions, coalesce(sum(p.row_count), 0) AS rows,
        coalesce(sum(p.file_size_bytes), 0) AS bytes, min(p.start_time) AS first, max(p.end_time) AS last
    FROM dataset_manifests v
    LEFT JOIN dataset_partitions p ON p.dataset_id = v.dataset_id AND p.added_version <= v.version
        AND (p.removed_version IS NULL OR p.removed_version > v.version)
    WHERE v.status <> 'draft'
    GROUP BY v.id
) s
WHERE s.id = m.id AND (m.partition_count, m.total_rows, m.total_bytes) IS DISTINCT FROM (s.partitions, s.rows, s.bytes);
