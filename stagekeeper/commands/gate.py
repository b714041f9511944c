"""`stagekeeper gate`: ask, from a script, whether an action may move to a stage, and rule on it in a person's name."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from analytics.gates.gate_file import GateFile
from analytics.lake.errors import READ_FAILURES
from analytics.lake.storage import unreadable
from analytics.text import duration
from analytics.verdicts.gate_check import GateAnswer, gate_check, refusal, rule
from analytics.verdicts.messages import ruled
from analytics.verdicts.signoffs import RulingKind
from producers.errors import StagekeeperError
from producers.strict_yaml import suggest
from producers.wire.stage import LADDER
from stagekeeper.commands.options import WHO, WHY, Duration, configured_lake, existing_lake
from stagekeeper.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta

logger = logging.getLogger(__name__)


class _StageName(click.ParamType):
    """A stage of the ladder; a misspelt one is misuse, with a suggestion."""

    name = "stage"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        known = [stage.value for stage in LADDER]
        if value not in known:
            self.fail(f"unknown stage `{value}`: {suggest(str(value), known)}", param, ctx)
        return str(value)


@click.group("gate")
def command() -> None:
    """Ask whether an action may move to a stage.

    \b
    Examples:
      stagekeeper gate check --environment production --workflow refunds \\
          --tool issue_refund --to narrow_autonomy
    """


@command.command("check")
@click.option("--environment", required=True, help="Environment of the action's target.")
@click.option("--workflow", required=True, help="Workflow of the action.")
@click.option("--tool", required=True, help="Tool of the action.")
@click.option("--to", "to_stage", required=True, type=_StageName(), help="The stage that it should move to.")
@click.option("--cohort", help="One segment of the roll-out; all of them by default, and the worst answers.")
@click.option("--gates", "gate_path", type=click.Path(path_type=Path), help="Gate file; the configured one by default.")
@click.option("--lake", "root", metavar="ROOT", help="Root of the lake; the configured one by default.")
@click.option("--max-age", type=Duration(), help="Oldest evidence that counts, e.g. 10m; the gate file's freshness.")
@click.option("--json", "as_json", is_flag=True, help="Print the answer as one JSON object.")
def check(
    *,
    environment: str,
    workflow: str,
    tool: str,
    to_stage: str,
    cohort: str | None,
    gate_path: Path | None,
    root: str | None,
    max_age: timedelta | None,
    as_json: bool,
) -> None:
    """Answer from the ledger whether an action may move to a stage. Only exit code 0 means yes.

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
    where = root
    try:
        settings = Settings.load()
        where = root if root is not None else settings.lake
        gates = GateFile.load(gate_path if gate_path is not None else settings.gates)
        stated_s = settings.freshness_s if "freshness_s" in settings.model_fields_set else gates.freshness_s
        answer = gate_check(
            existing_lake(where),
            gates,
            environment=environment,
            workflow=workflow,
            tool=tool,
            to_stage=to_stage,
            cohort=cohort,
            now=datetime.now(UTC),
            freshness_s=stated_s if max_age is None else max_age.total_seconds(),
        )
    except StagekeeperError as error:
        answer = refusal("error", str(error), to_stage)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        # Whatever breaks, even a panic inside a library, which is no Exception: a gate that was asked answers no.
        logger.debug("the gate could not be asked", exc_info=True)
        said = f"{type(error).__name__}: {error}"
        if where is not None and isinstance(error, READ_FAILURES):
            said = str(unreadable(where, error))
        answer = refusal("error", said, to_stage)
    click.echo(json.dumps(answer.document(), indent=2, ensure_ascii=False) if as_json else _in_words(answer))
    sys.exit(answer.exit_code)


