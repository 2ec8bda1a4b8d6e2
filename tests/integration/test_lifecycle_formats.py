"""Parquet: for batches, for what compaction writes, and for exports; always with the answers of the other format."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tests.integration.maintenance import (
    COLUMNS,
    Json,
    Stand,
    answers,
    ask,
    changed,
    events,
    hard_batch,
    head,
    ingest,
    make_stand,
    outcome,
    policy,
    run,
)
from tests.service import ALL_TIME, Service, batch, numbers_of


@pytest.fixture(scope="module")
def stand(make_service: Callable[..., Service], postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Stand:
    """In a directory whose name means something to shells, SQL and globs."""
    return make_stand(make_service, postgres_url, tmp_path_factory.mktemp("formats") / "it's [1] * of {a,b}")


def make_dataset(stand: Stand, slug: str, **more: Any) -> None:
    ask(stand.service, "POST", "/admin/datasets", {"slug": slug, **more}, status=201)


def formats_of(stand: Stand, slug: str) -> set[tuple[str, str]]:
    """The format and the file's ending of each partition."""
    return {(one["fileFormat"], Path(one["filePath"]).suffix) for one in head(stand.service, slug)["partitions"]}


def send(stand: Stand, slug: str, numbers: range) -> None:
    for number in numbers:
        ingest(stand.service, slug, hard_batch(number))


def test_parquet_batches_and_what_is_made_of_them_answer_like_duckdb_files(stand: Stand) -> None:
    make_dataset(stand, "as-duckdb")
    make_dataset(stand, "as-parquet", writeFormat="parquet")
    for slug in ("as-duckdb", "as-parquet"):
        send(stand, slug, range(24))
    expected = answers(stand.service, "as-duckdb")

    assert formats_of(stand, "as-parquet") == {("parquet", ".parquet")}
    assert changed(expected, answers(stand.service, "as-parquet")) == []
    assert outcome(stand.service, "as-parquet", "compaction")["status"] == "completed"
    assert formats_of(stand, "as-parquet") == {("parquet", ".parquet")}
    assert head(stand.service, "as-parquet")["partitionCount"] == 4
    assert changed(expected, answers(stand.service, "as-parquet")) == []
    assert stand.command("verify", "as-parquet", "--deep").returncode == 0


def test_duckdb_batches_may_become_parquet_and_back(stand: Stand) -> None:
    make_dataset(stand, "there-and-back", metadata={"compactedFormat": "parquet"})
    send(stand, "there-and-back", range(16))
    before = answers(stand.service, "there-and-back")
    run(stand.service, "there-and-back", "compaction")

    assert formats_of(stand, "there-and-back") == {("parquet", ".parquet")}
    assert changed(before, answers(stand.service, "there-and-back")) == []

    ask(stand.service, "PATCH", "/admin/datasets/there-and-back", {"metadata": {"compactedFormat": "duckdb"}})
    # Four files of one size are worth gathering once more.
    for start in (16, 32, 48):
        send(stand, "there-and-back", range(start, start + 16))
        before = answers(stand.service, "there-and-back")
        run(stand.service, "there-and-back", "compaction")

    assert formats_of(stand, "there-and-back") == {("duckdb", ".duckdb")}
    assert changed(before, answers(stand.service, "there-and-back")) == []
    assert stand.command("verify", "there-and-back", "--deep").returncode == 0


def test_both_formats_are_gathered_into_one_file(stand: Stand) -> None:
    make_dataset(stand, "both")
    send(stand, "both", range(8))
    ask(stand.service, "PATCH", "/admin/datasets/both", {"writeFormat": "parquet"})
    send(stand, "both", range(8, 16))
    before = answers(stand.service, "both")

    assert formats_of(stand, "both") == {("duckdb", ".duckdb"), ("parquet", ".parquet")}
    run(stand.service, "both", "compaction")
    assert formats_of(stand, "both") == {("parquet", ".parquet")}
    assert changed(before, answers(stand.service, "both")) == []


def test_rows_of_parquet_partitions_are_deleted_and_their_files_collected(stand: Stand) -> None:
    make_dataset(stand, "cut", writeFormat="parquet")
    for start in (0, 100, 200):
        ingest(stand.service, "cut", batch(list(range(start, start + 10))))
    policy(stand.service, "cut")
    body = {"timeRange": {"start": "2024-01-01T00:00:05Z", "end": "2024-01-01T00:01:44Z"}}
    deleted = ask(stand.service, "POST", "/admin/datasets/cut/delete-rows", body)

    assert deleted["rows"] == 10
    assert numbers_of(stand.service, "cut") == [*range(5), *range(105, 110), *range(200, 210)]
    assert formats_of(stand, "cut") == {("parquet", ".parquet")}
    run(stand.service, "cut", "collection")
    named = {one["filePath"] for one in head(stand.service, "cut")["partitions"]}
    assert {path for path in stand.files() if path.startswith("cut/")} == named


def exported(stand: Stand, slug: str) -> tuple[Json, pa.Table]:
    """The outcome of a forced export, and the table that others read in its file."""
    done = outcome(stand.service, slug, "parquetExport", force=True)
    assert done["status"] == "completed", done
    return done, pq.read_table(stand.root / done["filePath"])


