"""Maintenance over a damaged file: it is named and left as it is, all others are taken care of, nothing is lost."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tests.faults.lifecycle_stand import LifecycleStand, make_lifecycle_stand, path_of
from tests.service import Service

pytestmark = pytest.mark.extended

BLOCK_BYTES, HEADER_BYTES = 16_384, 3 * 4096


@pytest.fixture(scope="module")
def stand(
    make_service: Callable[..., Service], postgres_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LifecycleStand]:
    home = tmp_path_factory.mktemp("damaged")
    made = make_lifecycle_stand(make_service, postgres_url, home, TIMESTORE_LIFECYCLE_COMPACTION_MAX_PARTITIONS="4")
    made.service.start()
    made.admin("POST", "storage-targets", {"name": "cold", "kind": "local", "config": {"root": str(made.cold)}})
    yield made
    made.service.kill()


def flip_a_bit_of(column: str, path: Path) -> None:
    """Flip one bit so that this column cannot be read any more."""
    content = path.read_bytes()
    for block in range(HEADER_BYTES, len(content), BLOCK_BYTES):
        damaged = bytearray(content)
        damaged[block + BLOCK_BYTES // 2] ^= 8
        path.write_bytes(damaged)
        if not is_readable(path, column):
            return
    raise AssertionError(f"no block of {path} belongs to {column}")


def is_readable(path: Path, column: str) -> bool:
    try:
        with duckdb.connect(str(path), read_only=True) as connection:
            connection.execute(f'SELECT bit_xor(hash("{column}")) FROM records').fetchone()
    except duckdb.Error:
        return False
    return True


def flip_a_bit_of_a_text(path: Path) -> None:
    # Read before the new file is begun, to find the order of its rows.
    flip_a_bit_of("text", path)


def flip_a_bit_of_a_number(path: Path) -> None:
    # Read only while the new file is written.
    flip_a_bit_of("value", path)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def delete(path: Path) -> None:
    path.unlink()


DAMAGES = [flip_a_bit_of_a_text, flip_a_bit_of_a_number, truncate, delete]


def maintained(stand: LifecycleStand, slug: str, operations: str) -> tuple[int, dict[str, Any]]:
    """The command's status, and what it reports of each operation."""
    ran = stand.command("lifecycle", "run", slug, "--operations", operations, "--json", "--force")
    return ran.returncode, {one["operation"]: one for one in json.loads(ran.stdout or ran.stderr)["operations"]}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_partition_sets_its_group_aside_by_name_and_the_other_groups_are_gathered(
    stand: LifecycleStand, damage: Callable[[Path], None]
) -> None:
    slug = damage.__name__.replace("_", "-")
    stand.ingest(slug, 0, batches=12, rows=2000)
    before, live = stand.answers(slug), stand.live(slug)
    # The last one of the second group: no message has room for all the others.
    broken, its_group = live[7], [one["id"] for one in live[4:8]]
    content = path_of(broken).read_bytes()
    damage(path_of(broken))

    for groups in (2, 0):
        status, report = maintained(stand, slug, "compaction,collection")
        assert (status, report["compaction"]["status"]) == (1, "failed")
        assert report["compaction"].get("count", 0) == groups
        assert broken["id"] in report["compaction"]["message"]
        assert report["collection"]["status"] in ("completed", "skipped")
    rows = sorted((one["row_count"], one["id"] in its_group) for one in stand.live(slug))
    assert rows == [(2000, True)] * 4 + [(8000, False)] * 2

    path_of(broken).write_bytes(content)
    assert stand.answers(slug) == before
    stand.maintain(slug, "compaction")
    assert (stand.answers(slug), len(stand.live(slug))) == (before, 3)
    stand.assert_nothing_leaks(slug)
    stand.assert_verified(slug)


@pytest.mark.parametrize("damage", [flip_a_bit_of_a_number, delete])
def test_nothing_that_would_read_a_damaged_partition_changes_it_and_all_of_them_name_it(
    stand: LifecycleStand, damage: Callable[[Path], None]
) -> None:
    slug = f"named-{damage.__name__}".replace("_", "-")
    stand.ingest(slug, 0, batches=3, rows=2000)
    (cold,) = (one for one in stand.admin("GET", "storage-targets")["storageTargets"] if one["name"] == "cold")
    policy = {"mode": "size", "coldStorageAfterHours": 1, "metadata": {"coldStorageTargetId": cold["id"]}}
    stand.admin("PUT", f"datasets/{slug}/retention", policy)
    before, live, version = stand.answers(slug), stand.live(slug), stand.version(slug)
    broken = live[1]
    content = path_of(broken).read_bytes()
    damage(path_of(broken))

    half = {"start": "2024-01-01T00:00:00Z", "end": "2024-01-01T00:50:00Z"}
    deleted = stand.service.client.post(f"/admin/datasets/{slug}/delete-rows", json={"timeRange": half})
    assert (deleted.status_code, broken["id"] in deleted.json()["message"]) == (500, True), deleted.text
    assert stand.version(slug) == version
    status, report = maintained(stand, slug, "parquetExport,tiering,collection")
    assert (status, report["parquetExport"]["status"], report["tiering"]["status"]) == (1, "failed", "failed")
    assert broken["id"] in report["parquetExport"]["message"]
    assert broken["id"] in report["tiering"]["message"]
    assert [one["root"] for one in stand.live(slug)] == [broken["root"], str(stand.cold), str(stand.cold)]
    assert not list(stand.root.glob(f"exports/{slug}/*"))

    path_of(broken).write_bytes(content)
    assert stand.answers(slug) == before
    stand.assert_nothing_leaks(slug)
    stand.assert_verified(slug)
