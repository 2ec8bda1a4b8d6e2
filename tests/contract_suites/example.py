"""The example plugin's modules and its guide's, as they lie in the repository."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).parents[2] / "examples/timestore-plugin-example"


def example(module: str) -> dict[str, Any]:
    """What the module of that name defines."""
    return runpy.run_path(str(_FOLDER / f"timestore_example/{module}.py"))


def guide(name: str, directory: Path) -> dict[str, Any]:
    """What the module of the guide that defines this class defines."""
    blocks = re.findall(r"```python\n(.*?)```", (_FOLDER / "README.md").read_text(), re.DOTALL)
    path = directory / "guide.py"
    path.write_text(next(code for code in blocks if f"class {name}:" in code))
    return runpy.run_path(str(path))
