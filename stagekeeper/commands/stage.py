"""`stagekeeper stage`: which stage every action has, who says so, and how a person changes it, on record."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import click

from producers.boundary.flagd_stages import FlagdStages
from producers.boundary.policy_flags import ATTEMPT
from producers.boundary.stage_store import RUNGS, ActionName, StageChange, StageSetting
from producers.errors import StagekeeperError, UsageError
from producers.wire.events import PolicyChangedData
from producers.wire.stage import MODE_OF_STAGE, STAGE_OF_MODE, STOPPED, Mode, Stage
from stagekeeper.commands import CommandGroup
from stagekeeper.commands.options import (
    NAME,
    StageName,
    action_options,
    actor_options,
    flags_option,
    gates_option,
    json_option,
    lake_option,
    lake_root,
    print_json,
    require_lake,
    say,
    stages,
    together,
)
from stagekeeper.factory import recording, ruleset_sha256
from stagekeeper.settings import Settings
from stagekeeper.stage_moves import (
    SOURCE,
    Grounds,
    StageWish,
    change_stage,
    in_words,
    is_upward,
    mode_in_words,
    stage_facts,
)
from stagekeeper.stage_preview import preview_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from analytics.enactment.mode_changes import ModeChange
    from analytics.verdicts.signoffs import SignOff
    from producers.boundary.stage_writer import StageStep, StageWriter

_TRIES: Final = 10  # how often a change that nobody has looked at is made for what somebody else just wrote

_filter_options = together(
    click.option("--environment", type=NAME, help="Only actions of this environment."),
    click.option("--workflow", type=NAME, help="Only actions of this workflow."),
    click.option("--tool", type=NAME, help="Only actions of this tool."),
)
_change_options = together(
    actor_options,
    click.option("--yes", is_flag=True, help="Do not ask."),
    flags_option,
    gates_option,
    lake_option,
    json_option,
)


@click.group(cls=CommandGroup)
def command() -> None:
    """See which stage every action has, and who says so; change it, and begin attempts.

    \b
    Examples:
      stagekeeper stage show
      stagekeeper stage set --environment production --workflow refunds --tool issue_refund \\
          --to draft_write --as maria --because "odd refunds since this morning"
      stagekeeper stage history --tool issue_refund
      stagekeeper stage revert --environment production --workflow refunds --tool issue_refund \\
          --as maria --because "it was the billing deploy"
    """


@command.command()
@_filter_options
@flags_option
@lake_option
@json_option
def show(flag_path: Path | None, root: str | None, *, as_json: bool, **named: str | None) -> None:
    """Print the stage and the attempt of every action, who says so, and the newest change on record.

    These are the actions with an entry in the flag store, those that the lake knows, and the one that is named in full.

    \b
    Examples:
      stagekeeper stage show
      stagekeeper stage show --environment production --workflow refunds --tool issue_refund --json
    """
    store, (seen, changes) = stages(flag_path), _from_lake(root)
    if all(named.values()):
        seen = [*seen, ActionName(**{name: str(value) for name, value in named.items()})]
    wanted = {name: value for name, value in named.items() if value is not None}
    settings = [one for one in store.settings(seen) if wanted.items() <= one.action._asdict().items()]
    rows = [_shown(setting, changes) for setting in settings]
    if as_json:
        print_json({**_where(store), "version": next((one.version for one in settings), None), "stages": rows})
        return
    if not rows:
        click.echo(f"No action has a stage of its own in {store.name}, and the lake knows none that was asked for.")
    for row in rows:
        say(*_stage_lines(row))


@command.command("set")
@action_options
@click.option("--to", "to_stage", required=True, type=StageName(), help="The stage that it is to have.")
@click.option(
    "--share",
    type=click.Choice([str(share) for share in RUNGS]),
    help="With progressive_expansion: for so many percent of accounts; the others have narrow_autonomy.",
)
@_change_options
def set_stage(*, to_stage: str, share: str | None, environment: str, workflow: str, tool: str, **options: Any) -> None:  # noqa: ANN401 - as `_change_options` declares them
    """Change the stage of an action, in somebody's name.

    The change is shown first, and asked for; without a terminal it needs --yes. Up it goes one stage, where the verdict
    promotes it there or an override is in force, as `stagekeeper gate check` says. Down it always goes: neither a lake
    nor a broker is needed.

    \b
    Exit codes:
      0           done, or it has that stage already
      1           it cannot be: the file is another by now, or cannot be written
      2           usage
      3           done, and that is not on record
      10, 20, 30  it may not move up: as `stagekeeper gate check`

    \b
    Examples:
      stagekeeper stage set --environment production --workflow refunds --tool issue_refund \\
          --to draft_write --as maria --because "odd refunds since this morning"
      stagekeeper stage set --environment production --workflow refunds --tool issue_refund \\
          --to narrow_autonomy --as maria --because "two weeks without an undo" --yes
      stagekeeper stage set --environment production --workflow refunds --tool issue_refund \\
          --to progressive_expansion --share 5 --as maria --because "a month without an undo"
    """
    action, percent = ActionName(environment, workflow, tool), None if share is None else int(share)
    _change(action, MODE_OF_STAGE[Stage(to_stage)], share=percent, **options)


@command.command()
@_filter_options
@flags_option
@lake_option
@json_option
def history(flag_path: Path | None, root: str | None, *, as_json: bool, **named: str | None) -> None:
    """Print who changed stages, from what to what, and why, newest first.

    Without a lake these are the changes that the store remembers: a flag file by the versions that are kept beside it,
    Unleash and FeatBit by their own logs.

    \b
    Examples:
      stagekeeper stage history
      stagekeeper stage history --environment production --workflow refunds --tool issue_refund --json
    """
    store, (_, changes) = stages(flag_path), _from_lake(root)
    known = map(_step_facts, store.steps()) if changes is None else (change.to_dict() for change in changes)
    # A change that names less than an action is about every action that has what it names.
    rows = [row for row in known if all(row[name] in {None, value} for name, value in named.items() if value)]
    if as_json:
        print_json(rows)
        return
    if not rows:
        click.echo("No change of a stage is known.")
    for row in rows:
        say(_change_line(row))


@command.command()
@action_options
@_change_options
def revert(*, environment: str, workflow: str, tool: str, **options: Any) -> None:  # noqa: ANN401 - as `_change_options` declares them
    """Give an action the stage back that it had before the last change; up only as with `stage set`.

    \b
    Examples:
      stagekeeper stage revert --environment production --workflow refunds --tool issue_refund \\
          --as maria --because "it was the billing deploy"
    """
    action = ActionName(environment, workflow, tool)
    store = stages(options["flag_path"])
    now = store.read(action)
    last = next((step.before for step in store.steps() if step.after.action == action), None)
    share = None if last is None else last.share
    earlier = None if last is None else last.modes[0] if share is not None else last.mode
    if earlier is None:
        _, changes = _from_lake(options["root"])
        about = [one.data for one in changes or () if one.is_about(action) and one.data.after == in_words(now)]
        earlier = next((Mode(one.before) for one in about if one.before in set(Mode)), None)
    if earlier is None:
        raise UsageError(
            f"no earlier stage of {action} is known to {store.name} or in the lake, or not as one stage; name the "
            "stage with `stagekeeper stage set`"
        )
    _change(action, earlier, share=share, **options)


@command.command()
@action_options
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
    # Whoever only moves actions down needs no extra `analytics`.
    from analytics.verdicts import signoffs  # noqa: PLC0415

    settings, lake = Settings.load(), require_lake(root)
    action = ActionName(**named)
    signed: list[SignOff] = []  # one for each try: somebody else may write the file at the same moment

    def keep(before: int, number: int, flags_sha256: str) -> None:
        signed.append(signoffs.start_attempt(lake, action, number, actor=actor, reason=reason, now=datetime.now(UTC)))
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
            signoff_id=signed[-1].signoff_id,
        )
        recorder.policy_changed(change, durable=True)

    store = stages(flag_path)
    with recording(settings, SOURCE) as recorder:  # it waits for the broker when nobody waits for the store
        number = store.start_attempt(action, earlier=signoffs.attempts_started(lake, action), before_write=keep)
    if as_json:
        print_json({"attempt": number, "signoff_id": signed[-1].signoff_id, **action._asdict(), **_where(store)})
    else:
        click.echo(f"attempt {number} of {action} begins, signed off by {actor} ({signed[-1].signoff_id})")


def _change(
    action: ActionName,
    to: Mode,
    *,
    share: int | None,
    actor: str,
    reason: str,
    yes: bool,
    flag_path: Path | None,
    gate_path: Path | None,
    root: str | None,
    as_json: bool,
) -> None:
    settings, store = Settings.load(), stages(flag_path)

    def show(before: StageSetting, diff: str) -> None:
        click.echo(diff, err=as_json)
        if lifted := [mode.value for mode in before.modes if mode in STOPPED - {to}]:
            click.echo(f"It lifts the mode {' or '.join(lifted)}, by which {action} was stopped.", err=as_json)
        if not yes or is_upward(before, to, share):  # nothing holds up a change downwards that nobody looks at
            change = StageChange(action, to, before.version, share)
            click.echo(preview_line(store, change, settings, lake_root(root)), err=as_json)

    moved = change_stage(
        store,
        StageWish(action, to, share, actor, reason),
        settings,
        grounds_of=lambda before: _grounds(before, to, settings, root, gate_path),
        show=show,
        agree=lambda before: None if yes else _ask(action, before, mode_in_words(to, share)),
        tries=_TRIES if yes else 1,
    )
    before, after, diff, grounds = moved
    covered = f" {action} is covered by an emergency, and falls back until that is resumed." if after.emergency else ""
    words = STAGE_OF_MODE[to].value + (f" for {share} % of accounts" if share is not None else "")
    if as_json:
        facts = {"changed": bool(diff), "before": in_words(before), "after": mode_in_words(to, share), "diff": diff}
        print_json({**stage_facts(after), **facts, **grounds._asdict(), **_where(store)})
    elif diff:
        click.echo(f"{action} has the stage {words} now (before: {in_words(before)}).{covered}")
    else:
        click.echo(f"{action} has the stage {words} already.{covered}")


def _grounds(before: StageSetting, to: Mode, settings: Settings, root: str | None, gate_path: Path | None) -> Grounds:
    from stagekeeper.stage_records import grounds_for  # noqa: PLC0415 - needs the extra `analytics`

    return grounds_for(before, STAGE_OF_MODE[to], settings=settings, root=lake_root(root), gate_path=gate_path)


def _ask(action: ActionName, before: StageSetting, to: str) -> None:
    if not sys.stdin.isatty():
        raise UsageError("there is no terminal to ask on, and nothing was changed; add --yes")
    click.confirm(f"Change {action} from {in_words(before)} to {to}?", abort=True, err=True)


def _from_lake(root: str | None) -> tuple[list[ActionName], list[ModeChange] | None]:
    """The actions and the changes of modes that the lake knows; none, and None, where there is no lake to be read."""
    try:
        from analytics.enactment.mode_changes import mode_changes  # noqa: PLC0415 - needs the extra `analytics`
        from analytics.lake.tables import Lake  # noqa: PLC0415 - as above
        from stagekeeper.stage_records import actions_seen  # noqa: PLC0415 - as above

        lake = Lake.existing(lake_root(root))
        return ([], None) if lake is None else (actions_seen(lake), mode_changes(lake))
    except (ImportError, StagekeeperError) as error:
        click.echo(f"What is on record is not known: {error}", err=True)
        return [], None


def _where(store: StageWriter) -> dict[str, str]:
    return {"store": store.name, **({"file": store.name} if isinstance(store, FlagdStages) else {})}


def _step_facts(step: StageStep) -> dict[str, Any]:
    return {
        "at": step.at.isoformat().replace("+00:00", "Z"),
        **step.after.action._asdict(),
        "before": in_words(step.before),
        "after": in_words(step.after),
        "version": step.after.version,
    }


def _shown(setting: StageSetting, changes: Iterable[ModeChange] | None) -> dict[str, Any]:
    newest = next((change for change in changes or () if change.is_about(setting.action)), None)
    return {**stage_facts(setting), "newest_change": None if newest is None else newest.to_dict()}


def _stage_lines(row: dict[str, Any]) -> Iterator[str]:
    action = ActionName(*(row[name] for name in ActionName._fields))
    stage = row["stage"] or f"no one stage ({row['in_words']})"
    by = "an entry" if row["said_by"] == "entry" else "other targeting"
    falls_back = "; EMERGENCY: falls back" if row["emergency"] else ""
    yield f"{action}  {stage}, attempt {row['attempt']}, by {by}{falls_back}"
    if (newest := row["newest_change"]) is not None:
        in_force = newest["environment"] is None or newest["after"] == row["in_words"]
        yield f"  on record: {_change_line(newest)}{'' if in_force else ' (NOT IN FORCE)'}"


def _change_line(row: dict[str, Any]) -> str:
    scope = [row[name] for name in ActionName._fields]
    action = "/".join(scope) if all(scope) else ", ".join(filter(None, scope)) or "everything"
    because = f" by {row['changed_by']}: {row['reason']}" if "changed_by" in row else " (as the store remembers)"
    led_by = f" (verdict {row['verdict_id']})" if row.get("verdict_id") else ""
    return f"{row['at']}  {action}  {row['before']} → {row['after']}{because}{led_by}"
