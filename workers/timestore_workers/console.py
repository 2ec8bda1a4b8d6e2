"""Talking to people: errors on standard error without a traceback, and the exit status that scripts expect."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer
from rich.console import Console

from timestore_core.errors import TimestoreError, Unavailable

out = Console()
err = Console(stderr=True)


def fail(message: str) -> NoReturn:
    """Say what is wrong and end with status 1."""
    err.print(f"[bold red]error:[/] {_escaped(message)}", highlight=False)
    raise typer.Exit(1)


@contextmanager
def explained() -> Iterator[None]:
    """Turn the core's errors into a line for people and status 1."""
    try:
        yield
    except Unavailable as error:
        fail(f"{error.message}\n`timestore doctor` says what is wrong; `timestore dev` brings a PostgreSQL of its own.")
    except TimestoreError as error:
        fail(error.message)


def _escaped(text: str) -> str:
    return text.replace("[", r"\[")
