"""Durations on the command line: 45s, 10m, 2h, 1d."""

from __future__ import annotations

import re
from datetime import timedelta

import click

from analytics.lake.tables import Lake
from producers.errors import UsageError
from stagekeeper.commands import READ_LAKE
from stagekeeper.settings import Settings

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class Duration(click.ParamType):
    """A number and its unit, read as a `timedelta`."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """Read `45s`, `10m`, `2h` or `1d`."""
        if isinstance(value, timedelta):
            return value
        read = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", str(value).strip())
        if read is None:
            self.fail(f"{value!r} is not a duration; write for example 45s, 10m, 2h or 1d", param, ctx)
        return timedelta(**{_UNITS[read[2]]: float(read[1])})


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


_WHO = 200
_WHY = 4_000


class Words(click.ParamType):
    """Text that says something and fits the record.

    Args:
        name: What it is, for `--help`.
        longest: Most characters that the record has room for.
        one_line: Whether control characters, such as a line break, are refused.
    """

    def __init__(self, name: str, longest: int, *, one_line: bool) -> None:
        self.name = name
        self._longest = longest
        self._one_line = one_line

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The text; misuse where it is blank, too long, or cannot be written down."""
        text = str(value)
        if not text.strip():
            self.fail("it is blank, and stays on record: say it in words", param, ctx)
        if len(text) > self._longest:
            self.fail(f"it has {len(text):,} characters; the record has room for {self._longest:,}", param, ctx)
        if self._one_line and any(character < " " or character == "\x7f" for character in text):
            self.fail("it holds a control character, such as a line break", param, ctx)
        if any("\ud800" <= character <= "\udfff" for character in text):
            self.fail("it is not valid text in UTF-8", param, ctx)
        return text


WHO = Words("who", _WHO, one_line=True)
WHY = Words("why", _WHY, one_line=False)
