"""The page /docs, as a browser without internet shows it."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.browser.chromium import ChromiumUnavailable, find_or_install, show
from tests.service import Service


@pytest.fixture(scope="module")
def chromium() -> str:
    """Chromium. Where it is not to be had the test is skipped; under CI it fails."""
    try:
        return find_or_install()
    except ChromiumUnavailable as reason:
        if os.environ.get("CI") == "true":
            pytest.fail(str(reason))
        pytest.skip(str(reason))


def operations_of(service: Service) -> set[tuple[str, str]]:
    paths = service.client.get("/openapi.json").json()["paths"]
    return {(method, path) for path, methods in paths.items() for method in methods}


@pytest.mark.parametrize("path", ["/docs", "/docs/"])
def test_the_page_shows_every_operation(path: str, chromium: str, service: Service, tmp_path: Path) -> None:
    shown = show(chromium, f"{service.base}{path}", tmp_path)

    found = re.findall(r'opblock-summary-method">(\w+)<.*?data-path="([^"]+)"', shown.dom, re.DOTALL)
    assert {(method.lower(), path) for method, path in found} == operations_of(service)
    assert shown.console == []


def test_an_operation_opens_with_its_example(chromium: str, service: Service, tmp_path: Path) -> None:
    shown = show(chromium, f"{service.base}/docs#/data/ingest", tmp_path)

    assert "Idempotency-Key" in shown.dom
    assert "temperature_c" in shown.dom
    assert "widen an integer to a double" in shown.dom
    assert shown.console == []


def test_the_console_would_tell_of_a_script_that_the_policy_refuses(
    chromium: str, service: Service, tmp_path: Path
) -> None:
    page = service.client.get("/docs")
    policy = page.headers["content-security-policy"]
    (tmp_path / "page.html").write_text(
        f'<meta http-equiv="Content-Security-Policy" content="{policy}"><script>document.title = "ran"</script>',
        encoding="utf-8",
    )

    shown = show(chromium, f"file://{tmp_path}/page.html", tmp_path / "profile")

    assert any("Content Security Policy" in line for line in shown.console)
