"""A stranger's distribution, installed with pip: its storage kind and its aggregations are used like our own."""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from sysconfig import get_path

import pytest

from tests.service import ALL_TIME, Service

EXAMPLE = Path(__file__).parents[2] / "examples/timestore-plugin-example"
FILE = re.compile(r"[0-9a-f]{2}/[0-9a-f]{2}/growth/window=w/part-[0-9a-f-]{36}\.duckdb")


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a fresh environment that has the example installed and sees all that this one has."""
    home = tmp_path_factory.mktemp("stranger") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
    python = home / "bin" / "python"
    packages = Path(get_path("purelib", vars={"base": str(home)}))
    # Read as a site directory and not only as a path, so that what is installed in place is found too.
    (packages / "this-environment.pth").write_text(f"import site; site.addsitedir({get_path('purelib')!r})\n")
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", str(EXAMPLE)],
        check=True,
    )
    return python


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sharded")


@pytest.fixture(scope="module")
def sharded(make_service: Callable[..., Service], python: Path, root: Path) -> Iterator[Service]:
    """The real service in that environment, its default target of the example's kind."""
    service = make_service(TIMESTORE_STORAGE_DRIVER="sharded", EXAMPLE_SHARDED_ROOT=str(root))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "executable", str(python))
        service.start()
    yield service
    assert service.stop() == 0


def timestore(python: Path, command: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """A command of that environment, run to its end."""
    return subprocess.run(
        [str(python), "-c", "from timestore_workers.cli import main; main()", command],
        env={**os.environ, "COLUMNS": "200", **settings},
        capture_output=True,
        text=True,
        timeout=60,
    )


GROWTH = [1.1, 0.9, 2.0, 1.5, 8.0]


def growth(values: list[float]) -> dict[str, object]:
    times = [f"2024-01-01T00:00:{second:02}Z" for second in range(len(values))]
    return {
        "schema": {"fields": [{"name": "timestamp", "type": "timestamp"}, {"name": "factor", "type": "double"}]},
        "partition": {"key": {"window": "w"}, "timeRange": {"start": times[0], "end": times[-1]}},
        "rows": [{"timestamp": time, "factor": value} for time, value in zip(times, values, strict=True)],
    }


def asked(*aggregations: dict[str, object]) -> dict[str, object]:
    return {"timeRange": ALL_TIME, "downsample": {"intervalUnit": "hour", "aggregations": list(aggregations)}}


def test_the_installed_distribution_is_named_with_what_it_gives(python: Path) -> None:
    shown = timestore(python, "plugins")

    assert shown.returncode == 0, shown.stdout
    line = next(line for line in shown.stdout.splitlines() if "timestore-plugin-example" in line)
    assert [cell.strip() for cell in line.strip("│").split("│")] == [
        "example",
        "timestore-plugin-example",
        "loaded",
        "storage sharded, aggregation geomean, aggregation mad",
    ]


def test_a_batch_lies_where_the_strangers_driver_puts_it_and_its_target_is_named(sharded: Service, root: Path) -> None:
    answer = sharded.ingest("growth", growth(GROWTH))

    assert answer.status_code == 201, answer.text
    target = answer.json()["storageTarget"]
    assert (target["name"], target["kind"]) == ("timestore-default-sharded", "sharded")
    assert target["config"] == {"root": str(root)}
    files = [path.relative_to(root).as_posix() for path in root.rglob("part-*") if path.is_file()]
    assert len(files) == 1
    assert FILE.fullmatch(files[0])
    assert files[0].endswith(answer.json()["manifest"]["partitions"][0]["filePath"])


def test_the_strangers_aggregations_are_answered_with_the_right_values(sharded: Service) -> None:
    sharded.ingest("asked", growth(GROWTH))

    answer = sharded.query(
        "asked", asked({"fn": "geomean", "column": "factor"}, {"fn": "mad", "column": "factor", "alias": "spread"})
    )

    assert answer.status_code == 200, answer.text
    assert answer.json()["columns"] == ["timestamp", "geomean_factor", "spread"]
    middle = statistics.median(GROWTH)
    assert answer.json()["rows"] == [
        {
            "timestamp": "2024-01-01T00:00:00.000Z",
            "geomean_factor": pytest.approx(statistics.geometric_mean(GROWTH)),
            "spread": pytest.approx(statistics.median(abs(value - middle) for value in GROWTH)),
        }
    ]


def test_the_strangers_aggregations_are_the_same_over_fragments(
    make_service: Callable[..., Service], python: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(python))
    service = make_service(
        TIMESTORE_STORAGE_DRIVER="sharded", EXAMPLE_SHARDED_ROOT=str(root), TIMESTORE_QUERY_MAX_ATTACHED="2"
    ).start()
    for value in GROWTH:
        assert service.ingest("pieces", growth([value])).status_code == 201

    answer = service.query("pieces", asked({"fn": "geomean", "column": "factor"}, {"fn": "mad", "column": "factor"}))

    assert answer.status_code == 200, answer.text
    row = answer.json()["rows"][0]
    assert row["geomean_factor"] == pytest.approx(statistics.geometric_mean(GROWTH))
    assert row["mad_factor"] == pytest.approx(0.5)
    assert service.stop() == 0


@pytest.mark.parametrize("column", ["word", "timestamp"])
def test_an_aggregation_of_numbers_refuses_other_columns_by_name(sharded: Service, column: str) -> None:
    body = growth([1.0])
    body["schema"] = {"fields": [{"name": "timestamp", "type": "timestamp"}, {"name": "word", "type": "string"}]}
    sharded.ingest("words", body)

    answer = sharded.query("words", asked({"fn": "geomean", "column": column}))

    assert answer.status_code == 400
    assert answer.json()["details"][0]["path"] == "downsample.aggregations[0].column"
    assert "geomean takes double, integer" in answer.json()["message"]


def test_a_root_that_goes_away_is_503_and_publishes_nothing(sharded: Service, root: Path) -> None:
    sharded.ingest("unmounted", growth([1.0]))
    away = root.with_name("away")
    root.rename(away)
    try:
        refused = sharded.ingest("unmounted", growth([2.0]))
        ready = sharded.client.get("/ready")
    finally:
        away.rename(root)

    assert refused.status_code == 503
    assert "timestore-default-sharded" in refused.json()["message"]
    assert ready.json()["details"]["storage"]["status"] == "down"
    assert sharded.query("unmounted", {"timeRange": ALL_TIME}).json()["rows"][0]["factor"] == 1.0
    assert sharded.ingest("unmounted", growth([2.0])).status_code == 201


def test_a_setting_that_the_strangers_driver_lacks_ends_the_start_with_its_name(
    python: Path, postgres_url: str
) -> None:
    ended = timestore(
        python,
        "serve",
        TIMESTORE_STORAGE_DRIVER="sharded",
        TIMESTORE_DATABASE_URL=postgres_url,
        TIMESTORE_PG_SCHEMA="third_party_lacks",
        REDIS_URL="inline",
    )

    assert ended.returncode == 1
    assert "EXAMPLE_SHARDED_ROOT: must be the absolute path" in ended.stderr
