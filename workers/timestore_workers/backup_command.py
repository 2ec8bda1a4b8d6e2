"""`timestore backup` and `timestore restore`: one version of each dataset to another place, and back from there."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from timestore_workers.console import err, explained, fail, out
from timestore_workers.lifecycle_command import AsJson, command_runtime, shown_progress

if TYPE_CHECKING:
    from timestore_core.backup.listing import Listed
    from timestore_core.backup.restoring import Restored
    from timestore_core.backup.taking import Taken

Target = Annotated[
    str,
    typer.Argument(help="The id or name of a storage target, or the absolute path of a directory.", metavar="TARGET"),
]
Datasets = Annotated[list[str] | None, typer.Option("--dataset", help="Only this slug. May be given again.")]
_SHOWN_FAILURES = 20


def backup(
    target: Target,
    name: Annotated[
        str | None,
        typer.Option(help="What the backup is called, by default its UTC time. That of an incomplete one goes on."),
    ] = None,
    dataset: Datasets = None,
    verify: Annotated[bool, typer.Option("--verify", help="Read back every byte that was written.")] = False,
    list_: Annotated[bool, typer.Option("--list", help="Only list the backups that are there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Copy one version of each dataset, or of those that are named, to another place.

    Ingest and maintenance go on meanwhile; a pin keeps each version until the backup is complete. May be stopped at
    any time: the same command with the backup's --name goes on. Status 1 when it is not complete, and names why.
    """
    from timestore_core.backup.layout import name_of
    from timestore_core.backup.listing import list_backups
    from timestore_core.backup.place import open_place
    from timestore_core.backup.taking import BackupRequest, take_backup

    if list_ and (name is not None or dataset or verify):
        fail("--list: shows what is there, and takes no other option but --json")
    with explained(), command_runtime() as runtime:
        place = open_place(runtime, target, to_write=not list_)
        if list_:
            _show_list(list_backups(place), as_json=as_json)
            return
        called = name_of(datetime.now(UTC)) if name is None else name
        if not as_json:
            err.print(f"backup {called}", highlight=False, markup=False, soft_wrap=True)
        with shown_progress(quiet=as_json) as progress:
            taken = take_backup(runtime, place, BackupRequest(called, dataset or None, verify, progress))
    if as_json:
        typer.echo(json.dumps(taken.to_json(), indent=2, ensure_ascii=False))
    else:
        _show_taken(taken)
    raise typer.Exit(0 if taken.is_complete else 1)


def restore(
    target: Target,
    name: Annotated[
        str, typer.Argument(help="The backup's name; `timestore backup --list TARGET` shows them.", metavar="NAME")
    ],
    dataset: Datasets = None,
    new_slug: Annotated[
        str | None, typer.Option("--as", help="The new slug of the one dataset that --dataset names.", metavar="SLUG")
    ] = None,
    prefix: Annotated[str, typer.Option(help="Put this before each slug.")] = "",
    to: Annotated[
        str | None, typer.Option("--to", help="The storage target to restore to, by id or name; the default one else.")
    ] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Read every restored byte once more at the end.")] = False,
    as_json: AsJson = False,
) -> None:
    """Bring the datasets of a backup back, into an empty catalog or under new slugs beside what is there.

    Nothing that is there is touched: a slug that is taken is an error. Everything is checked as it is copied, and
    published when all of it is there. May be stopped at any time: the same command goes on. Status 1 when something
    is missing or altered.
    """
    from timestore_core.backup.place import find_target, open_place
    from timestore_core.backup.restore_plan import Naming
    from timestore_core.backup.restoring import RestoreRequest, restore_backup

    if new_slug is not None and (prefix or len(dataset or ()) != 1):
        fail("--as: is for a single dataset; give exactly one --dataset, and no --prefix")
    with explained(), command_runtime() as runtime, shown_progress(quiet=as_json) as progress:
        place = open_place(runtime, target, to_write=False)
        destination = runtime.targets.default if to is None else find_target(runtime, to)
        if destination is None:
            fail(f"--to: there is no storage target {to}")
        naming = Naming(dataset or None, new_slug, prefix)
        restored = restore_backup(runtime, place, RestoreRequest(name, naming, destination, verify, progress))
    if as_json:
        typer.echo(json.dumps(restored.to_json(), indent=2, ensure_ascii=False))
    else:
        _show_restored(restored)
    raise typer.Exit(0 if restored.is_whole else 1)


def _show_list(backups: list[Listed], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps([one.to_json() for one in backups], indent=2, ensure_ascii=False))
        return
    for one in backups:
        when = one.finished_at or one.begun_at or "an unknown time"
        known = [
            None if one.datasets is None else f"{one.datasets:,} datasets",
            None if one.rows is None else f"{one.rows:,} rows",
            f"{one.bytes:,} bytes",
            one.problem,
        ]
        _line(f"{one.name}: {one.state}, {when}; {', '.join(part for part in known if part)}")
    if not backups:
        _line("there is no backup")


def _show_taken(taken: Taken) -> None:
    for one in taken.datasets:
        _line(
            f"{one.slug}: version {one.version}; {one.partitions:,} partitions, {one.rows:,} rows, "
            f"{one.bytes:,} bytes, {one.keys:,} keys"
        )
    for slug in taken.left_out:
        _line(f"{slug}: was deleted meanwhile and is not in the backup")
    if taken.was_complete:
        _line(f"the backup {taken.name} was complete already")
    elif taken.is_complete:
        _line(f"the backup {taken.name} is complete; {_copied(taken.counts.files, taken.counts.were_there)}")
    _show_failures(list(taken.failures), taken.failures.count)
    if not taken.is_complete and not taken.was_complete:
        again = f"`timestore backup` with --name {taken.name} goes on"
        fail(f"the backup {taken.name} is not complete; mend or remove what cannot be read, then {again}")
    if not taken.is_complete:
        fail(f"the backup {taken.name} is damaged; take another one")


def _show_restored(restored: Restored) -> None:
    for one in restored.datasets:
        state = "whole" if one.verified.is_whole else "not whole"
        before = ", was restored before" if one.was_there else ""
        source = "" if one.dataset.slug == one.summary.slug else f" (from {one.summary.slug})"
        _line(
            f"{one.dataset.slug}{source}: {state}{before}; version {one.summary.version}, "
            f"{one.verified.partitions:,} partitions, {one.verified.rows:,} rows, {one.summary.keys:,} keys"
        )
        for finding in one.verified.findings:
            _line(f"  {finding.kind}: {finding.message}")
        for warning in one.warnings:
            _line(f"  note: {warning}")
    _show_failures(list(restored.failures), restored.failures.count)
    if restored.failures.count:
        fail(
            f"{restored.failures.count} parts of the backup {restored.name} are missing or altered; nothing was "
            "restored. --dataset restores the datasets that are whole"
        )
    if not restored.datasets:
        _line("the backup holds no dataset")


def _show_failures(texts: list[str], count: int) -> None:
    for text in texts[:_SHOWN_FAILURES]:
        err.print(text, highlight=False, markup=False, soft_wrap=True)
    if count > _SHOWN_FAILURES:
        err.print(f"and {count - _SHOWN_FAILURES} more; --json shows them", highlight=False, markup=False)


def _copied(files: int, were_there: int) -> str:
    earlier = f", {were_there:,} were there already" if were_there else ""
    return f"{files:,} files copied{earlier}"


def _line(text: str) -> None:
    out.print(text, highlight=False, markup=False, soft_wrap=True)
