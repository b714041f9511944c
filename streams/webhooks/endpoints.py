"""The webhooks file: which receivers there are, whose gates they are for, and where their secrets lie."""

from __future__ import annotations

import base64
import binascii
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from analytics.enactment.enactments import Life
from analytics.gates.gate_signal import refusal
from producers.errors import SettingsError
from producers.strict_yaml import parse_yaml, read_file
from producers.wire.model import Name

if TYPE_CHECKING:
    from collections.abc import Mapping

_PREFIX: Final = "whsec_"  # of a secret of Standard Webhooks
_HOW: Final = "make one with `echo whsec_$(openssl rand -base64 32)`"

Format = Literal["standard", "slack"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class EndpointStated(_Part):
    """One receiver as the file has it."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
    """What logs, metrics and the record of deliveries call it."""
    owners: tuple[Name, ...] = ()
    """It is told of the gates of these owners; of all gates where none is named."""
    lives: tuple[Life, ...] = tuple(Life)
    """It is told when a recommendation comes to one of these."""
    format: Format = "standard"
    """`standard` is signed JSON as Standard Webhooks has it, `slack` what Slack's incoming webhooks take."""
    url: str | None = None
    """Where it is; of Slack the URL is itself the secret, so it goes into `url_env` or `url_file`."""
    url_env: str | None = None
    """The environment variable that holds the URL."""
    url_file: Path | None = None
    """The file that holds the URL."""
    secret_env: str | None = None
    """The environment variable with the signing secret, `whsec_...`; two, parted by a blank, while it changes."""
    secret_file: Path | None = None
    """The file with it."""
    allow_private: bool = False
    """Whether it may lie at a private or loopback address."""

    @model_validator(mode="after")
    def _each_is_said_once(self) -> Self:
        if sum(place is not None for place in (self.url, self.url_env, self.url_file)) != 1:
            raise refusal(f"`{self.name}` needs one of `url`, `url_env` and `url_file`")
        signs = sum(place is not None for place in (self.secret_env, self.secret_file))
        if self.format == "slack" and (signs or self.url is not None):
            raise refusal(
                f"`{self.name}`: of Slack the URL is the secret: use `url_env` or `url_file`, and no other secret"
            )
        if self.format == "standard" and signs != 1:
            raise refusal(
                f"`{self.name}` needs one of `secret_env` and `secret_file`: what is not signed is not believed"
            )
        return self

    @field_validator("url")
    @classmethod
    def _url_is_one(cls, url: str | None) -> str | None:
        if url is not None and (why := _no_url(url)):
            raise refusal(f"the URL {why}")
        return url


class WebhookFile(_Part):
    """The webhooks file."""

    version: Literal[1]
    page: str | None = None
    """Where the page is, such as `https://stagekeeper.example.com/`; without it messages have no link."""
    endpoints: tuple[EndpointStated, ...]

    @field_validator("endpoints")
    @classmethod
    def _names_differ(cls, endpoints: tuple[EndpointStated, ...]) -> tuple[EndpointStated, ...]:
        names = [endpoint.name for endpoint in endpoints]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise refusal(f"endpoints need names of their own; twice there: {', '.join(twice)}")
        return endpoints

    @field_validator("page")
    @classmethod
    def _page_is_a_url(cls, page: str | None) -> str | None:
        if page is not None and (why := _no_url(page)):
            raise refusal(f"the page's URL {why}")
        return page


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One receiver, with its secrets, which no representation of it shows."""

    name: str
    url: str = field(repr=False)
    secrets: tuple[bytes, ...] = field(default=(), repr=False)  # what it is signed with; none for Slack
    owners: frozenset[str] = frozenset()  # empty: all
    lives: frozenset[Life] = frozenset(Life)
    format: Format = "standard"
    allow_private: bool = False


@dataclass(frozen=True, slots=True)
class Webhooks:
    """Who is told, and where the page is."""

    endpoints: tuple[Endpoint, ...]
    page: str | None = None

    @classmethod
    def load(cls, path: Path, *, environment: Mapping[str, str] = os.environ) -> Self:
        """Read the file, and the secrets that it names.

        Raises `ConfigurationFileError` for the file, `SettingsError` for a URL or secret that is missing or unusable.
        """
        stated = parse_yaml(read_file(path, name="the webhooks file"), WebhookFile, origin=str(path))
        return cls(tuple(_resolved(one, environment) for one in stated.endpoints), stated.page)


def _resolved(stated: EndpointStated, environment: Mapping[str, str]) -> Endpoint:
    url, place = stated.url or "", "`url`"
    if stated.url is None:
        url, place = _read(stated, "URL", stated.url_env, stated.url_file, environment)
        if why := _no_url(url):
            raise SettingsError(f"the webhook endpoint `{stated.name}`: the URL in {place} {why}")
    secrets: tuple[bytes, ...] = ()
    if stated.format == "standard":
        text, place = _read(stated, "secret", stated.secret_env, stated.secret_file, environment)
        secrets = tuple(_key(word, stated.name, place) for word in text.split())
    lives, owners = frozenset(stated.lives), frozenset(stated.owners)
    return Endpoint(stated.name, url, secrets, owners, lives, stated.format, stated.allow_private)


def _read(
    stated: EndpointStated, what: str, variable: str | None, path: Path | None, environment: Mapping[str, str]
) -> tuple[str, str]:
    """A value and where it lies; neither in an error."""
    place = str(path) if path is not None else f"the variable {variable}"
    try:
        text = path.read_text(encoding="utf-8") if path is not None else environment.get(variable or "", "")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is no text"
        raise SettingsError(
            f"the webhook endpoint `{stated.name}`: its {what} cannot be read from {place}: {why}"
        ) from None
    if not text.strip():
        raise SettingsError(f"the webhook endpoint `{stated.name}`: {place} holds no {what}; put it there")
    return text.strip(), place


def _key(word: str, name: str, place: str) -> bytes:
    try:
        key = base64.b64decode(word.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not word.startswith(_PREFIX) or not 24 <= len(key) <= 64:
        message = (
            f"the webhook endpoint `{name}`: what {place} holds is not `whsec_` and base64 of 24 to 64 bytes; {_HOW}"
        )
        raise SettingsError(message)
    return key


def _no_url(url: str) -> str | None:
    """Why something is no URL that is asked; None where it is one."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "cannot be read"
    if parts.scheme not in {"http", "https"} or not host:
        return "is none that begins with http:// or https:// and names a host"
    if parts.username is not None:
        return "holds a name or password, which would be logged on the way: leave them out"
    return "holds a blank or a control character" if any(character <= " " for character in url) else None
