"""Which lake a command reads."""

from __future__ import annotations

import click

from analytics.lake.tables import Lake
from producers.errors import UsageError
from stagekeeper.commands import READ_LAKE
from stagekeeper.settings import Settings


class NoLakeError(UsageError):
    """There is no lake where a command looks for one."""


def existing_lake(root: str) -> Lake | None:
    """Open a lake that may not exist yet, and note it for whoever has to explain why it could not be read.

    Raises:
        LakeError: It cannot be read.
    """
    if (context := click.get_current_context(silent=True)) is not None:
        context.meta[READ_LAKE] = root
    return Lake.existing(root)


def configured_lake(root: str | None) -> Lake:
    """Open the lake that was named, or the configured one.

    Raises:
        NoLakeError: There is none yet.
        LakeError: It cannot be read.
    """
    where = root if root is not None else Settings.load().lake
    lake = existing_lake(where)
    if lake is None:
        raise NoLakeError(
            f"there is no lake at {where} yet; start everything with `stagekeeper up`, or name another with --lake ROOT"
        )
    return lake
