"""`stagekeeper gate`: ask whether an action may move to a stage, override a verdict, and lint gate files."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from analytics.gates.gate_file import GateFile
from analytics.gates.lint import ACTIONS_PER_MINUTE
from analytics.gates.lint import lint as lint_file
from analytics.text import duration
from analytics.verdicts.gate_check import GateAnswer, refusal, sign_off
from analytics.verdicts.signoffs import SignOff, SignOffKind, in_force, revoke, signed_off
from producers.errors import StagekeeperError
from stagekeeper.commands import CommandGroup, options
from stagekeeper.gate_question import GateQuestion, ask_gate
from stagekeeper.settings import Settings

signoff_options = options.together(
    options.move_options,
    options.actor_options,
    click.option("--expires", type=options.Duration(), required=True, help="For how long it holds, e.g. 2d."),
    options.gates_option,
    options.lake_option,
    options.json_option,
)
"""The options of whoever rules on a move."""


@click.group(
    "gate", cls=CommandGroup, renamed={"approve": "recommendations accept", "dismiss": "recommendations dismiss"}
)
def command() -> None:
    """Ask whether an action may move to a stage, override a verdict, and check gate files.

    \b
    Examples:
      stagekeeper gate check --environment production --workflow refunds \\
          --tool issue_refund --to narrow_autonomy
      stagekeeper gate lint gates.yaml
    """


@command.command()
@options.move_options
@options.gates_option
@options.lake_option
@click.option("--max-age", type=options.Duration(), help="Oldest evidence that counts, e.g. 10m; only narrows.")
@options.json_option
def check(
    *,
    to_stage: str,
    gate_path: Path | None,
    root: str | None,
    max_age: timedelta | None,
    as_json: bool,
    **action: Any,  # noqa: ANN401 - environment, workflow, tool and cohort, as `move_options` declares them
) -> None:
    """Answer from the ledger whether an action may move to a stage. Only exit code 0 means yes.

    Without --cohort, the worst of all cohorts answers.

    \b
    Exit codes:
      0   promote: every cell directly below is shown safe
      10  hold: not yet; the reasons say what is missing
      20  roll back: harm is evident
      30  no usable verdict: none, invalid, too old, under another gate file, or an error
      2   usage

    \b
    Examples:
      stagekeeper gate check --environment production --workflow refunds \\
          --tool issue_refund --to narrow_autonomy
      stagekeeper gate check --environment production --workflow refunds \\
          --tool issue_refund --to narrow_autonomy --cohort eu --max-age 10m --json
    """
    try:
        settings, root = Settings.load(), options.lake_root(root)
    except StagekeeperError as error:
        answer = refusal("error", str(error), to_stage)
    else:
        question = GateQuestion(to_stage=to_stage, **action)
        answer = ask_gate(question, settings, root=root, gate_path=gate_path, max_age=max_age).answer
    if as_json:
        options.print_json(answer.to_dict())
    else:
        options.say(*_answer_lines(answer))
    sys.exit(answer.exit_code)


class _OverrideGroup(CommandGroup):
    """A group that records an override by itself, and so asks for its options, unless a subcommand comes first."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.obj = args[0] if args and not args[0].startswith("-") else None
        return super().parse_args(ctx, args)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        return [param for param in super().get_params(ctx) if ctx.obj is None or not param.required]


@command.group(cls=_OverrideGroup, invoke_without_command=True)
@signoff_options
@click.pass_context
def override(context: click.Context, /, **signoff: Any) -> None:  # noqa: ANN401 - as `signoff_options` declares them
    """Set aside what holds up a move or has rolled it back, for a while, in somebody's name.

    It holds for the verdicts as they stand now: once one says something else, or its epoch or the gate file changes, it
    opens nothing any more. What could not be judged (INVALID) cannot be set aside.

    \b
    Examples:
      stagekeeper gate override --environment production --workflow refunds \\
          --tool issue_refund --to narrow_autonomy --as maria \\
          --because "the incident was a bad deploy of billing, fixed in 4.2" --expires 2d
      stagekeeper gate override list
      stagekeeper gate override revoke 0f3a5c7e9b1d2f48 --as maria --because "it was not the deploy"
    """
    if context.invoked_subcommand is None:
        record_signoff(SignOffKind.OVERRIDE, **signoff)


