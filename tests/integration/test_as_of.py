"""Queries of an earlier version: by number, by time, and by the name of a pin."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.service import ALL_TIME, Service, batch


@pytest.fixture(scope="module")
def forgetful(make_service: Callable[..., Service]) -> Iterator[Service]:
    """A service whose removed partitions are collected at once."""
    service = make_service(TIMESTORE_LIFECYCLE_RETENTION_DELETE_GRACE_MINUTES="0").start()
    yield service
    service.stop()


def numbers_as_of(service: Service, slug: str, as_of: object) -> list[int]:
    answer = service.query(slug, {"timeRange": ALL_TIME, "asOf": as_of})
    assert answer.status_code == 200, answer.text
    return sorted(row["n"] for row in answer.json()["rows"])


def maintain(service: Service, slug: str, *operations: str) -> None:
    answer = service.client.post("/admin/lifecycle/run", json={"datasetSlug": slug, "operations": list(operations)})
    assert answer.json()["status"] == "completed", answer.text


def test_a_version_answers_as_it_did_when_it_was_current(service: Service) -> None:
    for number in range(4):
        service.ingest("kept", batch([number]))
    published = service.client.get("/admin/datasets/kept/manifest?version=2").json()["manifest"]["publishedAt"]

    assert [numbers_as_of(service, "kept", version) for version in (1, 3, 4)] == [[0], [0, 1, 2], [0, 1, 2, 3]]
    assert numbers_as_of(service, "kept", published) == [0, 1]
    answer = service.query("kept", {"timeRange": ALL_TIME, "asOf": 2})
    assert answer.headers["x-timestore-version"] == "2"
    assert answer.headers["etag"].startswith('"2-')


def test_an_older_version_has_the_columns_of_its_time(service: Service) -> None:
    service.ingest("grown", batch([1]))
    wider = batch([2])
    wider["schema"] = {"fields": [*wider["schema"]["fields"], {"name": "extra", "type": "string"}]}
    service.ingest("grown", wider)

    assert service.query("grown", {"timeRange": ALL_TIME, "asOf": 1}).json()["columns"] == ["timestamp", "n"]
    asked = {"timeRange": ALL_TIME, "asOf": 1, "columns": ["extra"]}
    assert service.query("grown", asked).status_code == 400


def test_a_pinned_version_can_be_asked_for_after_everything_else_was_collected(forgetful: Service) -> None:
    for number in range(3):
        forgetful.ingest("pinned", batch([number]))
    forgetful.client.put("/admin/datasets/pinned/pins/audit", json={"version": 2})
    maintain(forgetful, "pinned", "compaction", "collection")

    assert numbers_as_of(forgetful, "pinned", "audit") == [0, 1]
    assert numbers_as_of(forgetful, "pinned", 2) == [0, 1]
    gone = forgetful.query("pinned", {"timeRange": ALL_TIME, "asOf": 3})
    assert gone.status_code == 410
    assert forgetful.client.delete("/admin/datasets/pinned/pins/audit").status_code == 200
    maintain(forgetful, "pinned", "collection")
    assert forgetful.query("pinned", {"timeRange": ALL_TIME, "asOf": 2}).status_code == 410


@pytest.mark.parametrize("as_of", [99, "never", "1999-01-01T00:00:00Z"])
def test_what_never_was_is_not_found(service: Service, as_of: object) -> None:
    service.ingest("short", batch([1]))

    assert service.query("short", {"timeRange": ALL_TIME, "asOf": as_of}).status_code == 404


@pytest.mark.parametrize("as_of", [0, -1, 1.5, "", True, [], "x" * 300, "a\0b", 2**40])
def test_what_is_no_version_is_refused(service: Service, as_of: object) -> None:
    service.ingest("short", batch([1]))
    answer = service.query("short", {"timeRange": ALL_TIME, "asOf": as_of})

    assert answer.status_code == 400
    assert answer.json()["details"][0]["path"].startswith("asOf")


def test_a_deletion_of_a_dataset_says_beforehand_what_it_takes(service: Service) -> None:
    service.ingest("doomed", batch([1, 2]))
    preview = service.client.delete("/admin/datasets/doomed?dryRun=true").json()

    assert (preview["partitions"], preview["rows"], preview["dryRun"]) == (1, 2, True)
    assert service.client.get("/admin/datasets/doomed").status_code == 200
