"""Which catalogs own a storage root: each leaves a marker there, and what two own nobody tidies up.

A marker is an empty-handed file `.timestore/<catalog id>/<epoch>`: written once, never changed, replaced by the
next epoch's.
"""

from __future__ import annotations

from collections.abc import Mapping
from uuid import uuid4

from timestore_core.catalog.database import Database
from timestore_core.catalog.identity import Identity, found_older
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


def claim(driver: StorageDriver, identity: Identity, database: Database) -> Identity:
    """Leave this catalog's marker where it is missing or old; the identity, new where storage has seen a later one.

    Raises OSError where storage fails.
    """
    known = owners(driver).get(identity.id, 0)
    if known > identity.epoch:
        identity = found_older(database, known)
        known = 0
    if known < identity.epoch:
        _mark(driver, identity)
    return identity


def disown(driver: StorageDriver, catalog: str) -> None:
    """Remove another catalog's markers."""
    for file in list(driver.list(f"{FOLDER}/{catalog}")):
        driver.delete(file.key)


def _mark(driver: StorageDriver, identity: Identity) -> None:
    key = f"{FOLDER}/{identity.id}/{identity.epoch}"
    staged = driver.staging_dir() / f"owner-{uuid4()}"
    staged.write_bytes(_TEXT)
    try:
        driver.put(staged, key)
    except FileExistsError:
        pass
    finally:
        staged.unlink(missing_ok=True)
    for file in list(driver.list(f"{FOLDER}/{identity.id}")):
        epoch = file.key.rsplit("/", 1)[-1]
        if epoch.isdigit() and int(epoch) < identity.epoch:
            driver.delete(file.key)
