"""Where a lake lies: a folder, or a bucket of an S3-compatible store with what it takes to get in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import pyarrow.fs as pafs
from deltalake.fs import DeltaStorageHandler
from pydantic import SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from producers.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping

_PREFIX: Final = "STAGEKEEPER_LAKE_"


class StorageSettings(BaseSettings):
    """How to get into a bucket. Every field is an environment variable with the prefix `STAGEKEEPER_LAKE_`.

    What is unset follows the store's own conventions: the `AWS_*` variables, a profile, or the role of the machine.
    """

    model_config = SettingsConfigDict(env_prefix=_PREFIX, frozen=True, extra="ignore")

    endpoint: str | None = None
    """URL of the store, `http://host:port` or `https://host`; unset means Amazon's."""
    region: str | None = None
    """Region of the bucket."""
    access_key_id: str | None = None
    """The principal."""
    secret_access_key: SecretStr | None = None
    """Its key; never printed."""
    session_token: SecretStr | None = None
    """Its session, where there is one; never printed."""

    @classmethod
    def load(cls) -> StorageSettings:
        """Read the environment.

        Raises:
            SettingsError: The variables cannot be used; the message names them.
        """
        try:
            read = cls()
        except ValidationError as error:
            faults = "; ".join(f"{_PREFIX}{str(each['loc'][0]).upper()}: {each['msg']}" for each in error.errors())
            raise SettingsError(f"{faults}. Mend or unset the variable.") from error
        if (read.access_key_id is None) != (read.secret_access_key is None):
            raise SettingsError(
                f"{_PREFIX}ACCESS_KEY_ID and {_PREFIX}SECRET_ACCESS_KEY belong together: set both, or neither."
            )
        if read.endpoint is not None and "://" not in read.endpoint:
            raise SettingsError(f"{_PREFIX}ENDPOINT is {read.endpoint!r}, not a URL such as https://s3.example.com.")
        return read

    @property
    def options(self) -> dict[str, str]:
        """The same in the words of delta-rs and polars, secrets in the clear."""
        said = {
            "aws_endpoint": self.endpoint,
            "aws_region": self.region or ("us-east-1" if self.endpoint is not None else None),
            "aws_access_key_id": self.access_key_id,
            "aws_secret_access_key": _clear(self.secret_access_key),
            "aws_session_token": _clear(self.session_token),
            # A commit is a file that must not be there yet: the store has to refuse the second one.
            "aws_conditional_put": "etag",
        }
        if self.endpoint is not None and self.endpoint.startswith("http://"):
            said["aws_allow_http"] = "true"
        return {name: value for name, value in said.items() if value is not None}


def is_remote(root: str) -> bool:
    """Whether a lake lies on object storage."""
    return "://" in root


def options_of(root: str) -> dict[str, str] | None:
    """What it takes to get into a lake; None for a folder.

    Raises:
        SettingsError: The settings cannot be used, or the root names a store of another kind.
    """
    if not is_remote(root):
        return None
    if not root.startswith(("s3://", "s3a://")):
        raise SettingsError(
            f"the lake root {root} is neither a folder nor s3://BUCKET/PATH. Set STAGEKEEPER_LAKE_ROOT to one of them."
        )
    return StorageSettings.load().options


def files_of(root: str, table: str, options: Mapping[str, str] | None) -> pafs.FileSystem:
    """The files of one table, by their paths within it."""
    if is_remote(root):
        return pafs.PyFileSystem(DeltaStorageHandler(f"{root}/{table}", dict(options or {})))
    return pafs.SubTreeFileSystem(str(Path(root, table)), pafs.LocalFileSystem())


def _clear(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()
