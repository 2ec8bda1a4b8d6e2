from __future__ import annotations

from pathlib import Path

import pytest

from timestore_core.errors import ConfigurationError
from timestore_core.settings import load_settings, unknown_variables


def test_the_second_name_of_a_variable_works_and_the_first_one_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "1")
    assert load_settings().port == 1
    monkeypatch.setenv("TIMESTORE_PORT", "2")
    assert load_settings().port == 2


def test_a_value_may_come_from_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "url").write_text("postgres://u:p@db/x\n")
    monkeypatch.setenv("TIMESTORE_DATABASE_URL_FILE", str(tmp_path / "url"))

    assert load_settings().database_url.get_secret_value() == "postgres://u:p@db/x"


def test_every_wrong_setting_is_named_and_no_value_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIMESTORE_PORT", "hunter2")
    monkeypatch.setenv("TIMESTORE_PGPOOL_MAX", "0")

    with pytest.raises(ConfigurationError) as raised:
        load_settings()

    assert "TIMESTORE_PORT" in raised.value.message
    assert "TIMESTORE_PGPOOL_MAX" in raised.value.message
    assert "hunter2" not in raised.value.message


def test_a_secret_does_not_show_in_the_settings_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIMESTORE_DATABASE_URL", "postgres://u:hunter2@db/x")

    assert "hunter2" not in repr(load_settings())


def test_an_unknown_variable_is_found_with_the_name_that_was_meant() -> None:
    environment = {"TIMESTORE_PROT": "1", "TIMESTORE_PORT": "1", "TIMESTORE_HOME": "x", "TIMESTORE_PORT_FILE": "x"}

    assert list(unknown_variables(environment)) == [("TIMESTORE_PROT", "TIMESTORE_PORT")]
