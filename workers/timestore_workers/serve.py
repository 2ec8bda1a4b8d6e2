"""`timestore serve`: migrate, then become gunicorn."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from timestore_core.catalog.migrate import migrate
from timestore_core.errors import ConfigurationError
from timestore_core.plugins import load_plugins
from timestore_core.runtime import check_configuration, prepare_catalog
from timestore_core.settings import load_settings


def gunicorn_command() -> list[str]:
    """The command that serves with the settings of the environment."""
    return [sys.executable, "-m", "gunicorn", "--config", str(_config_file())]


def prepare() -> None:
    """What must be right before the server starts: settings, plugins, storage kind, queue, the catalog's schema.

    Raises ConfigurationError or Unavailable, whose text says what to do.
    """
    settings = load_settings()
    plugins = load_plugins()
    check_configuration(settings, plugins)
    migrate(settings)
    prepare_catalog(settings, plugins)


def serve() -> None:
    """Migrate and serve; this process becomes gunicorn's master."""
    prepare()
    command = gunicorn_command()
    sys.stdout.flush()
    os.execv(command[0], command)


def _config_file() -> Path:
    """conf/gunicorn.conf.py: inside this package in a wheel, at the top of a checkout."""
    package = Path(__file__).resolve().parent
    for candidate in (package / "conf" / "gunicorn.conf.py", package.parents[1] / "conf" / "gunicorn.conf.py"):
        if candidate.is_file():
            return candidate
    raise ConfigurationError("gunicorn.conf.py is missing from this installation; install timestore again")
