"""The example plugin's modules, as they lie in the repository."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).parents[2] / "examples/timestore-plugin-example/timestore_example"


def example(module: str) -> dict[str, Any]:
    """What the module of that name defines."""
    return runpy.run_path(str(_FOLDER / f"{module}.py"))
