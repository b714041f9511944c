from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from producers.errors import SettingsError
from stagekeeper.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"STAGEKEEPER_{name.upper()}", raising=False)
    monkeypatch.setenv("STAGEKEEPER_HOME", str(tmp_path))


def _say_running(home: Path) -> None:
    stated = {"kafka_bootstrap_servers": "127.0.0.1:9999", "lake_root": "/somewhere/lake", "gate_file": "/some/g.yaml"}
    (home / "running.json").write_text(json.dumps(stated))


def test_without_anything_the_lake_is_under_home(tmp_path: Path) -> None:
    assert Settings.load().lake == str(tmp_path / "lake")


def test_a_running_whole_fills_what_is_unset(tmp_path: Path) -> None:
    _say_running(tmp_path)
    settings = Settings.load()
    assert settings.require_kafka() == "127.0.0.1:9999"
    assert settings.lake == "/somewhere/lake"
    assert str(settings.gates) == "/some/g.yaml"


def test_the_environment_wins_over_a_running_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _say_running(tmp_path)
    monkeypatch.setenv("STAGEKEEPER_KAFKA_BOOTSTRAP_SERVERS", "kafka:9092")
    settings = Settings.load()
    assert settings.require_kafka() == "kafka:9092"
    assert settings.lake == "/somewhere/lake"


def test_a_missing_broker_is_named_with_the_fix() -> None:
    with pytest.raises(SettingsError, match="STAGEKEEPER_KAFKA_BOOTSTRAP_SERVERS"):
        Settings.load().require_kafka()


def test_an_unusable_value_names_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAGEKEEPER_FRESHNESS_S", "soon")
    with pytest.raises(SettingsError, match="STAGEKEEPER_FRESHNESS_S"):
        Settings.load()


def test_an_old_variable_is_refused_with_the_new_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAGEKEEPER_UPKEEP_EVERY_S", "60")
    with pytest.raises(SettingsError, match="UPKEEP_EVERY_S is called STAGEKEEPER_MAINTENANCE_EVERY_S now"):
        Settings.load()


def test_a_broken_running_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "running.json").write_text("{")
    with pytest.raises(SettingsError, match=r"running\.json cannot be read"):
        Settings.load()


def test_the_receipt_key_is_never_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAGEKEEPER_RECEIPT_KEY", "hunter2")
    settings = Settings.load()
    assert "hunter2" not in repr(settings)
    assert "hunter2" not in settings.model_dump_json()
    assert settings.signing_key == b"hunter2"


def test_an_empty_receipt_key_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAGEKEEPER_RECEIPT_KEY", "")
    assert Settings.load().signing_key is None
