"""Which catalogs own a storage root: each leaves a marker there, and what two own nobody tidies up.

A marker is a file `.timestore/<catalog id>/<epoch>`: written once, by the process that has begun the epoch, never
changed, replaced by the next epoch's.
"""

from __future__ import annotations

from collections.abc import Mapping
from uuid import uuid4

from timestore_core.catalog.database import Database
from timestore_core.catalog.identity import Identity, found_copied, found_older
from timestore_core.storage import StorageDriver

FOLDER = ".timestore"
_TEXT = b"This directory belongs to a Timestore catalog; its files are named there. Do not remove this marker.\n"


def owners(driver: StorageDriver) -> Mapping[str, int]:
    """Each catalog that has a marker here, with its latest epoch. Raises OSError where storage fails."""
    found: dict[str, int] = {}
    for file in driver.list(FOLDER):
        _, catalog, epoch = file.key.split("/")[:3]
        if epoch.isdigit():
            found[catalog] = max(found.get(catalog, 0), int(epoch))
    return found


def claim(driver: StorageDriver, begun: Identity, database: Database) -> Identity:
    """Leave this catalog's marker of the epoch that has just begun; the identity, new where storage knew the epoch.

    Raises OSError where storage fails.
    """
    known = owners(driver).get(begun.id, 0)
    if known > begun.epoch:
        identity = found_older(database, known)
        if identity.id == begun.id:
            # Another process of this catalog was quicker with a later one.
            return identity
        begun = identity
    if not _mark(driver, begun):
        begun = found_copied(database, begun)
        _mark(driver, begun)
    return begun


def disown(driver: StorageDriver, catalog: str) -> None:
    """Remove another catalog's markers."""
    for file in list(driver.list(f"{FOLDER}/{catalog}")):
        driver.delete(file.key)


def _mark(driver: StorageDriver, begun: Identity) -> bool:
    """Whether the marker is ours: False where somebody else has left one of the same epoch."""
    key = f"{FOLDER}/{begun.id}/{begun.epoch}"
    text = b"%b%b\n" % (_TEXT, str(uuid4()).encode())
    staged = driver.staging_dir() / f"owner-{uuid4()}"
    try:
        staged.write_bytes(text)
        driver.put(staged, key)
    except FileExistsError:
        # The answer to a first try may have been lost: then it is our own.
        if _content(driver, key) != text:
            return False
    except OSError:
        # Who has begun a later epoch removes the earlier marker, also while it is being put there.
        if owners(driver).get(begun.id, 0) <= begun.epoch:
            raise
    finally:
        staged.unlink(missing_ok=True)
    for file in list(driver.list(f"{FOLDER}/{begun.id}")):
        epoch = file.key.rsplit("/", 1)[-1]
        if epoch.isdigit() and int(epoch) < begun.epoch:
            driver.delete(file.key)
    return True


def _content(driver: StorageDriver, key: str) -> bytes | None:
    fetched = driver.staging_dir() / f"owner-{uuid4()}"
    try:
        driver.fetch(key, fetched)
        return fetched.read_bytes()
    except FileNotFoundError:
        return None
    finally:
        fetched.unlink(missing_ok=True)
