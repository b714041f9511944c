"""Which lake a command reads."""

from __future__ import annotations

from analytics.lake.tables import Lake
from producers.errors import UsageError
from stagekeeper.settings import Settings


class NoLakeError(UsageError):
    """There is no lake where a command looks for one."""


def configured_lake(root: str | None) -> Lake:
    """Open the lake that was named, or the configured one.

    Raises:
        NoLakeError: There is none yet.
        LakeError: It cannot be read.
    """
    where = root if root is not None else Settings.load().lake
    lake = Lake.existing(where)
    if lake is None:
        raise NoLakeError(
            f"there is no lake at {where} yet; start everything with `stagekeeper up`, or name another with --lake ROOT"
        )
    return lake
