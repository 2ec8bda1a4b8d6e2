"""TypeScript's compiler and a generator of clients, in pinned versions: installed once from npm, then run."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from uuid import uuid4

from filelock import FileLock

PACKAGES = ("openapi-typescript@7.13.0", "openapi-fetch@0.17.0", "typescript@5.9.3")
INSTALL_TIMEOUT_S = 300
RUN_TIMEOUT_S = 120
PROGRAM = Path(__file__).parent / "node" / "ts-client.ts"
COMPILER_OPTIONS = (
    *("--strict", "--noUncheckedIndexedAccess", "--exactOptionalPropertyTypes"),
    *("--target", "es2022", "--module", "nodenext", "--lib", "es2022,dom,dom.iterable"),
)


class TypeScriptUnavailable(Exception):
    """There is no Node or npm here, or npm cannot install; the text says which."""


class TypeScriptError(Exception):
    """A step failed; the text is what it said."""


def install(cache: Path) -> Path:
    """A directory with the packages in `node_modules`. Raises TypeScriptUnavailable."""
    for command in ("node", "npm"):
        if shutil.which(command) is None:
            raise TypeScriptUnavailable(f"there is no {command} on PATH")
    home = cache / "-".join(package.replace("@", "-") for package in PACKAGES)
    with FileLock(cache / ".typescript.lock"):
        if not home.exists():
            _npm_install(home)
    return home


def run_client(home: Path, work: Path, base_url: str) -> str:
    """Generate the client from the service's document, compile the program over it, run it: what it printed."""
    (work / "node_modules").symlink_to(home / "node_modules")
    (work / "package.json").write_text('{"type": "module"}', encoding="utf-8")
    shutil.copy(PROGRAM, work / "client.ts")
    binaries = home / "node_modules" / ".bin"
    _run(work, str(binaries / "openapi-typescript"), f"{base_url}/openapi.json", "--output", "schema.d.ts")
    _run(work, str(binaries / "tsc"), *COMPILER_OPTIONS, "client.ts")
    return _run(work, "node", "client.js", base_url)


def _run(work: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=work, capture_output=True, text=True, timeout=RUN_TIMEOUT_S)
    if done.returncode != 0:
        raise TypeScriptError(f"{Path(command[0]).name}:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
    return done.stdout


def _npm_install(home: Path) -> None:
    """Install beside, then rename: what is found under its name is whole."""
    beside = home.with_name(f".{uuid4().hex}")
    beside.mkdir()
    options = ["--no-save", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(beside)]
    environment = {**os.environ, "npm_config_update_notifier": "false"}
    try:
        done = subprocess.run(
            ["npm", "install", *options, *PACKAGES],
            env=environment,
            capture_output=True,
            text=True,
            timeout=INSTALL_TIMEOUT_S,
        )
        if done.returncode != 0:
            raise TypeScriptUnavailable(f"npm could not install {' '.join(PACKAGES)}: {done.stderr.strip()[-500:]}")
        beside.rename(home)
    except subprocess.TimeoutExpired:
        raise TypeScriptUnavailable(f"npm could not install {' '.join(PACKAGES)} in {INSTALL_TIMEOUT_S} s") from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)
