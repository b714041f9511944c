"""`stagekeeper recommendations`: the promotions and rollbacks that were recommended, and a person's answer to them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from analytics.text import iso
from analytics.verdicts.signoffs import SignOffKind
from stagekeeper.commands import CommandGroup
from stagekeeper.commands.gate import record_signoff, signoff_options
from stagekeeper.commands.options import json_option, lake_option, print_json, require_lake, say
from stagekeeper.listed_recommendations import list_recommendations as find_listed

if TYPE_CHECKING:
    from analytics.backtest.recommendation_outcomes import Followed


@click.group("recommendations", cls=CommandGroup)
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
@click.option("--all", "show_all", is_flag=True, help="Also those that nobody has to look at any more.")
@lake_option
@json_option
def list_recommendations(root: str | None, *, show_all: bool, as_json: bool) -> None:
    """List the recommendations that are open, and changes that are not in force, oldest first.

    A star marks those whose verdict the list as a whole believes, among all cells that were judged.

    \b
    Examples:
      stagekeeper recommendations list
      stagekeeper recommendations list --all --json | jq '.[] | {tool, verdict, to_stage, life}'
    """
    listed, marks = find_listed(require_lake(root), now=datetime.now(UTC), show_all=show_all)
    if as_json:
        print_json([one.to_dict() for one in listed])
        return
    if not listed:
        click.echo("Nothing was recommended yet." if show_all else "No recommendation is open.")
    for one, mark, seen, _ in listed:
        said = one.recommendation
        environment, workflow, tool, stage, cohort = said.cell
        action = f"{environment}/{workflow}/{tool} ({cohort})"
        more = [_enacted(one), f"* {mark}" if mark else "", (seen and seen.independence) or ""]
        line = [iso(said.at), f"{said.verdict:<9}", action, f"{stage} → {said.to_stage}", one.life]
        say("  ".join([*line, *filter(None, more)]))
    if listed:
        click.echo(marks.note)


def _enacted(one: Followed) -> str:
    """What was done in the store of stages, in a few words."""
    shown = one.to_dict()
    if one.life == "not in force":
        return f"still decided by the old stage by {', '.join(shown['sources'])}"
    if one.life == "in force":
        routers = "" if one.enactment is None else one.enactment.last.routers
        return f"after {shown['seconds_to_force']:.1f} s at {routers}"
    return f"at {shown['applied_at']}" if one.life == "applied" else ""


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