def test_an_export_is_what_queries_answer(stand: Stand) -> None:
    make_dataset(stand, "exported")
    send(stand, "exported", range(24))
    for compacted in (False, True):
        if compacted:
            run(stand.service, "exported", "compaction")
        done, table = exported(stand, "exported")
        rows = stand.service.query("exported", {"timeRange": ALL_TIME}).json()["rows"]
        timed = table.filter(pc.is_valid(table.column("timestamp")))

        assert table.num_rows == head(stand.service, "exported")["totalRows"] == 24 * 20
        assert done["filePath"].startswith("exports/exported/snapshot-")
        assert [(field.name, str(field.type)) for field in table.schema] == [
            (name, ARROW[type_]) for name, type_ in COLUMNS.items()
        ]
        assert by_text(on_the_wire(timed)) == by_text(rows)


ARROW = {"timestamp": "timestamp[us]", "string": "string", "double": "double", "integer": "int64", "boolean": "bool"}


def on_the_wire(table: pa.Table) -> list[Json]:
    """The rows with times as the service writes them; zero has no sign there."""
    made = []
    for row in table.to_pylist():
        shown = {name: _text(value) if isinstance(value, datetime) else value for name, value in row.items()}
        made.append({name: value + 0.0 if isinstance(value, float) else value for name, value in shown.items()})
    return made


def _text(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds" if moment.microsecond % 1000 else "milliseconds") + "Z"


def by_text(rows: list[Json]) -> list[str]:
    return sorted(repr(sorted(row.items())) for row in rows)


def test_an_export_holds_the_columns_of_all_batches_by_name(stand: Stand) -> None:
    make_dataset(stand, "wide")
    ingest(stand.service, "wide", batch([1]))
    fields = [
        {"name": "timestamp", "type": "timestamp"},
        {"name": "n", "type": "double"},
        {"name": "s", "type": "string"},
    ]
    wider = batch([2], schema={"fields": fields})
    wider["rows"][0] |= {"n": 2.5, "s": ""}
    ingest(stand.service, "wide", wider)

    _, table = exported(stand, "wide")

    assert table.column("n").to_pylist() == [1.0, 2.5]
    assert table.column("s").to_pylist() == [None, ""]


def test_a_dataset_is_exported_once_in_an_interval_and_on_demand(stand: Stand) -> None:
    make_dataset(stand, "hourly")
    assert outcome(stand.service, "hourly", "parquetExport")["message"] == "the dataset has no snapshot yet"
    ingest(stand.service, "hourly", batch([1]))
    would = outcome(stand.service, "hourly", "parquetExport", dryRun=True)
    assert (would["dryRun"], would["rows"]) == (True, 1)
    assert list(stand.root.glob("exports/hourly/*")) == []

    first = outcome(stand.service, "hourly", "parquetExport")
    ingest(stand.service, "hourly", batch([2]))
    again = outcome(stand.service, "hourly", "parquetExport")
    forced = outcome(stand.service, "hourly", "parquetExport", force=True)

    assert (first["status"], again["status"], forced["status"]) == ("completed", "skipped", "completed")
    assert "the last export is from" in again["message"]
    assert len(list(stand.root.glob("exports/hourly/*.parquet"))) == 2
    assert list(stand.root.rglob("export-*")) == []


def test_the_manifest_remembers_the_last_ten_exports(stand: Stand) -> None:
    make_dataset(stand, "remembered")
    made = []
    for number in range(12):
        ingest(stand.service, "remembered", batch([number]))
        made.append(exported(stand, "remembered")[0])
    ingest(stand.service, "remembered", batch([99]))

    manifest = head(stand.service, "remembered")
    exports = manifest["metadata"]["lifecycle"]["exports"]
    assert manifest["version"] == 13
    assert [one["filePath"] for one in exports["history"]] == [one["filePath"] for one in reversed(made[2:])]
    assert [one["rowCount"] for one in exports["history"]] == list(range(12, 2, -1))
    assert [one["version"] for one in exports["history"]] == list(range(12, 2, -1))
    assert len({one["id"] for one in exports["history"]}) == 10
    assert exports["lastCompletedAt"] == exports["history"][0]["exportedAt"]
    assert len(list(stand.root.glob("exports/remembered/*.parquet"))) == 12
    payloads = events(stand.service, "remembered", "export.parquet.created")
    assert [one["filePath"] for one in payloads] == [one["filePath"] for one in reversed(made)]
    for one in made:
        assert one["bytes"] == (stand.root / one["filePath"]).stat().st_size


def test_exports_may_be_off_and_elsewhere(make_service: Callable[..., Service], tmp_path: Path) -> None:
    settings = {"TIMESTORE_STORAGE_ROOT": str(tmp_path), "TIMESTORE_LIFECYCLE_EXPORT_PREFIX": "for/others"}
    service = make_service(**settings).start(TIMESTORE_LIFECYCLE_EXPORTS_ENABLED="off")
    ingest(service, "off", batch([1]))
    off = outcome(service, "off", "parquetExport", force=True)
    service.stop()
    service.start()
    on = outcome(service, "off", "parquetExport")
    service.stop()

    assert (off["status"], on["status"]) == ("skipped", "completed")
    assert "TIMESTORE_LIFECYCLE_EXPORTS_ENABLED" in off["message"]
    (path,) = (tmp_path / "for/others/off").iterdir()
    assert on["filePath"] == f"for/others/off/{path.name}"
    moment = datetime.strptime(path.name, "snapshot-%Y-%m-%dT%H-%M-%S-%fZ.parquet").replace(tzinfo=UTC)
    assert timedelta(0) <= datetime.now(UTC) - moment < timedelta(minutes=5)
