"""Plugins that are broken, that clash or that raise: named with their distribution, and never the service's end."""

from __future__ import annotations

import inspect
import json
import os
import re
import sqlite3
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.service import ALL_TIME, Service, batch, numbers_of
from timestore_core import hookspecs
from timestore_core.hookspecs import GROUP
from timestore_core.model import Actor
from timestore_core.plugins import PluginHost, PluginReport, load_plugins
from timestore_core.settings import load_settings

README = Path(__file__).parents[2] / "examples/timestore-plugin-example/README.md"
HOOKIMPL = "from timestore_core.hookspecs import hookimpl\n"


def plugin(directory: Path, module: str, code: str, entry_point: str | None = None) -> None:
    """Lay a distribution `<module>-dist` with this module into a directory for PYTHONPATH, as pip would."""
    (directory / f"{module}.py").write_text(code)
    information = directory / f"{module}-1.0.dist-info"
    information.mkdir()
    name = f"{module.replace('_', '-')}-dist"
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(f"[{GROUP}]\n{entry_point or module} = {module}\n")


def timestore(command: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """A command, run to its end, with room for wide tables."""
    return subprocess.run(
        [sys.executable, "-c", "from timestore_workers.cli import main; main()", command],
        env={**os.environ, "COLUMNS": "400", "REDIS_URL": "inline", **settings},
        capture_output=True,
        text=True,
        timeout=60,
    )


def logged(service: Service, event: str) -> list[dict[str, Any]]:
    """The lines of a service's log that are of this event."""
    lines = [json.loads(line) for line in service.log.read_text().splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == event]


# Each broken plugin's code, and what must be said of it.
BROKEN: Mapping[str, tuple[str, str]] = {
    "cannot_import": ("import a_module_that_nobody_has", "No module named 'a_module_that_nobody_has'"),
    "cannot_parse": ("def timestore_published(:", "SyntaxError"),
    "wrong_argument": (f"{HOOKIMPL}@hookimpl\ndef timestore_published(dataset, mainfest): ...", "{'mainfest'}"),
    "unknown_hook": (
        f"{HOOKIMPL}@hookimpl\ndef timestore_storage_driver(): return {{}}",
        "unknown hook timestore_storage_driver",
    ),
    "no_mapping": (f"{HOOKIMPL}@hookimpl\ndef timestore_aggregations(): return ['sum']", "must return a mapping"),
    "wrong_type": (
        f"{HOOKIMPL}@hookimpl\ndef timestore_aggregations(): return {{'total': 'sum'}}",
        "'total' must be a Aggregation, not str",
    ),
    "raises": (f"{HOOKIMPL}@hookimpl\ndef timestore_queues(): raise RuntimeError('no queue today')", "no queue today"),
    "taken_name": (
        f"{HOOKIMPL}from timestore_core.storage import StorageKind\n"
        "@hookimpl\ndef timestore_storage_drivers(): return {'local': StorageKind(open=None, default_config=None)}",
        "gives 'local', which another plugin already gives",
    ),
}


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with all the broken plugins."""
    directory = tmp_path_factory.mktemp("broken")
    for module, (code, _) in BROKEN.items():
        plugin(directory, module, code)
    return directory


@pytest.fixture(scope="module")
def shown(broken: Path) -> subprocess.CompletedProcess[str]:
    """`timestore plugins` in an environment with all the broken plugins."""
    return timestore("plugins", PYTHONPATH=str(broken))


@pytest.fixture(scope="module")
def beset(make_service: Callable[..., Service], broken: Path) -> Iterator[Service]:
    """A service in an environment with all the broken plugins."""
    service = make_service(PYTHONPATH=str(broken)).start()
    yield service
    assert service.stop() == 0


@pytest.mark.parametrize("module", BROKEN)
def test_a_broken_plugin_is_shown_with_its_distribution_and_reason(
    shown: subprocess.CompletedProcess[str], module: str
) -> None:
    row = rows_of(shown.stdout)[module]

    assert shown.returncode == 1
    assert row[:2] == [f"{module.replace('_', '-')}-dist", "broken"]
    assert BROKEN[module][1] in row[2]


def rows_of(table: str) -> dict[str, list[str]]:
    """A printed table's rows by their first cell; what goes on in further lines is joined."""
    rows: dict[str, list[str]] = {}
    for line in table.splitlines():
        if line.startswith("│"):
            first, *cells = [cell.strip() for cell in line.strip("│").split("│")]
            if first:
                name, rows[first] = first, cells
            else:
                rows[name] = [f"{old} {new}".strip() for old, new in zip(rows[name], cells, strict=True)]
    return rows


@pytest.mark.parametrize("module", BROKEN)
def test_a_broken_plugin_is_in_the_log_of_the_start_with_its_distribution_and_reason(
    beset: Service, module: str
) -> None:
    (line,) = [line for line in logged(beset, "plugin.broken") if line["plugin"] == module]

    assert line["level"] == "error"
    assert line["distribution"] == f"{module.replace('_', '-')}-dist"
    assert BROKEN[module][1] in line["error"]


def test_a_service_with_broken_plugins_works(beset: Service) -> None:
    created = beset.ingest("beset", batch([1, 2, 3]))

    assert created.status_code == 201
    assert created.json()["storageTarget"]["name"] == "timestore-default-local"
    assert numbers_of(beset, "beset") == [1, 2, 3]


def test_a_broken_plugin_gives_nothing_of_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        f"{HOOKIMPL}from timestore_aggregations import timestore_aggregations as ours\n"
        "@hookimpl\ndef timestore_aggregations(): return {'half': ours()['sum'], 'avg': ours()['avg']}\n"
        "@hookimpl\ndef timestore_authorize(): return True"
    )
    plugin(tmp_path, "half_good", code)

    host, report = loaded(tmp_path, "half_good", monkeypatch)

    assert report.status == "broken"
    assert "half" not in host.aggregations
    settings = load_settings().model_copy(update={"admin_scope": "admin"})
    assert not host.may(Actor(None, frozenset()), "admin", None, settings)


