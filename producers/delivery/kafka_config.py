"""TLS and SASL settings of every Kafka client."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from producers.errors import SettingsError

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic import SecretStr

Value: TypeAlias = str | int | float | bool
Protocol: TypeAlias = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
Mechanism: TypeAlias = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]

SECRETS: Final = frozenset({"sasl.password", "ssl.key.password"})  # settings whose values are shown to nobody


class KafkaSecurity(Mapping[str, Value]):
    """Settings by librdkafka's names, with secrets masked wherever they are printed."""

    def __init__(self, settings: Mapping[str, Value] | None = None) -> None:
        self._settings = dict(settings or {})

    @classmethod
    def from_settings(
        cls,
        *,
        protocol: Protocol = "PLAINTEXT",
        mechanism: Mechanism | None = None,
        username: str | None = None,
        password: SecretStr | None = None,
        ca: Path | None = None,
        certificate: Path | None = None,
        key: Path | None = None,
        key_password: SecretStr | None = None,
    ) -> KafkaSecurity:
        """The settings for one protocol; `SettingsError` where one is missing, or one is set that would be ignored."""
        sasl = {"SASL_MECHANISM": mechanism, "SASL_USERNAME": username, "SASL_PASSWORD": password}
        tls = {
            "SSL_CA_LOCATION": ca,
            "SSL_CERTIFICATE_LOCATION": certificate,
            "SSL_KEY_LOCATION": key,
            "SSL_KEY_PASSWORD": key_password,
        }
        _check(protocol, sasl, needed="SASL" in protocol, usable="SASL" in protocol)
        _check(protocol, tls, needed=False, usable="SSL" in protocol.split("_"))
        settings: dict[str, object] = {
            "security.protocol": None if protocol == "PLAINTEXT" else protocol,
            "sasl.mechanism": mechanism,
            "sasl.username": username,
            "sasl.password": password and password.get_secret_value(),
            "ssl.ca.location": ca and str(ca),
            "ssl.certificate.location": certificate and str(certificate),
            "ssl.key.location": key and str(key),
            "ssl.key.password": key_password and key_password.get_secret_value(),
        }
        return cls({name: value for name, value in settings.items() if isinstance(value, str)})

    def __getitem__(self, name: str) -> Value:
        return self._settings[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._settings)

    def __len__(self) -> int:
        return len(self._settings)

    def __repr__(self) -> str:
        shown = {name: "***" if name in SECRETS else value for name, value in self._settings.items()}
        return f"KafkaSecurity({shown})"


def _check(protocol: str, settings: Mapping[str, object], *, needed: bool, usable: bool) -> None:
    prefix = "STAGEKEEPER_KAFKA_"
    missing = [prefix + name for name, value in settings.items() if value is None]
    if needed and missing:
        raise SettingsError(f"{prefix}SECURITY_PROTOCOL={protocol} also needs {', '.join(missing)}.")
    ignored = [prefix + name for name, value in settings.items() if value is not None]
    if not usable and ignored:
        raise SettingsError(
            f"{', '.join(ignored)} would be ignored with {prefix}SECURITY_PROTOCOL={protocol}. "
            "Set SSL, SASL_PLAINTEXT or SASL_SSL, or unset it."
        )
