"""The results as a table for people and as JSON for machines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.goals import Result

_VERDICTS = {True: "[green]met[/]", False: "[bold red]missed[/]", None: ""}
_MIN_WIDTH = 140


def print_table(results: Sequence[Result]) -> None:
    """One line a case."""
    table = Table(title="Timestore against the floor", title_justify="left", box=box.SIMPLE)
    table.add_column("case", no_wrap=True)
    for heading in ("unit", "floor", "Timestore", "ratio", "goal"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True, min_width=6)
    for one in results:
        table.add_row(
            one.case,
            one.unit,
            _number(one.floor),
            _number(one.measured),
            "" if one.ratio is None else f"{one.ratio:.2f}",
            "" if one.goal is None else str(one.goal),
            _VERDICTS[one.met],
        )
    console = Console()
    console.width = max(console.width, _MIN_WIDTH)
    console.print(table)


def write_json(path: Path, machine: dict[str, Any], results: Sequence[Result]) -> None:
    """Everything measured, with what it was measured on."""
    rows = [
        asdict(one) | {"goal": None if one.goal is None else str(one.goal), "ratio": one.ratio, "met": one.met}
        for one in results
    ]
    path.write_bytes(msgspec.json.format(msgspec.json.encode({"machine": machine, "results": rows}), indent=2) + b"\n")


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 1000 else f"{value:,.1f}"
