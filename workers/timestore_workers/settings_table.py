"""The README's table of settings, made from the settings themselves."""

from __future__ import annotations

from pathlib import Path

from pydantic import SecretStr

from timestore_core.settings import Settings, variables

# Their defaults are this machine's; the table has to be true everywhere.
_BY_CORES = ("TIMESTORE_HTTP_WORKERS", "TIMESTORE_QUERY_THREADS")


def settings_table() -> str:
    """One Markdown row a setting: its variables, its default, what it is for."""
    lines = ["| variable | default | |", "|---|---|---|"]
    for field in Settings.model_fields.values():
        first, *others = variables(field)
        names = f"`{first}`" + "".join(f" (`{name}`)" for name in others)
        default = "cores" if first in _BY_CORES else _default(field.default)
        lines.append(f"| {names} | {default} | {field.description} |")
    return "\n".join(lines)


def _default(value: object) -> str:
    if value is None:
        return "unset"
    if isinstance(value, SecretStr):
        return f"`{value.get_secret_value()}`"
    if isinstance(value, bool):
        return "`on`" if value else "`off`"
    if isinstance(value, Path):
        return f"`{value}`"
    return f"`{value}`"
