"""`timestore storage`: whom a place belongs to."""

from __future__ import annotations

from typing import Annotated

import typer

from timestore_workers.console import explained, out
from timestore_workers.lifecycle_command import command_runtime

storage = typer.Typer(name="storage", help="The places where partition files live.", no_args_is_help=True)


@storage.command("confirm")
def confirm(
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Make this catalog the only owner of its storage targets.

    Needed after the catalog was restored from a copy, or when another catalog wrote to the same place: until then
    nothing is deleted there. Look at what it does not know first: collection deletes it once it is old enough.
    """
    from timestore_core.catalog.datasets import list_storage_targets
    from timestore_core.catalog.identity import confirm as confirm_catalog
    from timestore_core.catalog.identity import read_identity
    from timestore_core.catalog.ownership import disown, owners
    from timestore_core.lifecycle.clock import expiry_time
    from timestore_core.lifecycle.collection import find_leftovers
    from timestore_core.partitions.stored import storage_errors

    with explained(), command_runtime() as runtime:
        identity, now = read_identity(runtime.database), expiry_time(runtime.database)
        out.print(f"this catalog: {identity.id}, epoch {identity.epoch}", highlight=False)
        if identity.restored_at is not None:
            out.print(f"it was found to be a copy at {identity.restored_at:%Y-%m-%d %H:%M:%S} UTC", highlight=False)
        others: dict[str, set[str]] = {}
        for target in list_storage_targets(runtime.database):
            driver = runtime.targets.driver(target)
            with storage_errors(target):
                others[target.id] = set(owners(driver)) - {identity.id}
            unknown = find_leftovers(runtime, target, driver.list(), now, identity).files
            size_bytes = sum(one.size_bytes for one in unknown)
            out.print(
                f"{target.name}: {len(others[target.id])} other owners, {len(unknown)} files that this catalog does "
                f"not know ({size_bytes:,} bytes)",
                highlight=False,
            )
            for one in unknown[:20]:
                out.print(f"  {one.key}", highlight=False, markup=False, soft_wrap=True)
        if identity.restored_at is None and not any(others.values()):
            out.print("there is nothing to confirm: this catalog is the only owner")
            return
        if not yes:
            typer.confirm("Is this catalog the right one, and may collection delete what it does not know?", abort=True)
        confirm_catalog(runtime.database)
        for target in list_storage_targets(runtime.database):
            runtime.targets.begin_epoch(target)
            with storage_errors(target):
                for catalog in others[target.id]:
                    disown(runtime.targets.driver(target), catalog)
        out.print("confirmed: this catalog is the only owner now")
