"""What operators rely on: starts that race, logs, scopes, and documentation that is true."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from timestore_workers.settings_table import settings_table

from tests.service import ALL_TIME, Service, batch, wait_until

ROOT = Path(__file__).resolve().parents[2]


def test_several_services_may_start_at_once_on_a_new_schema(
    make_service: Callable[..., Service], tmp_path: Path
) -> None:
    shared = {"TIMESTORE_PG_SCHEMA": f"race_{uuid4().hex[:12]}", "TIMESTORE_STORAGE_ROOT": str(tmp_path / "storage")}
    services = [make_service(**shared) for _ in range(4)]
    for service in services:
        service.run()
    for service in services:
        wait_until(lambda service=service: service._answers(), "the service to become ready", 180)

    assert services[0].ingest("shared", batch([1])).status_code == 201
    assert services[3].query("shared", {"timeRange": ALL_TIME}).json()["rows"][0]["n"] == 1
    targets = {service.ingest("shared", batch([2])).json()["storageTarget"]["name"] for service in services}
    assert targets == {"timestore-default-local"}


def test_a_request_leaves_one_line_that_tells_what_it_was(make_service: Callable[..., Service]) -> None:
    service = make_service().start()
    headers = {"x-request-id": "asked-by-test", "x-iam-user": "alice"}
    service.client.post("/datasets/logged/ingest", json=batch([1, 2]), headers=headers)
    answer = service.client.post("/datasets/logged/query", json={"timeRange": ALL_TIME}, headers=headers)
    service.stop()
    lines = [json.loads(line) for line in service.log.read_text().splitlines() if "asked-by-test" in line]

    assert answer.headers["x-request-id"] == "asked-by-test"
    assert [(line["route"], line["status"], line["dataset"], line["actor"], line["rows"]) for line in lines] == [
        ("/datasets/{slug}/ingest", 201, "logged", "alice", 2),
        ("/datasets/{slug}/query", 200, "logged", "alice", 2),
    ]
    assert lines[0]["bytes_in"] > 0
    assert lines[1]["partitions"] == 1
    assert lines[1]["bytes_out"] == len(answer.content)
    assert all(line["ms"] > 0 for line in lines)


def test_no_secret_reaches_the_log_or_an_answer(make_service: Callable[..., Service]) -> None:
    service = make_service(TIMESTORE_DATABASE_URL="postgres://someone:hunter2@127.0.0.1:9/nothing")
    service.run()
    assert service._process is not None
    assert service._process.wait(60) == 1

    assert "hunter2" not in service.log.read_text()
    assert "PostgreSQL is not available" in service.log.read_text()


def test_an_unknown_variable_is_named_at_start_with_what_was_meant(make_service: Callable[..., Service]) -> None:
    service = make_service(TIMESTORE_QUERY_TIMEOUT="5").start()

    assert "TIMESTORE_QUERY_TIMEOUT_MS" in service.log.read_text()


def test_scopes_decide_over_http(make_service: Callable[..., Service], postgres_url: str) -> None:
    schema = f"scopes_{uuid4().hex[:12]}"
    service = make_service(
        TIMESTORE_PG_SCHEMA=schema, TIMESTORE_REQUIRE_SCOPE="all", TIMESTORE_REQUIRE_WRITE_SCOPE="write"
    ).start()

    def status(action: str, scopes: str, slug: str = "guarded") -> int:
        body = batch([1]) if action == "ingest" else {"timeRange": ALL_TIME}
        headers = {"x-iam-scopes": scopes} if scopes else {}
        return service.client.post(f"/datasets/{slug}/{action}", json=body, headers=headers).status_code

    assert status("query", "", "unknown") == 404
    assert status("ingest", "all") == 403
    assert status("ingest", "other, write") == 201
    assert status("query", "write") == 403
    assert status("query", "all") == 200
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        iam = json.dumps({"iam": {"readScopes": [], "writeScopes": ["mine"]}})
        connection.execute(f"UPDATE {schema}.datasets SET metadata = metadata || %s::jsonb", [iam])
    assert status("query", "") == 200
    assert status("ingest", "write") == 403
    assert status("ingest", "mine") == 201
    refused = service.client.post("/datasets/guarded/ingest", json=batch([1])).json()
    assert (refused["statusCode"], refused["error"]) == (403, "Forbidden")


def test_a_body_s_actor_grants_nothing(make_service: Callable[..., Service]) -> None:
    service = make_service(TIMESTORE_REQUIRE_SCOPE="all").start()

    answer = service.ingest("claimed", batch([1], actor={"id": "root", "scopes": ["all"]}))

    assert answer.status_code == 403


@pytest.mark.parametrize("path", ["/health", "/livez", "/ready", "/readyz"])
def test_health_and_readiness_have_two_names(service: Service, path: str) -> None:
    answer = service.client.get(path)

    assert answer.status_code == 200
    assert answer.json()["status"] == ("ready" if "ready" in path else "ok")


def test_readiness_names_each_dependency(service: Service) -> None:
    details = service.client.get("/ready").json()["details"]

    assert {name: detail["status"] for name, detail in details.items()} == {
        "postgresql": "up",
        "storage": "up",
        "engine": "up",
        "queue": "up",
    }


def test_the_readme_lists_every_setting_as_it_is() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    _, _, rest = readme.partition("<!-- settings: made by `timestore settings` -->\n")
    table, _, _ = rest.partition("\n<!-- /settings -->")

    assert table == settings_table()


def test_every_command_of_the_readme_exists() -> None:
    from timestore_workers.cli import app
    from typer.testing import CliRunner

    for command in ("dev", "serve", "migrate", "doctor", "plugins", "settings", "ingest", "query"):
        shown = CliRunner().invoke(app, [command, "--help"])
        assert shown.exit_code == 0, command
        assert "Usage" in shown.output


def test_readiness_names_another_target_that_cannot_be_read(
    make_service: Callable[..., Service], tmp_path: Path
) -> None:
    service, root = make_service().start(), tmp_path / "second"
    body = {"name": "second", "kind": "local", "config": {"root": str(root)}}
    target = service.client.post("/admin/storage-targets", json=body).json()["storageTarget"]["id"]
    service.ingest("elsewhere", batch([1], storageTargetId=target))
    assert service.client.get("/ready").status_code == 200

    root.rename(tmp_path / "unmounted")
    wait_until(lambda: service.client.get("/ready").status_code == 503, "readiness to notice")
    assert "second" in service.client.get("/ready").json()["details"]["storage"]["message"]

    (tmp_path / "unmounted").rename(root)
    assert service.client.get("/ready").status_code == 200
    assert service.stop() == 0
