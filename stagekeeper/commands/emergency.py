"""`stagekeeper emergency`: let actions fall back at once, on record, and take that back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from producers.boundary.flagd_overlays import EMERGENCIES, OverlayScope
from producers.errors import UsageError
from stagekeeper.commands import CommandGroup
from stagekeeper.commands.options import NAME, actor_options, flags_option, json_option, print_json, stages, together
from stagekeeper.overlay_moves import add_overlay, remove_overlay
from stagekeeper.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

_options = together(
    click.option("--everything", is_flag=True, help="Every action."),
    click.option("--workflow", type=NAME, help="Only in this workflow."),
    click.option("--tool", type=NAME, help="Only this tool."),
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
    """Let actions fall back, at once and without asking; it is recorded after it is in force, as is a repetition.

    \b
    Exit codes:
      0  they fall back
      1  they do not: the flag store cannot be read or written
      2  usage
      3  they fall back, and that is not on record: say it again

    \b
    Examples:
      stagekeeper emergency fallback --everything --as maria --because "the agent deletes orders"
      stagekeeper emergency fallback --workflow refunds --tool issue_refund --as maria --because "refunds go out twice"
    """
    scope, settings = _scope(workflow, tool, everything=everything), Settings.load()
    add_overlay(
        EMERGENCIES,
        scope,
        stages(flag_path),
        settings,
        actor=actor,
        reason=reason,
        announce=lambda changed: _say(
            scope, f"falls back{'' if changed else ' already'}", changed=changed, as_json=as_json
        ),
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
    changed = remove_overlay(EMERGENCIES, scope, stages(flag_path), settings, actor=actor, reason=reason)
    _say(scope, "resumes" if changed else "is in no such emergency", changed=changed, as_json=as_json)


def _scope(workflow: str | None, tool: str | None, *, everything: bool) -> OverlayScope:
    scope = OverlayScope(workflow, tool)
    if everything == bool(scope.values):
        raise UsageError("say what it is about: --everything, or --workflow, or --tool, or both of these")
    return scope


def _say(scope: OverlayScope, words: str, *, changed: bool, as_json: bool) -> None:
    if as_json:
        print_json(
            {**scope._asdict(), "everything": not scope.values, "changed": changed, "message": f"{scope} {words}."}
        )
    else:
        click.echo(f"{scope} {words}.")
