"""PostgreSQL: what datasets, schemas, snapshots and idempotency keys there are."""
