"""Options, argument types and lookups that several commands share."""

from __future__ import annotations

import json
import math
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from analytics.moments import UnusableMomentError, in_utc
from analytics.text import printable
from producers.errors import UsageError
from producers.strict_yaml import suggest
from producers.wire.stage import LADDER
from stagekeeper.commands import READ_LAKE
from stagekeeper.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from analytics.lake.tables import Lake
    from producers.boundary.stage_writer import StageWriter

    Decorator = Callable[[Callable[..., None]], Callable[..., None]]

_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_LONGEST: Final = timedelta(days=365_000)  # from now on, or before it, it leads to a date


class Duration(click.ParamType):
    """A number and its unit, such as `45s`, `10m`, `2h` or `1d`, as a `timedelta`."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        if isinstance(value, timedelta):
            return value
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", str(value).strip())
        if match is None:
            self.fail(f"{value!r} is not a duration; write for example 45s, 10m, 2h or 1d", param, ctx)
        try:
            duration = timedelta(**{_UNITS[match[2]]: float(match[1])})
        except OverflowError:
            duration = timedelta.max
        if duration > _LONGEST:
            self.fail(f"{value!r} is longer than the {_LONGEST.days:,} days that can be counted", param, ctx)
        return duration


class Moment(click.ParamType):
    """A moment in ISO 8601; UTC where it has no offset."""

    name = "moment"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        try:
            moment = datetime.fromisoformat(str(value))
        except ValueError:
            self.fail(f"{value!r} is not a moment; write for example 2026-03-14T12:00:00Z", param, ctx)
        try:
            return in_utc(moment.replace(tzinfo=moment.tzinfo or UTC))
        except UnusableMomentError as error:
            self.fail(str(error), param, ctx)


class FiniteRange(click.FloatRange):
    """A finite number within a range; `nan` lies in no range, and click's own lets it through."""

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number


class StageName(click.ParamType):
    """A stage of the ladder; a misspelt one is refused with a suggestion."""

    name = "stage"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        stages = [stage.value for stage in LADDER]
        if value not in stages:
            self.fail(f"unknown stage `{value}`: {suggest(str(value), stages)}", param, ctx)
        return str(value)


class RecordedText(click.ParamType):
    """Text that stays on record: not blank, valid UTF-8, within `max_length` characters, and `one_line` if asked."""

    def __init__(self, name: str, max_length: int, *, one_line: bool = True) -> None:
        self.name, self._max_length, self._one_line = name, max_length, one_line

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        if not text.strip():
            self.fail("it is blank, and stays on record: say it in words", param, ctx)
        if len(text) > self._max_length:
            self.fail(f"it has {len(text):,} characters; the record has room for {self._max_length:,}", param, ctx)
        if self._one_line and any(character < " " or character == "\x7f" for character in text):
            self.fail("it holds a control character, such as a line break", param, ctx)
        if any("\ud800" <= character <= "\udfff" for character in text):
            self.fail("it is not valid text in UTF-8", param, ctx)
        return text


def together(*decorators: Decorator) -> Decorator:
    """Several options as one decorator, shown by `--help` in the order given."""

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


def _named(_context: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    """Refuse a name of nothing, such as an unset variable of a shell gives: it would be the working folder."""
    if value is not None and not value.strip():
        raise click.BadParameter("it names nothing; leave it out for the configured lake")
    return value


json_option: Final = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
lake_option: Final = click.option(
    "--lake", "root", metavar="ROOT", callback=_named, help="Root of the lake; the configured one by default."
)
_FILE: Final = click.Path(path_type=Path, dir_okay=False)
gates_option: Final = click.option("--gates", "gate_path", type=_FILE, help="Gate file; the configured one by default.")
flags_option: Final = click.option(
    "--flags", "flag_path", type=_FILE, help="Flag file; the configured store by default."
)
NAME: Final = RecordedText("name", 200)  # as `wire.model.Name`
_REASON: Final = RecordedText("why", 4_000, one_line=False)
actor_options: Final = together(
    click.option("--as", "actor", type=RecordedText("who", 200), required=True, help="Who, e.g. an e-mail address."),
    click.option("--because", "reason", type=_REASON, required=True, help="Why; it stays on record."),
)
action_options: Final = together(
    click.option("--environment", type=NAME, required=True, help="Environment of the action's target."),
    click.option("--workflow", type=NAME, required=True, help="Workflow of the action."),
    click.option("--tool", type=NAME, required=True, help="Tool of the action."),
)
move_options: Final = together(
    action_options,
    click.option("--to", "to_stage", required=True, type=StageName(), help="The stage that it should move to."),
    click.option("--cohort", type=NAME, help="One segment of the roll-out; all of them by default."),
)


def print_json(value: object) -> None:
    """Print a JSON document for other programs."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    click.echo(re.sub("[\x7f-\x9f]", lambda mark: f"\\u{ord(mark[0]):04x}", text))  # as JSON has the others


def say(*lines: str, err: bool = False) -> None:
    """Print lines, none of which can do anything else to a terminal, whoever wrote what is in them."""
    for line in lines:
        click.echo(printable(line), err=err)


class NoLakeError(UsageError):
    """There is no lake where a command looks for one."""


def existing_lake(root: str | None) -> Lake | None:
    """Open the lake that was named, or the configured one; None where there is none yet. Raises `LakeError`.

    Its root is noted for the error message, should reading it fail later.
    """
    # The import is deferred for commands that need no lake, and so not the extra `analytics`.
    from analytics.lake.tables import Lake  # noqa: PLC0415

    root = lake_root(root)
    if (context := click.get_current_context(silent=True)) is not None:
        context.meta[READ_LAKE] = root
    return Lake.existing(root)


def require_lake(root: str | None) -> Lake:
    """Open the lake that was named, or the configured one; raises `NoLakeError` where there is none yet."""
    lake = existing_lake(root)
    if lake is None:
        raise NoLakeError(no_events(None, root))
    return lake


def stages(flag_path: Path | None) -> StageWriter:
    """The store of stages that was named or configured, until the command ends. Raises `SettingsError`."""
    from stagekeeper.stage_stores import open_stages  # noqa: PLC0415 - few commands need one

    store = open_stages(Settings.load(), flag_path)
    if (context := click.get_current_context(silent=True)) is not None:
        context.call_on_close(store.close)
    return store


def lake_root(root: str | None) -> str:
    """The root that was named, or the configured one."""
    return root if root is not None else Settings.load().lake


def no_events(lake: Lake | None, root: str | None) -> str:
    """What to do where a lake is empty, or where there is none."""
    if lake is not None:
        return f"The lake at {lake.root} holds no events yet. Emit some, for example with `stagekeeper simulate`."
    start = "Start everything with `stagekeeper up`, or name another with --lake ROOT."
    return f"There is no lake at {lake_root(root)} yet. {start}"
