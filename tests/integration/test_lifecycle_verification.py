"""Whatever happens to a file, verification finds it; and it finds nothing where nothing happened."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.maintenance import (
    Json,
    Stand,
    ask,
    hard_batch,
    ingest,
    make_stand,
    numbers,
    outcome,
    run,
)
from tests.service import ALL_TIME, Service, batch, numbers_of


@pytest.fixture(scope="module")
def stand(make_service: Callable[..., Service], postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Stand:
    return make_stand(make_service, postgres_url, tmp_path_factory.mktemp("verification"))


def verified(stand: Stand, *arguments: str, status: int) -> list[Json]:
    done = stand.command("verify", "--json", *arguments)
    assert done.returncode == status, (done.stdout, done.stderr)
    found: list[Json] = json.loads(done.stdout)
    return found


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) * 2 // 3] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("format_", ["duckdb", "parquet"])
def test_a_cut_a_missing_and_a_flipped_file_are_found(stand: Stand, format_: str) -> None:
    slug = f"harmed-{format_}"
    ask(stand.service, "POST", "/admin/datasets", {"slug": slug, "writeFormat": format_}, status=201)
    parts = [ingest(stand.service, slug, hard_batch(number))["manifest"]["partitions"][0] for number in range(5)]
    paths = [stand.root / one["filePath"] for one in parts]
    whole = [path.read_bytes() for path in paths]
    (before,) = verified(stand, slug, "--deep", status=0)
    cut(paths[1])
    paths[2].unlink()
    flip(paths[3])
    shallow, deep = verified(stand, slug, status=1), verified(stand, slug, "--deep", status=1)

    assert (before["isWhole"], before["findings"], before["partitions"], before["rows"]) == (True, [], 5, 100)
    assert before["bytes"] == sum(map(len, whole))
    expected = [("size", parts[1]["id"], True), ("missing", parts[2]["id"], True)]
    assert told(shallow) == sorted(expected)
    assert told(deep) == sorted([*expected, ("checksum", parts[3]["id"], True)])
    assert deep[0]["findings"][0]["filePath"] in {one["filePath"] for one in parts[1:4]}
    answer = ask(stand.service, "POST", "/admin/lifecycle/run", {"datasetSlug": slug, "operations": ["verification"]})
    (operation,) = answer["report"]["operations"]
    assert (answer["status"], operation["status"]) == ("failed", "failed")
    assert operation["message"] == "2 partitions are not whole"
    assert told([operation]) == sorted(expected)
    # A query that needs them gets no answer, one that does not gets it.
    assert stand.service.query(slug, {"timeRange": ALL_TIME}).status_code == 500

    for path, content in zip(paths, whole, strict=True):
        path.write_bytes(content)
    assert verified(stand, slug, "--deep", status=0)[0]["findings"] == []
    assert outcome(stand.service, slug, "verification")["status"] == "completed"


def told(found: list[Json]) -> list[tuple[str, str, bool]]:
    return sorted((one["kind"], one["partitionId"], one["isLoss"]) for each in found for one in each["findings"])


def test_every_bit_that_flips_is_found(stand: Stand) -> None:
    (part,) = numbers(stand.service, "flipped", list(range(100)))
    path = stand.root / part["filePath"]
    content = path.read_bytes()
    for at in (0, 4096, len(content) // 2, len(content) - 1):
        changed = bytearray(content)
        changed[at] ^= 1
        path.write_bytes(changed)
        assert told(verified(stand, "flipped", "--deep", status=1)) == [("checksum", part["id"], True)]
    path.write_bytes(content)
    verified(stand, "flipped", "--deep", status=0)


def test_a_file_in_another_s_place_is_found(stand: Stand) -> None:
    first, second = numbers(stand.service, "swapped", [1], [2])
    one, other = stand.root / first["filePath"], stand.root / second["filePath"]
    one.write_bytes(other.read_bytes())

    assert told(verified(stand, "swapped", "--deep", status=1)) == [("checksum", first["id"], True)]


@pytest.mark.parametrize("format_", ["duckdb", "parquet"])
def test_values_at_the_ends_of_their_types_are_no_finding(stand: Stand, format_: str) -> None:
    slug = f"extreme-{format_}"
    ask(stand.service, "POST", "/admin/datasets", {"slug": slug, "writeFormat": format_}, status=201)
    doubles = [1e23, -1e22, 1e308, 1.7976931348623157e308, 5e-324, -0.0, 2.0**63, 0.1]
    integers = [2**53 + 1, 2**63 - 1, -(2**63), 0]
    fields = {"timestamp": "timestamp", "d": "double", "i": "integer", "s": "string"}
    for number, value in enumerate(doubles):
        made = batch([number], schema={"fields": [{"name": name, "type": type_} for name, type_ in fields.items()]})
        made["rows"][0] |= {"d": value, "i": integers[number % 4], "s": "\U0010ffff" * (number * 20)}
        ingest(stand.service, slug, made)
    verified(stand, slug, "--deep", status=0)
    run(stand.service, slug, "compaction")

    assert verified(stand, slug, "--deep", status=0)[0]["partitions"] == 1
    page = ask(stand.service, "GET", f"/admin/datasets/{slug}/partitions")
    columns = {one["name"]: one for one in page["partitions"][0]["columns"]}
    assert (columns["d"]["min"], columns["d"]["max"]) == (-1e22, max(doubles))
    assert (columns["i"]["min"], columns["i"]["max"]) == (-(2**63), 2**63 - 1)


def test_without_a_name_every_active_dataset_is_looked_at(stand: Stand) -> None:
    numbers(stand.service, "seen-a", [1])
    numbers(stand.service, "seen-b", [1])
    ask(stand.service, "POST", "/admin/datasets/seen-b/archive")
    looked = {one["datasetSlug"] for one in json.loads(stand.command("verify", "--json").stdout)}

    assert "seen-a" in looked
    assert "seen-b" not in looked
    assert stand.command("verify", "nowhere", "--json").returncode == 1
    assert numbers_of(stand.service, "seen-a") == [1]
