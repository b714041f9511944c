"""`stagekeeper recommendations`: the promotions and rollbacks that were recommended, and a person's answer to them."""

from __future__ import annotations

from typing import Any

import click

from analytics.backtest.recommendation_outcomes import recommendations
from analytics.text import iso
from analytics.verdicts.signoffs import SignOffKind
from stagekeeper.commands.gate import record_signoff, signoff_options
from stagekeeper.commands.options import json_option, lake_option, print_json, require_lake


@click.group("recommendations")
def command() -> None:
    """List the stage changes that were recommended, and accept or dismiss promotions.

    A rollback is dismissed with `stagekeeper gate override`.

    \b
    Examples:
      stagekeeper recommendations list
      stagekeeper recommendations accept --environment production --workflow refunds \\
          --tool issue_refund --to narrow_autonomy --as maria \\
          --because "reviewed with the payments team" --expires 7d
    """


@command.command("list")
@click.option("--all", "show_all", is_flag=True, help="Also those that were accepted, dismissed or superseded.")
@lake_option
@json_option
def list_recommendations(root: str | None, *, show_all: bool, as_json: bool) -> None:
    """List the recommendations that are open, oldest first.

    \b
    Examples:
      stagekeeper recommendations list
      stagekeeper recommendations list --all --json | jq '.[] | {tool, verdict, to_stage, life}'
    """
    listed = [(one, life) for one, life in recommendations(require_lake(root)) if show_all or life == "open"]
    if as_json:
        print_json([{**one.to_dict(), "life": life} for one, life in listed])
        return
    if not listed:
        click.echo("Nothing was recommended yet." if show_all else "No recommendation is open.")
    for one, life in listed:
        environment, workflow, tool, stage, cohort = one.cell
        action = f"{environment}/{workflow}/{tool} ({cohort})"
        click.echo(f"{iso(one.at)}  {one.verdict:<9}  {action}  {stage} → {one.to_stage}  {life}")


@command.command()
@signoff_options
def accept(**signoff: Any) -> None:  # noqa: ANN401 - as `signoff_options` declares them
    """Accept a promotion that the evidence allows, where the gate file asks for a person's approval.

    \b
    Examples:
      stagekeeper recommendations accept --environment production --workflow refunds \\
          --tool issue_refund --to narrow_autonomy --as maria \\
          --because "reviewed with the payments team" --expires 7d
    """
    record_signoff(SignOffKind.APPROVAL, **signoff)


@command.command()
@signoff_options
def dismiss(**signoff: Any) -> None:  # noqa: ANN401 - as above
    """Dismiss a recommended promotion for a while: the gate stays shut, and the scorecard counts it as disagreement.

    It holds for the verdict as it stands now. Accepting the same verdict later opens the gate again. A rollback is
    dismissed with `stagekeeper gate override`.

    \b
    Examples:
      stagekeeper recommendations dismiss --environment production --workflow refunds \\
          --tool issue_refund --to narrow_autonomy --as maria \\
          --because "not before the audit in May" --expires 30d
    """
    record_signoff(SignOffKind.DISMISSAL, **signoff)
