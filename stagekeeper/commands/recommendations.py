"""`stagekeeper recommendations`: the promotions and rollbacks that were recommended, and a person's answer to them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

import click

from analytics.backtest.recommendation_outcomes import Followed, recommendations
from analytics.text import iso
from analytics.verdicts.ledger import latest_verdicts
from analytics.verdicts.list_marks import ListMarks
from analytics.verdicts.signoffs import SignOffKind
from stagekeeper.commands import CommandGroup
from stagekeeper.commands.gate import record_signoff, signoff_options
from stagekeeper.commands.options import json_option, lake_option, print_json, require_lake

_WAITING: Final = frozenset({"open", "not in force"})  # lives that ask for somebody


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
    lake = require_lake(root)
    listed = [one for one in recommendations(lake, now=datetime.now(UTC)) if show_all or one.life in _WAITING]
    latest = {(tuple(document.cell), document.epoch): document for document in latest_verdicts(lake)}
    marks = ListMarks.of_documents(latest.values())
    kinds = marks.kinds
    shown = []
    for one in listed:
        # What was superseded was marked, or not, in a list that nobody sees any more.
        key = (one.recommendation.cell, one.recommendation.epoch)
        document = latest.get(key) if one.life != "superseded" else None
        shown.append((one, None if document is None else kinds.get(document.verdict_id), document))
    if as_json:
        rate = {"false_discovery_rate": marks.false_discovery_rate}
        print_json(
            [
                {**one.to_dict(), "mark": mark, **rate, "unit": None if seen is None else seen.unit}
                for one, mark, seen in shown
            ]
        )
        return
    if not listed:
        click.echo("Nothing was recommended yet." if show_all else "No recommendation is open.")
    for one, mark, seen in shown:
        said = one.recommendation
        environment, workflow, tool, stage, cohort = said.cell
        action = f"{environment}/{workflow}/{tool} ({cohort})"
        more = [_enacted(one), f"* {mark}" if mark else "", (seen and seen.independence) or ""]
        line = [iso(said.at), f"{said.verdict:<9}", action, f"{stage} → {said.to_stage}", one.life]
        click.echo("  ".join([*line, *filter(None, more)]))
    if listed:
        click.echo(marks.note)


def _enacted(one: Followed) -> str:
    """What was done in the store of stages, in a few words."""
    shown = one.to_dict()
    if one.life == "not in force":
        return f"still decided by the old stage by {', '.join(shown['sources'])}"
    if one.life == "in force":
        return f"after {shown['seconds_to_force']:.1f} s, {len(shown['sources'])} source(s) heard"
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
