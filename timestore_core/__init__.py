"""The domain of Timestore: datasets, snapshots, partitions, ingest and query. Knows no HTTP and no queue."""

__version__ = "0.1.0"
