from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from producers.delivery.kafka_config import KafkaSecurity
from producers.errors import SettingsError
from stagekeeper.settings import Settings

SECRET = "a-secret-for-tests"  # noqa: S105


@pytest.fixture
def secured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Settings:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"STAGEKEEPER_{name.upper()}", raising=False)
    monkeypatch.setenv("STAGEKEEPER_HOME", str(tmp_path))
    monkeypatch.setenv("STAGEKEEPER_KAFKA_SECURITY_PROTOCOL", "SASL_SSL")
    monkeypatch.setenv("STAGEKEEPER_KAFKA_SASL_MECHANISM", "SCRAM-SHA-512")
    monkeypatch.setenv("STAGEKEEPER_KAFKA_SASL_USERNAME", "worker")
    monkeypatch.setenv("STAGEKEEPER_KAFKA_SASL_PASSWORD", SECRET)
    monkeypatch.setenv("STAGEKEEPER_KAFKA_SSL_CA_LOCATION", "/certificates/ca.pem")
    monkeypatch.setenv("STAGEKEEPER_KAFKA_SSL_KEY_LOCATION", "/certificates/key.pem")
    monkeypatch.setenv("STAGEKEEPER_KAFKA_SSL_KEY_PASSWORD", SECRET)
    return Settings.load()


def test_every_client_gets_the_settings(secured: Settings) -> None:
    assert dict(secured.kafka_security) == {
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": "worker",
        "sasl.password": SECRET,
        "ssl.ca.location": "/certificates/ca.pem",
        "ssl.key.location": "/certificates/key.pem",
        "ssl.key.password": SECRET,
    }


def test_no_secret_is_printed(secured: Settings) -> None:
    security = secured.kafka_security
    for shown in (repr(secured), str(secured), repr(security), f"{security}", repr({"kafka": security})):
        assert SECRET not in shown
    assert "worker" in repr(security)
    assert SECRET not in secured.model_dump_json()


def test_child_processes_get_the_secrets(secured: Settings) -> None:
    assert secured.as_environment["STAGEKEEPER_KAFKA_SASL_PASSWORD"] == SECRET
    assert secured.as_environment["STAGEKEEPER_KAFKA_SSL_KEY_PASSWORD"] == SECRET


def test_nothing_is_set_by_default() -> None:
    assert dict(KafkaSecurity.from_settings()) == {}


def test_what_is_missing_is_named() -> None:
    with pytest.raises(SettingsError, match=r"also needs STAGEKEEPER_KAFKA_SASL_USERNAME, .*SASL_PASSWORD"):
        KafkaSecurity.from_settings(protocol="SASL_PLAINTEXT", mechanism="PLAIN")


def test_what_would_be_ignored_is_named() -> None:
    with pytest.raises(SettingsError, match=r"STAGEKEEPER_KAFKA_SASL_PASSWORD would be ignored with .*=SSL"):
        KafkaSecurity.from_settings(protocol="SSL", password=SecretStr(SECRET))
    with pytest.raises(SettingsError, match="STAGEKEEPER_KAFKA_SSL_CA_LOCATION would be ignored"):
        KafkaSecurity.from_settings(
            protocol="SASL_PLAINTEXT", mechanism="PLAIN", username="a", password=SecretStr("b"), ca=Path("ca.pem")
        )