@override.command("list")
@options.lake_option
@options.json_option
def list_overrides(root: str | None, *, as_json: bool) -> None:
    """List the overrides that are in force, oldest first.

    \b
    Examples:
      stagekeeper gate override list
    """
    signoffs = in_force(options.require_lake(root), now=datetime.now(UTC))
    overrides = [signoff for signoff in signoffs if signoff.kind is SignOffKind.OVERRIDE]
    if as_json:
        options.print_json([signoff.to_dict() for signoff in overrides])
        return
    if not overrides:
        click.echo("No override is in force.")
    for signoff in overrides:
        options.say(f"{signoff.signoff_id}  {'/'.join(signoff.action)} to {signoff.to_stage}: {signed_off(signoff)}")


@override.command("revoke")
@click.argument("override_id")
@options.actor_options
@options.lake_option
@options.json_option
def revoke_override(override_id: str, root: str | None, actor: str, reason: str, *, as_json: bool) -> None:
    """End an override before it expires.

    \b
    Examples:
      stagekeeper gate override revoke 0f3a5c7e9b1d2f48 --as maria --because "it was not the deploy"
    """
    revocation = revoke(options.require_lake(root), override_id, actor=actor, reason=reason, now=datetime.now(UTC))
    print_signoff(revocation, as_json=as_json)


def record_signoff(
    kind: SignOffKind,
    *,
    gate_path: Path | None,
    root: str | None,
    expires: timedelta,
    as_json: bool,
    **move: Any,  # noqa: ANN401 - the move, the actor and the reason, as `signoff_options` declares them
) -> None:
    """Record what a person rules on a move, and print it."""
    gates = GateFile.load(gate_path if gate_path is not None else Settings.load().gates)
    now = datetime.now(UTC)
    print_signoff(
        sign_off(options.require_lake(root), gates, kind, now=now, expires_at=now + expires, **move), as_json=as_json
    )


def print_signoff(signoff: SignOff, *, as_json: bool) -> None:
    """Print a sign-off that was just recorded."""
    if as_json:
        options.print_json(signoff.to_dict())
    else:
        options.say(f"{signoff.kind.value} {signoff.signoff_id} recorded: {signed_off(signoff)}")


@command.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--actions-per-minute",
    type=options.FiniteRange(min=0, min_open=True),
    default=ACTIONS_PER_MINUTE,
    show_default=True,
    help="The traffic that times are stated at.",
)
@options.json_option
def lint(file: Path, *, actions_per_minute: float, as_json: bool) -> None:
    """Find what is unknown, unreachable, contradictory, or promotes anything, and what each limit takes at least.

    \b
    Exit codes: 0 nothing but notes · 1 errors or warnings · 2 usage, or the file cannot be read.

    \b
    Examples:
      stagekeeper gate lint gates.yaml
      stagekeeper gate lint gates.yaml --json | jq '.findings[] | select(.level == "error")'
    """
    issues = lint_file(file, actions_per_minute)
    counts = {level: sum(issue.level == level for issue in issues) for level in ("error", "warning", "note")}
    if as_json:
        options.print_json({"file": str(file), "counts": counts, "findings": [issue.to_dict() for issue in issues]})
    else:
        for issue in issues:
            click.echo(f"{issue.level:<7} {issue.code:<18} {issue.place}: {issue.message}")
        click.echo(f"{file}: {', '.join(f'{count} {level}s' for level, count in counts.items())}.")
    sys.exit(1 if counts["error"] or counts["warning"] else 0)


def _answer_lines(answer: GateAnswer) -> list[str]:
    """The answer for a person: the verdict, the reasons, and what they rest on."""
    move = f"{answer.from_stage} → {answer.to_stage}" if answer.from_stage else f"to {answer.to_stage}"
    lines = [f"{answer.answer.value} ({move})"]
    lines += [f"  {reason.code}: {reason.message}" for reason in answer.reasons]
    if answer.verdict_id is not None:
        age = "of unknown age" if answer.age_s is None else f"{duration(answer.age_s)} old"
        lines.append(f"  verdict {answer.verdict_id}, evidence {age}, lake version {answer.lake_version}")
    if answer.unit is not None:
        lines.append(f"  {answer.unit}")
    lines += [f"  {signoff.kind.value} {signoff.signoff_id}: {signed_off(signoff)}" for signoff in answer.signoffs]
    if answer.gate_sha256 is not None:
        lines.append(f"  gate file sha256 {answer.gate_sha256[:12]}")
    return lines
