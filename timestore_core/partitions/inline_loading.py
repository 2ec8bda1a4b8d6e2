"""From a partition's id to its rows: fetched from the catalog, or from where they were copied, checked and decoded."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING
from uuid import uuid4

import pyarrow as pa
import structlog

from timestore_core.catalog.blobs import Blob, read_blobs
from timestore_core.engine.inline_tables import Loaded
from timestore_core.errors import PartitionUnreadable, Unavailable
from timestore_core.model import Schema
from timestore_core.partitions.inline import decoded

if TYPE_CHECKING:
    from timestore_core.catalog.database import Database
    from timestore_core.runtime import Targets

log = structlog.get_logger(__name__)


class InlineLoader:
    """Loads partitions of the inline format. Thread-safe."""

    def __init__(self, database: Database, targets: Targets) -> None:
        self._database = database
        self._targets = targets

    def load(self, schema: Schema, partition_ids: Sequence[str]) -> Iterator[Loaded]:
        """The partitions' rows. Raises PartitionUnreadable naming the first that is missing or altered.

        Raises Unavailable where the catalog or a storage target is away.
        """
        left = set(partition_ids)
        for blob in read_blobs(self._database, partition_ids):
            content = blob.content if blob.content is not None else self._fetched(blob)
            if content is None:
                continue
            left.discard(blob.partition_id)
            if blob.checksum not in (None, hashlib.sha1(content, usedforsecurity=False).hexdigest()):
                raise _unreadable(blob.partition_id, "its bytes are damaged")
            try:
                rows = decoded(schema, content)
            except (pa.ArrowException, OSError, ValueError) as error:
                log.error("partition.unreadable", partition=blob.partition_id, error=str(error)[:300])
                raise _unreadable(blob.partition_id, "its bytes are damaged") from error
            yield Loaded(blob.partition_id, blob.version, rows)
        for one in sorted(left):
            raise _unreadable(one, "its bytes are missing")

    def _fetched(self, blob: Blob) -> bytes | None:
        """The bytes of a partition that a storage target keeps as a file."""
        target = self._targets.get(blob.storage_target_id)
        driver = self._targets.driver(target)
        path = driver.staging_dir() / f"inline-{uuid4()}"
        try:
            driver.fetch(blob.file_path, path)
            return path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            log.error("storage.unreadable", target=target.name, error=str(error)[:300])
            raise Unavailable(f"the storage target {target.name} cannot be read; try again shortly") from error
        finally:
            path.unlink(missing_ok=True)


def _unreadable(partition_id: str, what: str) -> PartitionUnreadable:
    return PartitionUnreadable(
        f"partition {partition_id} cannot be read: {what}; other time ranges can be queried",
        details={"partitionId": partition_id, "partitionIds": [partition_id]},
    )
