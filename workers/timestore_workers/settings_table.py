"""The README's table of settings, made from the settings themselves."""

from __future__ import annotations

from pathlib import Path

from pydantic import SecretStr

from timestore_core.settings import Settings, variables


def settings_table() -> str:
    """One Markdown row a setting: its variables, its default, what it is for."""
    lines = ["| variable | default | |", "|---|---|---|"]
    for field in Settings.model_fields.values():
        first, *others = variables(field)
        names = f"`{first}`" + "".join(f" (`{name}`)" for name in others)
        lines.append(f"| {names} | {_default(field.default)} | {field.description} |")
    return "\n".join(lines)


def _default(value: object) -> str:
    if value is None:
        return "unset"
    if isinstance(value, SecretStr):
        return f"`{value.get_secret_value()}`"
    if isinstance(value, Path):
        return f"`{value}`"
    return f"`{value}`"