def _about_a_move(command: Callable[..., None]) -> Callable[..., None]:
    """The options of a ruling."""
    for option in reversed(
        (
            click.option("--environment", required=True, help="Environment of the action's target."),
            click.option("--workflow", required=True, help="Workflow of the action."),
            click.option("--tool", required=True, help="Tool of the action."),
            click.option("--to", "to_stage", required=True, type=_StageName(), help="The stage that it may move to."),
            click.option("--cohort", help="One segment of the roll-out; all of them by default."),
            click.option("--as", "actor", type=WHO, required=True, help="Who says so."),
            click.option("--because", "reason", type=WHY, required=True, help="Why."),
            click.option("--expires", type=Duration(), required=True, help="For how long it holds, e.g. 2d."),
            click.option(
                "--gates", "gate_path", type=click.Path(path_type=Path), help="Gate file; the configured one."
            ),
            click.option("--lake", "root", metavar="ROOT", help="Root of the lake; the configured one by default."),
            click.option("--json", "as_json", is_flag=True, help="Print the ruling as one JSON object."),
        )
    ):
        command = option(command)
    return command


@command.command("override")
@_about_a_move
def override(**stated: Any) -> None:  # noqa: ANN401 - click hands over what `_about_a_move` declares
    """Set aside what holds up a move or has rolled it back, for a while, in somebody's name.

    It holds for the verdicts as they stand now: once one says something else, or its epoch or the gate file changes, it
    opens nothing any more. What could not be judged (INVALID) cannot be set aside.

    \b
    Examples:
      stagekeeper gate override --environment production --workflow refunds \\
          --tool issue_refund --to narrow_autonomy --as maria \\
          --because "the incident was a bad deploy of billing, fixed in 4.2" --expires 2d
    """
    _rule(RulingKind.OVERRIDE, **stated)


@command.command("approve")
@_about_a_move
def approve(**stated: Any) -> None:  # noqa: ANN401 - as above
    """Approve a promotion that the evidence allows, where the gate file wants a person's word.

    \b
    Examples:
      stagekeeper gate approve --environment production --workflow refunds \\
          --tool issue_refund --to narrow_autonomy --as maria \\
          --because "reviewed with the payments team" --expires 7d
    """
    _rule(RulingKind.APPROVAL, **stated)


@command.command("dismiss")
@_about_a_move
def dismiss(**stated: Any) -> None:  # noqa: ANN401 - as above
    """Dismiss a recommended promotion for a while: the gate stays shut, and the scorecard counts it as disagreement.

    It holds for the verdict as it stands now. A later approval of the same verdict opens the gate again. A rollback is
    dismissed with `stagekeeper gate override`.

    \b
    Examples:
      stagekeeper gate dismiss --environment production --workflow refunds \\
          --tool issue_refund --to narrow_autonomy --as maria \\
          --because "not before the audit in May" --expires 30d
    """
    _rule(RulingKind.DISMISSAL, **stated)


def _rule(
    kind: RulingKind,
    *,
    gate_path: Path | None,
    root: str | None,
    expires: timedelta,
    as_json: bool,
    **stated: Any,  # noqa: ANN401 - as above
) -> None:
    gates = GateFile.load(gate_path if gate_path is not None else Settings.load().gates)
    now = datetime.now(UTC)
    ruling = rule(configured_lake(root), gates, kind, now=now, expires_at=now + expires, **stated)
    if as_json:
        click.echo(json.dumps(ruling.document(), indent=2, ensure_ascii=False))
        return
    click.echo(f"{kind.value} {ruling.signoff_id} recorded: {ruled(ruling)}")


def _in_words(answer: GateAnswer) -> str:
    """The answer for a person: the word, the reasons, and what they rest on."""
    where = f"{answer.from_stage} → {answer.to_stage}" if answer.from_stage else f"to {answer.to_stage}"
    lines = [f"{answer.answer.value} ({where})"]
    lines += [f"  {reason.code}: {reason.message}" for reason in answer.reasons]
    if answer.verdict_id is not None:
        age = "of unknown age" if answer.age_s is None else f"{duration(answer.age_s)} old"
        lines.append(f"  verdict {answer.verdict_id}, evidence {age}, lake version {answer.lake_version}")
    lines += [f"  {ruling.kind.value} {ruling.signoff_id}: {ruled(ruling)}" for ruling in answer.rulings]
    if answer.gate_sha256 is not None:
        lines.append(f"  gate file sha256 {answer.gate_sha256[:12]}")
    return "\n".join(lines)
