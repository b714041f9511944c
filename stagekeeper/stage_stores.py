"""The store of stages that the settings name: a flag file, a flag service, or an OpenFeature provider to read only."""

from __future__ import annotations

import importlib
import urllib.parse
from typing import TYPE_CHECKING, Final, NamedTuple

from openfeature.provider import AbstractProvider

from producers.boundary.flagd_stages import FlagdStages
from producers.errors import SettingsError
from producers.flag_services.featbit_flags import FeatBitFlags
from producers.flag_services.flag_webhooks import FeatBitWebhook, UnleashWebhook
from producers.flag_services.management_api import ManagementApi
from producers.flag_services.read_only_stages import ReadOnlyStages
from producers.flag_services.service_stages import ServiceStages
from producers.flag_services.unleash_flags import UnleashFlags

if TYPE_CHECKING:
    from pathlib import Path

    from producers.boundary.stage_writer import StageWriter
    from stagekeeper.settings import Settings

_FORMS: Final = (
    "unleash:URL?project=PROJECT&environment=ENVIRONMENT, featbit:URL?environment=ID-OF-THE-ENVIRONMENT, "
    "openfeature:MODULE:FUNCTION to read only, or nothing for the flag file"
)


class _Address(NamedTuple):
    """What the setting says of a service."""

    url: str
    values: dict[str, str]

    @classmethod
    def parse(cls, text: str, names: set[str]) -> _Address:
        """The URL, and each name exactly once; raises `SettingsError`, which shows no credentials."""
        parts = urllib.parse.urlsplit(text)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username is not None or parts.fragment:
            raise SettingsError(
                f"STAGEKEEPER_STAGE_STORE names no service by http or https, or a user in its URL; it is one of: "
                f"{_FORMS}. The token stands in STAGEKEEPER_STAGE_STORE_TOKEN."
            )
        pairs = urllib.parse.parse_qsl(parts.query)
        values = dict(pairs)
        if set(values) != names or len(pairs) != len(names):
            raise SettingsError(
                f"STAGEKEEPER_STAGE_STORE must say {' and '.join(sorted(names))} after the URL, and nothing else; it "
                f"is one of: {_FORMS}"
            )
        return cls(urllib.parse.urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/"), "", "")), values)


def open_stages(settings: Settings, flag_file: Path | None = None) -> StageWriter:
    """The configured store, or a flag file that a command names. Raises `SettingsError`."""
    kind, _, rest = (settings.stage_store or "").partition(":")
    if flag_file is not None or not kind or settings.stage_store == "flagd":
        return FlagdStages(flag_file if flag_file is not None else settings.flags)
    if kind == "openfeature":
        return ReadOnlyStages(_provider(rest))
    return ServiceStages(open_flag_service(settings))


def open_flag_service(settings: Settings) -> UnleashFlags | FeatBitFlags:
    """The flag service that the settings name; raises `SettingsError`."""
    kind, _, rest = (settings.stage_store or "").partition(":")
    secret = settings.stage_store_token
    token = "" if secret is None else secret.get_secret_value()
    if kind == "unleash":
        address = _Address.parse(rest, {"project", "environment"})
        api = ManagementApi("Unleash", address.url, token)
        return UnleashFlags(api, address.values["project"], address.values["environment"])
    if kind == "featbit":
        address = _Address.parse(rest, {"environment"})
        return FeatBitFlags(ManagementApi("FeatBit", address.url, token), address.values["environment"])
    raise SettingsError(f"STAGEKEEPER_STAGE_STORE names no store that is known; it is one of: {_FORMS}")


def flag_webhook(settings: Settings) -> UnleashWebhook | FeatBitWebhook | None:
    """Who reads the webhooks of the configured service; None where there is none. Raises `SettingsError`."""
    kind, _, rest = (settings.stage_store or "").partition(":")
    if kind not in {"unleash", "featbit"}:
        return None
    secret, user = settings.flag_webhook_secret, settings.flag_webhook_own_user
    if secret is None or not secret.get_secret_value():
        raise SettingsError("STAGEKEEPER_FLAG_WEBHOOK_SECRET is unset, so nothing shows who sends a webhook; set it")
    if kind == "unleash":
        values = _Address.parse(rest, {"project", "environment"}).values
        return UnleashWebhook(secret.get_secret_value(), values["project"], values["environment"], user)
    return FeatBitWebhook(secret.get_secret_value(), _Address.parse(rest, {"environment"}).values["environment"], user)


def _provider(path: str) -> AbstractProvider:
    module, _, function = path.partition(":")
    try:
        made = getattr(importlib.import_module(module), function)()
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise SettingsError(
            f"STAGEKEEPER_STAGE_STORE=openfeature:{path} names no function that makes a provider: {error}. Write "
            "openfeature:MODULE:FUNCTION."
        ) from error
    if not isinstance(made, AbstractProvider):
        raise SettingsError(f"{path} makes a {type(made).__name__}, and no OpenFeature provider")
    return made
