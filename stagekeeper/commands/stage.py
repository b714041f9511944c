"""`stagekeeper stage`: try an action anew, on record."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from analytics.verdicts.signoffs import attempts_started
from analytics.verdicts.signoffs import start_attempt as sign_attempt
from producers.boundary.flagd_attempts import start_attempt
from producers.boundary.policy_flags import ATTEMPT
from producers.boundary.stage_store import ActionName
from producers.wire.events import PolicyChangedData
from stagekeeper.commands import CommandGroup
from stagekeeper.commands.options import (
    actor_options,
    flags_option,
    json_option,
    lake_option,
    print_json,
    require_lake,
)
from stagekeeper.factory import recording, ruleset_sha256
from stagekeeper.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

    from analytics.verdicts.signoffs import SignOff


@click.group(cls=CommandGroup)
def command() -> None:
    """Begin attempts of actions.

    \b
    Examples:
      stagekeeper stage attempt --environment production --workflow refunds --tool issue_refund \\
          --as maria --because "refunds are idempotent since 4.2"
    """


@command.command()
@click.option("--environment", required=True, help="Environment of the action's target.")
@click.option("--workflow", required=True, help="Workflow of the action.")
@click.option("--tool", required=True, help="Tool of the action.")
@actor_options
@flags_option
@lake_option
@json_option
def attempt(
    flag_path: Path | None,
    root: str | None,
    actor: str,
    reason: str,
    *,
    as_json: bool,
    **named: str,
) -> None:
    """Begin a new attempt of an action, in somebody's name.

    Evidence is counted afresh from then on: it is a new epoch, in which nothing stands yet. What was decided about the
    attempts before stays as it is. Where a gate has a budget for attempts, a promotion takes more evidence each time.

    \b
    Examples:
      stagekeeper stage attempt --environment production --workflow refunds --tool issue_refund \\
          --as maria --because "refunds are idempotent since 4.2"
    """
    settings, lake = Settings.load(), require_lake(root)
    action = ActionName(**named)
    signed: list[SignOff] = []

    def keep(before: int, number: int, flags_sha256: str) -> None:
        signed.append(sign_attempt(lake, action, number, actor=actor, reason=reason, now=datetime.now(UTC)))
        change = PolicyChangedData(
            flag_key=ATTEMPT.key,
            changed_by=actor,
            reason=reason,
            before=str(before),
            after=str(number),
            environment=action.environment,
            workflow=action.workflow,
            tool=action.tool,
            ruleset_sha256=ruleset_sha256(settings, flags_sha256),
        )
        with recording(settings, "/stagekeeper/stage") as recorder:
            recorder.policy_changed(change, durable=True)

    path = flag_path if flag_path is not None else settings.flags
    number = start_attempt(path, action, earlier=attempts_started(lake, action), before_write=keep)
    if as_json:
        print_json({"attempt": number, "signoff_id": signed[0].signoff_id, **action._asdict(), "file": str(path)})
    else:
        click.echo(f"attempt {number} of {action} begins, signed off by {actor} ({signed[0].signoff_id})")
