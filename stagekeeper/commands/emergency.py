"""`stagekeeper emergency`: let actions fall back at once, on record, and take that back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from producers.boundary import flagd_emergency
from producers.boundary.flagd_emergency import EmergencyScope
from producers.boundary.policy_flags import MODE
from producers.errors import UsageError
from producers.wire.events import PolicyChangedData
from producers.wire.stage import Mode
from stagekeeper.commands import CommandGroup
from stagekeeper.commands.options import actor_options, flags_option, json_option, print_json, together
from stagekeeper.factory import ruleset_sha256
from stagekeeper.settings import Settings
from stagekeeper.stage_moves import recorded

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from producers.delivery.recorder import Recorder

_options = together(
    click.option("--everything", is_flag=True, help="Every action."),
    click.option("--workflow", help="Only in this workflow."),
    click.option("--tool", help="Only this tool."),
    actor_options,
    flags_option,
    json_option,
)


@click.group(cls=CommandGroup)
def command() -> None:
    """Let actions fall back at once, whatever their stages are, and take that back.

    An emergency lies above the stages: `resume` takes it away, and what is below decides again, as it is by then.

    \b
    Examples:
      stagekeeper emergency fallback --everything --as maria --because "the agent deletes orders"
      stagekeeper emergency fallback --tool issue_refund --as maria --because "refunds go out twice"
      stagekeeper emergency resume --tool issue_refund --as maria --because "mended in 4.2"
    """


@command.command()
@_options
def fallback(
    workflow: str | None,
    tool: str | None,
    actor: str,
    reason: str,
    flag_path: Path | None,
    *,
    everything: bool,
    as_json: bool,
) -> None:
    """Let actions fall back, at once and without asking; it is recorded after it is in force.

    \b
    Examples:
      stagekeeper emergency fallback --everything --as maria --because "the agent deletes orders"
      stagekeeper emergency fallback --workflow refunds --tool issue_refund --as maria --because "refunds go out twice"
    """
    scope, settings = _scope(workflow, tool, everything=everything), Settings.load()
    path = flag_path if flag_path is not None else settings.flags
    sha256 = flagd_emergency.fall_back(path, scope)
    _say(scope, f"falls back{' already' if sha256 is None else ''}", changed=sha256 is not None, as_json=as_json)
    if sha256 is None:
        return
    # After the fact: nothing may hold up an emergency.
    recorded(
        _record(scope, settings, actor, reason, begins=True),
        settings,
        lambda record: record(sha256),
        what=f"{scope} falls back",
        at_any_rate=True,
    )


@command.command()
@_options
def resume(
    workflow: str | None,
    tool: str | None,
    actor: str,
    reason: str,
    flag_path: Path | None,
    *,
    everything: bool,
    as_json: bool,
) -> None:
    """Take exactly this emergency away: the stages decide again, as they are by now. It is on record first.

    \b
    Examples:
      stagekeeper emergency resume --tool issue_refund --as maria --because "mended in 4.2"
    """
    scope, settings = _scope(workflow, tool, everything=everything), Settings.load()
    path = flag_path if flag_path is not None else settings.flags
    sha256 = recorded(
        _record(scope, settings, actor, reason, begins=False),
        settings,
        lambda record: flagd_emergency.resume(path, scope, before_write=record),
        what=f"the emergency of {scope} is over",
        at_any_rate=False,
    )
    words = "resumes" if sha256 is not None else "is in no such emergency"
    _say(scope, words, changed=sha256 is not None, as_json=as_json)


def _scope(workflow: str | None, tool: str | None, *, everything: bool) -> EmergencyScope:
    scope = EmergencyScope(workflow, tool)
    if everything == bool(scope.values):
        raise UsageError("say what it is about: --everything, or --workflow, or --tool, or both of these")
    return scope


def _record(
    scope: EmergencyScope, settings: Settings, actor: str, reason: str, *, begins: bool
) -> Callable[[Recorder, str], None]:
    words = ("no emergency", f"{Mode.FALLBACK.value} for {scope}")
    before, after = words if begins else words[::-1]

    def record(recorder: Recorder, sha256: str) -> None:
        change = PolicyChangedData(
            flag_key=MODE.key,
            changed_by=actor,
            reason=reason,
            before=before,
            after=after,
            workflow=scope.workflow,
            tool=scope.tool,
            ruleset_sha256=ruleset_sha256(settings, sha256),
        )
        recorder.policy_changed(change, durable=True)

    return record


def _say(scope: EmergencyScope, words: str, *, changed: bool, as_json: bool) -> None:
    if as_json:
        print_json(
            {**scope._asdict(), "everything": not scope.values, "changed": changed, "message": f"{scope} {words}."}
        )
    else:
        click.echo(f"{scope} {words}.")
