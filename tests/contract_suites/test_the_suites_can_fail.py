"""Parts that are broken on purpose: the suites say so, each by the test that is about what is wrong."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.extended

ROOT = Path(__file__).parents[2]

OVERWRITES = '''
    """Puts over what is there."""

    def put(self, source, key):
        target = Path(self.location(key))
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(source, target)
        return self.stat(key)
'''
SKIPS = '''
    """Lists one file less than there are, where there are many."""

    def list(self, prefix=""):
        found = list(super().list(prefix))
        return iter(found[:-1] if len(found) > 10 else found)
'''
LISTS_MORE = '''
    """Takes the beginning of a name for a folder."""

    def list(self, prefix=""):
        return (one for one in super().list() if one.key.startswith(prefix))
'''
CUTS = '''
    """Gives back less than was stored."""

    def fetch(self, key, destination):
        super().fetch(key, destination)
        os.truncate(destination, max(0, destination.stat().st_size - 1))
'''
LEADS_OUTSIDE = '''
    """Goes wherever a key leads."""

    def location(self, key):
        return f"{self._root}/{key}"
'''
TELLS = '''
    """Repeats the secret."""

    def check(self):
        raise OSError("login of hunter2 failed")
'''
AGELESS = '''
    """Does not know when."""

    def stat(self, key):
        found = super().stat(key)
        return found and StoredFile(found.key, found.size_bytes)
'''
DRIVERS = """
import os
from pathlib import Path
import pytest
from timestore_local.driver import LocalDriver
from timestore_core.storage import StoredFile
from timestore_core.testing import StorageDriverContract
"""
DRIVER = """
class {name}(LocalDriver):
{broken}

class Test{name}(StorageDriverContract):
    @pytest.fixture
    def driver(self, tmp_path):
        return {name}(tmp_path / "root")

    @pytest.fixture
    def failing_driver(self, tmp_path):
        (tmp_path / "no directory").write_bytes(b"")
        return {name}(tmp_path / "no directory")

    @pytest.fixture
    def secrets(self):
        return ["hunter2"]
"""

AGGREGATIONS = """
from dataclasses import replace
import pytest
from timestore_aggregations import timestore_aggregations
from timestore_core.aggregations import Decomposable, Multiset
from timestore_core.testing import AggregationContract

GIVEN = timestore_aggregations()
"""
AGGREGATION = """
class Test{name}(AggregationContract):
    @pytest.fixture
    def aggregation(self):
        return {broken}
"""
AVERAGE_OF_AVERAGES = """replace(GIVEN["avg"], exact=None, combine=Decomposable(
            partial=lambda column, _: (f"avg({column})",), merge=lambda states, _: f"avg({states[0]})"))"""
FORGETS_A_STATE = """replace(GIVEN["avg"], exact=None, combine=Decomposable(
            partial=lambda column, _: (f"avg({column})", f"count({column})"),
            merge=lambda states, _: f"avg({states[0]})"))"""
DISTINCT_MEDIAN = """replace(GIVEN["median"], combine=Multiset(distinct_only=True))"""
WRONG_TYPE = """replace(GIVEN["count"], result=lambda _: "string")"""
FIRST_ROW = """replace(GIVEN["max"], sql=lambda column, _: f"first({column})", combine=Multiset())"""
INEXACT = """replace(GIVEN["sum"], exact=lambda _: replace(GIVEN["sum"], exact=None))"""

FORMATS = """
import pytest
from timestore_core.partitions.parquet_file import ParquetFile
from timestore_core.testing import PartitionFormatContract
"""
FORMAT = """
class {name}(ParquetFile):
{broken}

class Test{name}(PartitionFormatContract):
    @pytest.fixture
    def format_(self):
        return {name}()
"""
TAKES_FOLDERS_FOR_COLUMNS = """
    def relation(self, location, alias, table_name):
        return f"read_parquet('{location}', hive_partitioning = true)"
"""
LOSES_A_ROW = """
    def write(self, engine, path, table_name, schema, rows):
        return super().write(engine, path, table_name, schema, rows.slice(0, max(0, rows.num_rows - 1)))
"""


def check(folder: Path, head: str, part: str, well: str, broken: dict[str, tuple[str, str]]) -> None:
    """Each broken part fails the test that is about what is wrong with it, and one that works passes all of these.

    `broken` has, by a name, what is broken and the test; they run as a plugin's author would run them.
    """
    parts = {"Well": well, **{name: text for name, (text, _) in broken.items()}}
    made = "".join(part.replace("{name}", name).replace("{broken}", text) for name, text in parts.items())
    (folder / "test_broken.py").write_text(head + made)
    wanted = [(name, test) for name, (_, test) in broken.items()]
    controls = [("Well", test) for test in dict.fromkeys(test for _, test in wanted)]
    ids = [f"test_broken.py::Test{name}::{test}" for name, test in (*wanted, *controls)]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--tb=no", "-p", "no:cacheprovider", *ids],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    failed = set(re.findall(r"^FAILED \S+::Test(\w+)::(\w+)", done.stdout, re.MULTILINE))
    assert failed == set(wanted), done.stdout + done.stderr


def test_broken_drivers_are_found(tmp_path: Path) -> None:
    listing = "test_a_listing_names_every_file_below_the_prefix_and_nothing_else"
    broken = {
        "Overwrites": (OVERWRITES, "test_a_taken_key_is_never_overwritten"),
        "Skips": (SKIPS, listing),
        "ListsMore": (LISTS_MORE, listing),
        "Cuts": (CUTS, "test_what_was_put_is_there_whole_and_its_source_is_gone"),
        "LeadsOutside": (LEADS_OUTSIDE, "test_a_key_that_leads_outside_is_refused_by_name"),
        "Tells": (TELLS, "test_a_store_that_fails_raises_os_errors_without_secrets"),
        "Ageless": (AGELESS, "test_a_file_says_when_it_was_put_there"),
    }

    check(tmp_path, DRIVERS, DRIVER, "    pass", broken)


def test_broken_aggregations_are_found(tmp_path: Path) -> None:
    split = "test_any_split_gives_the_undivided_answer"
    broken = {
        "AverageOfAverages": (AVERAGE_OF_AVERAGES, split),
        "ForgetsAState": (FORGETS_A_STATE, "test_the_states_of_a_part_are_as_many_as_their_merge_reads"),
        "DistinctMedian": (DISTINCT_MEDIAN, split),
        "WrongType": (WRONG_TYPE, "test_its_result_has_the_type_that_it_says"),
        "FirstRow": (FIRST_ROW, "test_the_order_of_the_rows_leaves_no_trace"),
        "Inexact": (INEXACT, "test_its_exact_form_is_the_same_to_the_last_digit_in_any_order_and_split"),
    }

    check(tmp_path, AGGREGATIONS, AGGREGATION, 'GIVEN["avg"]', broken)


def test_broken_formats_are_found(tmp_path: Path) -> None:
    broken = {
        "TakesFoldersForColumns": (
            TAKES_FOLDERS_FOR_COLUMNS,
            "test_a_folder_of_key_and_value_does_not_stand_in_for_a_column",
        ),
        "LosesARow": (LOSES_A_ROW, "test_many_rows_come_back_counted_and_in_their_order"),
    }

    check(tmp_path, FORMATS, FORMAT, "    pass", broken)
