"""`timestore storage`: whether a place works, whom it belongs to, and what moves there."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated
from uuid import uuid4

import typer

from timestore_workers.console import explained, fail, out
from timestore_workers.lifecycle_command import DatasetName, DryRun, command_runtime, shown_progress

if TYPE_CHECKING:
    from timestore_core.model import StorageTarget
    from timestore_core.runtime import Runtime

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


@storage.command("check")
def check(target: Annotated[str, typer.Argument(help="The storage target's name or id.", metavar="TARGET")]) -> None:
    """Write, read, list and delete a file in a storage target, as the service would. Status 1 and why, where it fails.

    Shows no secret. What is written is removed again.
    """
    from timestore_workers.storage_probe import Probe, ProbeError

    with explained(), command_runtime() as runtime:
        found = _target(runtime, target)
        try:
            for step in Probe(runtime, found).steps():
                out.print(f"[green]well[/]  {step.what} ({step.elapsed_ms:,.0f} ms)", highlight=False)
                for note in step.notes:
                    out.print(f"      {note}", highlight=False, markup=False, soft_wrap=True)
        except ProbeError as error:
            fail(f"{found.name}: {error}")
        out.print(f"the storage target {found.name} does what the service needs", highlight=False, markup=False)


@storage.command("move")
def move(
    dataset: DatasetName,
    to: Annotated[str, typer.Option("--to", help="The name or id of the storage target to move to.")],
    dry_run: DryRun = False,
    and_new_batches: Annotated[
        bool, typer.Option("--and-new-batches", help="Make it the dataset's target for new batches too.")
    ] = False,
) -> None:
    """Move a dataset's partitions to another storage target, each in a snapshot of its own.

    Queries go on meanwhile. May be stopped (Ctrl-C ends it after the partition at hand) and run again: what is there
    already stays. Collection deletes the old files when their grace period is over.
    """
    from timestore_core.admin.datasets import find, set_storage_target
    from timestore_core.lifecycle.live import live_partitions
    from timestore_core.lifecycle.operation import Maintenance, Outcome
    from timestore_core.lifecycle.runs import Request, maintain
    from timestore_core.lifecycle.tiering import move_partitions
    from timestore_core.model import Actor

    with explained(), command_runtime() as runtime:
        target, found = _target(runtime, to), find(runtime, dataset)

        def moved(maintenance: Maintenance) -> Outcome:
            if and_new_batches and not dry_run:
                # First, so that what comes while the rest moves has not to be moved too.
                set_storage_target(runtime, found.id, target, Actor("timestore storage move", frozenset()))
                out.print(f"new batches of {found.slug} go to {target.name}", highlight=False, markup=False)
            return move_partitions(maintenance, target, lambda _: True, "move")

        with _stopped_by_signals() as stop, shown_progress(quiet=False) as progress:
            maintenance = Maintenance(runtime, found, "manual", dry_run=dry_run, stop=stop, progress=progress)
            report = maintain(maintenance, Request(("move",), str(uuid4())), {"move": moved})
        if report.status == "skipped":
            fail(f"another maintenance of {found.slug} is running; try again when it is done")
        left = sum(one.storage_target_id != target.id for one in live_partitions(runtime.database, found.id))
    (done,) = report.operations
    word, partitions, size_bytes = "would move" if dry_run else "moved", done.get("partitions", 0), done.get("bytes", 0)
    out.print(
        f"{word} {partitions:,} partitions ({size_bytes:,} bytes) of {found.slug} to {target.name}; "
        f"{left:,} are elsewhere",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    if done["status"] == "failed":
        fail(done.get("message") or "some partitions could not be moved")
    if left and not dry_run:
        fail("stopped before the end; run the command again to move the rest")


@storage.command("cache")
def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Remove what no process has open just now.")] = False,
) -> None:
    """Show what this host's cache of remote partitions holds, and how often it helped its processes."""
    from rich.table import Table

    with explained(), command_runtime() as runtime:
        settings = runtime.settings
        if not settings.query_cache_enabled:
            out.print("the cache is off (TIMESTORE_QUERY_CACHE_ENABLED)", highlight=False)
        if clear:
            out.print(f"removed {runtime.cache.clear():,} bytes", highlight=False)
        counts = runtime.cache.counts()
        if not counts:
            fail(f"the cache's directory {settings.query_cache_dir} cannot be used")
        table = Table("what", "how much", title=str(settings.query_cache_dir))
        words = {
            "files": "files now",
            "sizeBytes": "bytes now",
            "hits": "queries' files that were there",
            "misses": "queries' files that were not",
            "bytes": "bytes fetched",
            "evictions": "files removed to make room",
        }
        for name, word in words.items():
            table.add_row(word, f"{counts[name]:,}")
        table.add_row("bytes now at most", f"{settings.query_cache_max_bytes:,}")
        out.print(table)


def _target(runtime: Runtime, key: str) -> StorageTarget:
    """The target of this id or name; ends the command, with the names that there are, where there is none."""
    from timestore_core.catalog.datasets import list_storage_targets

    targets = list_storage_targets(runtime.database)
    found = [one for one in targets if key == one.id] or [one for one in targets if key == one.name]
    if not found:
        fail(f"there is no storage target {key!r}; there are: {', '.join(one.name for one in targets) or 'none'}")
    return found[0]


@contextmanager
def _stopped_by_signals() -> Iterator[threading.Event]:
    """Set by the first SIGINT or SIGTERM; the second one does what it always did."""
    stop = threading.Event()

    def handle(number: int, _: object) -> None:
        stop.set()
        signal.signal(number, before[signal.Signals(number)])

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
