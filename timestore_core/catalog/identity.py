"""Which catalog this is, and whether it is the one that it was: a restored dump is another one.

The row names the transaction and the database that wrote it. Copying a catalog, by a dump as by a template, writes
the row in another transaction or another database, so the copy tells itself from the original and takes a new id.
A copy of PostgreSQL's own files cannot be told so; there the epoch, which storage remembers too, gives it away.

The new id begins as the original's does: what has the same beginning has files in common.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from uuid import uuid4

import structlog

from timestore_core.catalog.database import Connection, Database, Row

log = structlog.get_logger(__name__)

_STAMP = "pg_current_xact_id(), (SELECT oid FROM pg_database WHERE datname = current_database())"

_MAKE = f"""
INSERT INTO catalog_identity (id, written_by, written_in) SELECT %s, {_STAMP} ON CONFLICT DO NOTHING
"""

_READ = """
SELECT *, xmin::text::bigint = (written_by::text::bigint & ((1::bigint << 32) - 1))
    AND written_in = (SELECT oid FROM pg_database WHERE datname = current_database()) AS is_original
FROM catalog_identity
"""

_WRITE = f"""
UPDATE catalog_identity SET id = %(id)s, epoch = %(epoch)s, restored_at = %(restored)s,
    (written_by, written_in) = (SELECT {_STAMP})
"""  # noqa: S608


@dataclass(frozen=True, slots=True)
class Identity:
    """The catalog's id, and its epoch: it grows with every start and every collection.

    `restored_at` is set while the catalog may be older than the storage that it names: nothing is collected then
    until an operator has confirmed that it is right.
    """

    id: str
    epoch: int
    restored_at: datetime | None


def read_identity(database: Database) -> Identity:
    """The catalog's identity; made where there is none, and made anew where the catalog turns out to be a copy."""
    return _transaction(database, lambda connection: _identity_of(_checked(connection)))


def next_epoch(database: Database) -> Identity:
    """The identity with its epoch one higher."""

    def work(connection: Connection) -> Identity:
        row = _checked(connection)
        return _write(connection, row["id"], row["epoch"] + 1, row["restored_at"])

    return _transaction(database, work)


def found_older(database: Database, epoch: int) -> Identity:
    """Storage has seen a later epoch than this catalog: it is an old copy, and becomes a catalog of its own."""

    def work(connection: Connection) -> Identity:
        row = _checked(connection)
        if row["epoch"] >= epoch:
            return _identity_of(row)
        log.error("catalog.older_than_storage", catalog=row["id"], epoch=row["epoch"], storage_epoch=epoch)
        return _renamed(connection, row, epoch)

    return _transaction(database, work)


def found_copied(database: Database, epoch: Identity) -> Identity:
    """Storage knows this epoch, which has just begun here: this catalog is a copy of one that has gone on."""

    def work(connection: Connection) -> Identity:
        row = _checked(connection)
        if row["id"] != epoch.id:
            return _identity_of(row)
        log.error("catalog.copied", catalog=epoch.id, epoch=epoch.epoch)
        return _renamed(connection, row, epoch.epoch)

    return _transaction(database, work)


def are_related(one: str, other: str) -> bool:
    """Whether one of the catalogs of these ids is a copy of the other, or both of a third."""
    return one.partition(".")[0] == other.partition(".")[0]


def confirm(database: Database) -> Identity:
    """An operator says that this catalog is right about its storage, however it came to be."""

    def work(connection: Connection) -> Identity:
        row = _checked(connection)
        return _write(connection, row["id"], row["epoch"] + 1, None)

    return _transaction(database, work)


def _transaction(database: Database, work: Callable[[Connection], Identity]) -> Identity:
    """The work as one transaction, which may be done twice: that it was done once may not become known."""

    def whole(connection: Connection) -> Identity:
        with connection.transaction():
            return work(connection)

    return database.read(whole)


def _checked(connection: Connection) -> Row:
    connection.execute(_MAKE, [f"cat-{uuid4()}"])
    connection.execute("SELECT 1 FROM catalog_identity FOR UPDATE")
    row = connection.execute(_READ).fetchone()
    assert row is not None
    if not row["is_original"]:
        log.error("catalog.restored", catalog=row["id"])
        _renamed(connection, row, row["epoch"])
        row = connection.execute(_READ).fetchone()
        assert row is not None
    return row


def _renamed(connection: Connection, row: Row, epoch: int) -> Identity:
    found = connection.execute("SELECT now() AS now").fetchone()
    assert found is not None
    id_ = f"{row['id'].partition('.')[0]}.{uuid4()}"
    return _write(connection, id_, max(row["epoch"], epoch) + 1, row["restored_at"] or found["now"])


def _write(connection: Connection, id_: str, epoch: int, restored_at: datetime | None) -> Identity:
    connection.execute(_WRITE, {"id": id_, "epoch": epoch, "restored": restored_at})
    return Identity(id_, epoch, restored_at)


def _identity_of(row: Row) -> Identity:
    return Identity(row["id"], row["epoch"], row["restored_at"])