def test_a_stranger_with_the_name_of_our_plugin_does_not_take_it_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin(tmp_path, "usurper", f"{HOOKIMPL}@hookimpl\ndef timestore_step(step): ...", entry_point="scopes")

    host, report = loaded(tmp_path, "scopes", monkeypatch)

    assert report.status == "broken"
    assert host.principal({"x-iam-scopes": "a"}, load_settings()).scopes == {"a"}
    assert host.may(Actor(None, frozenset()), "read", None, load_settings())


def test_a_plugin_that_exits_when_it_is_imported_is_broken_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin(tmp_path, "leaves", "raise SystemExit('this is a script')")

    assert loaded(tmp_path, "leaves", monkeypatch)[1].status == "broken"


def loaded(directory: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> tuple[PluginHost, PluginReport]:
    """The plugins of this process with those of the directory, and the report of the stranger of this name."""
    monkeypatch.syspath_prepend(str(directory))
    host = load_plugins()
    (report,) = [one for one in host.reports if one.name == name and one.distribution != "timestore"]
    return host, report


def test_an_observer_that_raises_is_logged_and_the_caller_sees_nothing(
    make_service: Callable[..., Service], tmp_path: Path
) -> None:
    plugin(
        tmp_path,
        "a_raising",
        f"{HOOKIMPL}@hookimpl\ndef timestore_published(dataset, manifest): raise RuntimeError('published badly')\n"
        "@hookimpl\ndef timestore_queried(): raise RuntimeError('queried badly')",
    )
    plugin(
        tmp_path,
        "listening",
        f"{HOOKIMPL}from pathlib import Path\nHEARD = Path({str(tmp_path / 'heard')!r})\n"
        "def note(text):\n    with HEARD.open('a') as file: file.write(text + '\\n')\n"
        "@hookimpl(trylast=True)\n"
        "def timestore_published(manifest, dataset): note(f'{dataset.slug} is at {manifest.version}')\n"
        "@hookimpl(trylast=True)\n"
        "def timestore_queried(plan, rows): note(f'{plan.dataset_slug} gave {rows}')",
    )
    service = make_service(PYTHONPATH=str(tmp_path)).start()

    assert service.ingest("observed", batch([1, 2])).status_code == 201
    assert service.query("observed", {"timeRange": ALL_TIME}).status_code == 200

    assert (tmp_path / "heard").read_text().splitlines() == ["observed is at 1", "observed gave 2"]
    failures = logged(service, "plugin.observer_failed")
    assert [(line["plugin"], line["hook"]) for line in failures] == [
        ("a_raising", "timestore_published"),
        ("a_raising", "timestore_queried"),
    ]
    assert "published badly" in failures[0]["exception"]
    assert "queried badly" in failures[1]["exception"]
    assert service.stop() == 0


def test_a_storage_kind_that_nobody_gives_ends_the_start_with_the_kinds_that_there_are() -> None:
    ended = timestore("serve", TIMESTORE_STORAGE_DRIVER="nope")

    assert ended.returncode == 1
    assert "no plugin gives the storage kind 'nope'; there are: " in ended.stderr
    assert all(kind in ended.stderr for kind in load_plugins().storage_kinds)
    assert "Traceback" not in ended.stderr


HOOKS = {name: hook for name, hook in vars(hookspecs).items() if hasattr(hook, f"{GROUP}_spec")}


@pytest.mark.parametrize("hook", HOOKS)
def test_the_guide_names_every_hook_with_its_arguments(hook: str) -> None:
    row = re.search(rf"^\| `{hook}` \|([^|]*)\|([^|]+)\|", README.read_text(), re.MULTILINE)

    assert row is not None
    assert re.findall(r"`(\w+)`", row[1]) == list(inspect.signature(HOOKS[hook]).parameters)
    assert row[2].strip()


def test_the_guide_names_no_hook_that_there_is_not() -> None:
    assert set(re.findall(r"^\| `(timestore_\w+)` \|", README.read_text(), re.MULTILINE)) == set(HOOKS)


def test_the_two_plugins_of_the_guide_do_what_the_guide_says(
    make_service: Callable[..., Service], tmp_path: Path
) -> None:
    blocks = re.findall(r"```(\w+)\n(.*?)```", README.read_text(), re.DOTALL)
    project = tomllib.loads(next(text for kind, text in blocks if kind == "toml"))
    code = next(text for kind, text in blocks if kind == "python")
    requests = next(text for kind, text in blocks if kind == "console" and "curl" in text)
    batch_json, query_json = (
        json.loads(body) for body in re.findall(r"-d '(.*?)'$", requests, re.DOTALL | re.MULTILINE)
    )
    answer = json.loads(next(text for kind, text in blocks if kind == "json"))
    ((entry_point, module),) = project["project"]["entry-points"][GROUP].items()
    plugin(tmp_path, module, code, entry_point)
    plugin(tmp_path, "my_shelf", next(text for kind, text in blocks if "class ShelfDriver" in text), "my-shelf")
    shelf = tmp_path / "shelf.db"
    settings = {"TIMESTORE_STORAGE_DRIVER": "shelf", "SHELF_PATH": str(shelf)}
    service = make_service(PYTHONPATH=str(tmp_path), **settings).start()

    (partition,) = service.ingest("mains", batch_json).json()["manifest"]["partitions"]
    with closing(sqlite3.connect(shelf)) as database:
        assert (partition["filePath"],) in database.execute("SELECT key FROM files").fetchall()
    assert service.query("mains", query_json).json() == answer
    assert service.stop() == 0
