"""`stagekeeper policy`: try rules on what was recorded before they decide anything."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from analytics.backtest.candidate_rules import CandidateRules
from analytics.backtest.policy_replay import compare
from analytics.text import iso
from stagekeeper.commands import CommandGroup
from stagekeeper.commands.options import (
    Duration,
    FiniteRange,
    json_option,
    lake_option,
    print_json,
    require_lake,
    say,
)
from stagekeeper.settings import Settings

if TYPE_CHECKING:
    from analytics.backtest.policy_replay import PolicyComparison

_FILE: Final = click.Path(path_type=Path, dir_okay=False)
_SHOWN: Final = 20  # differences that are printed for people


@click.group("policy", cls=CommandGroup)
def command() -> None:
    """Try candidate rules on recorded contracts.

    \b
    Examples:
      stagekeeper policy backtest --flags new.json --authorization new.yaml --since 7d
    """


@command.command("backtest")
@click.option("--flags", "flag_path", type=_FILE, help="Flag file to try; the configured one by default.")
@click.option("--authorization", type=_FILE, help="Authorization file to try; the configured one by default.")
@click.option("--since", type=Duration(), default="7d", show_default=True, help="How far back to look.")
@click.option(
    "--fail-above", type=FiniteRange(0, 100), help="Exit with 1 where more than so many percent would differ."
)
@lake_option
@json_option
def backtest(
    *,
    flag_path: Path | None,
    authorization: Path | None,
    since: timedelta,
    fail_above: float | None,
    root: str | None,
    as_json: bool,
) -> None:
    """Replay recorded contracts through candidate rules: which decisions would have differed from what was decided.

    Each contract is decided by the code that routers run. Where rules look at something that a contract lacks or has
    redacted, and it could change the decision, that is counted as "cannot be said". What was only observed stands as
    what enforcing would have done.

    \b
    Examples:
      stagekeeper policy backtest --flags new.json --authorization new.yaml --since 7d
      stagekeeper policy backtest --flags new.json --json | jq '.differences[] | {tool, before, after, count}'
    """
    settings, lake, now = Settings.load(), require_lake(root), datetime.now(UTC)
    with CandidateRules.opened(flag_path or settings.flags, authorization or settings.authorization) as candidate:
        comparison = compare(lake, candidate, since=now - since, until=now)
        safe = candidate.on_safe_values
    if as_json:
        print_json({**comparison.to_dict(), "flags_on_safe_values": safe})
    else:
        _print(comparison, safe)
    said = comparison.same + comparison.different
    if fail_above is not None and (not said or comparison.different > said * fail_above / 100):
        raise SystemExit(1)


def _print(comparison: PolicyComparison, safe: dict[str, str]) -> None:
    shown = comparison.to_dict()
    for key, why in safe.items():
        click.echo(f"{key}: {why}, so its safe value decides.")
    for row in shown["differences"][:_SHOWN]:
        account = "" if row["account"] is None else f", account {row['account']}"
        action = f"{row['environment']}/{row['workflow']}/{row['tool']}{account}"
        examples = ", ".join(example["decision_id"] for example in row["examples"])
        say(f"{row['count']:>9,}  {action}: {row['before']} → {row['after']}", f"{'':11}such as {examples}")
    if (more := len(shown["differences"]) - _SHOWN) > 0:
        click.echo(f"{'':11}and {more:,} more kinds of difference; --json has them all")
    for would, count in shown["enforcing_would"].items():
        click.echo(f"{count:>9,}  only observed; enforcing would have been: {would}")
    for reason, count in shown["cannot_be_said_because"].items():
        click.echo(f"{count:>9,}  cannot be said: {reason}")
    click.echo(
        f"{shown['different']:,} of {shown['decisions']:,} decisions since {iso(comparison.since)} would differ; "
        f"{shown['same']:,} would not, {shown['observed']:,} were only observed, of {shown['cannot_be_said']:,} it "
        f"cannot be said, and {shown['denied_under_any_rules']:,} were denied for what the call was."
    )
