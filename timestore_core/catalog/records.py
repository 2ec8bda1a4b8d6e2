"""Rows of the catalog as records, and records as the JSON that clients see."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Any

from timestore_core.catalog.database import Row
from timestore_core.model import (
    ColumnStatistics,
    Dataset,
    Field,
    FieldType,
    Manifest,
    Partition,
    Schema,
    StorageTarget,
)
from timestore_core.times import format_time

HIDDEN = "********"


def dataset_of(row: Row) -> Dataset:
    return Dataset(
        id=row["id"],
        slug=row["slug"],
        name=row["name"],
        description=row["description"],
        status=row["status"],
        write_format=row["write_format"],
        default_storage_target_id=row["default_storage_target_id"],
        metadata=row["metadata"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )


def storage_target_of(row: Row) -> StorageTarget:
    return StorageTarget(
        id=row["id"],
        name=row["name"],
        kind=row["kind"],
        description=row["description"],
        config=row["config"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )


def manifest_of(row: Row) -> Manifest:
    return Manifest(
        id=row["id"],
        dataset_id=row["dataset_id"],
        version=row["version"],
        status=row["status"],
        schema_version_id=row["schema_version_id"],
        parent_manifest_id=row["parent_manifest_id"],
        summary=row["summary"],
        statistics=row["statistics"],
        metadata=row["metadata"],
        partition_count=row["partition_count"],
        total_rows=row["total_rows"],
        total_bytes=row["total_bytes"],
        created_by=row["created_by"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        published_at=row["published_at"],
    )


def partition_of(row: Row, fallback_schema: Schema) -> Partition:
    """The partition; files that the service did not write itself get the schema of their manifest."""
    columns = row["columns"]
    return Partition(
        id=row["id"],
        dataset_id=row["dataset_id"],
        manifest_id=row["manifest_id"],
        partition_key=row["partition_key"],
        storage_target_id=row["storage_target_id"],
        file_format=row["file_format"],
        file_path=row["file_path"],
        file_size_bytes=row["file_size_bytes"] or 0,
        row_count=row["row_count"] or 0,
        start_time=row["start_time"],
        end_time=row["end_time"],
        checksum=row["checksum"],
        metadata=row["metadata"],
        created_at=row["created_at"],
        schema=fallback_schema if columns is None else _schema_of(columns),
        statistics={one["name"]: ColumnStatistics.from_json(one) for one in columns or () if "nulls" in one},
        version=row["metadata"].get("dataVersion") or row.get("added_version") or 0,
    )


def _schema_of(columns: list[dict[str, Any]]) -> Schema:
    return _the_schema(tuple((one["name"], one["type"]) for one in columns))


@lru_cache(maxsize=10_000)
def _the_schema(columns: tuple[tuple[str, FieldType], ...]) -> Schema:
    """One record for the same columns: most partitions of a dataset share it."""
    return Schema(tuple(Field(name, type_) for name, type_ in columns))


def dataset_json(dataset: Dataset) -> dict[str, Any]:
    return {
        "id": dataset.id,
        "slug": dataset.slug,
        "name": dataset.name,
        "description": dataset.description,
        "status": dataset.status,
        "writeFormat": dataset.write_format,
        "defaultStorageTargetId": dataset.default_storage_target_id,
        "metadata": dataset.metadata,
        "createdAt": format_time(dataset.created_at),
        "updatedAt": format_time(dataset.updated_at),
    }


def storage_target_json(target: StorageTarget, secret_keys: Collection[str]) -> dict[str, Any]:
    """The target as clients see it: a secret of its config shows only that it is set."""
    config: Mapping[str, Any] = {
        key: HIDDEN if key in secret_keys and value is not None else value for key, value in target.config.items()
    }
    return {
        "id": target.id,
        "name": target.name,
        "kind": target.kind,
        "description": target.description,
        "config": config,
        "createdAt": format_time(target.created_at),
        "updatedAt": format_time(target.updated_at),
    }


def manifest_json(manifest: Manifest, partitions: Collection[Partition]) -> dict[str, Any]:
    return {
        "id": manifest.id,
        "datasetId": manifest.dataset_id,
        "version": manifest.version,
        "status": manifest.status,
        "schemaVersionId": manifest.schema_version_id,
        "parentManifestId": manifest.parent_manifest_id,
        "summary": manifest.summary,
        "statistics": manifest.statistics,
        "metadata": manifest.metadata,
        "partitionCount": manifest.partition_count,
        "totalRows": manifest.total_rows,
        "totalBytes": manifest.total_bytes,
        "createdBy": manifest.created_by,
        "createdAt": format_time(manifest.created_at),
        "updatedAt": format_time(manifest.updated_at),
        "publishedAt": manifest.published_at and format_time(manifest.published_at),
        "partitions": [partition_json(partition) for partition in partitions],
    }


def partition_json(partition: Partition) -> dict[str, Any]:
    return {
        "id": partition.id,
        "datasetId": partition.dataset_id,
        "manifestId": partition.manifest_id,
        "partitionKey": partition.partition_key,
        "storageTargetId": partition.storage_target_id,
        "fileFormat": partition.file_format,
        "filePath": partition.file_path,
        "fileSizeBytes": partition.file_size_bytes,
        "rowCount": partition.row_count,
        "startTime": format_time(partition.start_time),
        "endTime": format_time(partition.end_time),
        "checksum": partition.checksum,
        "metadata": partition.metadata,
        "createdAt": format_time(partition.created_at),
    }
