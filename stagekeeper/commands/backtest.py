"""`stagekeeper backtest`: try a gate file on history."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from analytics.backtest.compare import Difference, backtest, in_force
from analytics.backtest.history import History, Turn
from analytics.gates.gate_file import GateFile
from analytics.text import iso
from analytics.verdicts.document import VerdictDocument
from stagekeeper.commands.options import Moment, json_option, lake_option, print_json, require_lake

if TYPE_CHECKING:
    from datetime import datetime


_FILE = click.Path(path_type=Path)


@click.command("backtest")
@click.option("--gates", "path", type=_FILE, required=True, metavar="FILE", help="The gate file to try.")
@click.option("--against", type=_FILE, metavar="FILE", help="Compare with this one; by default the last used.")
@click.option("--from", "since", type=Moment(), metavar="MOMENT", help="Begin to look here (event time).")
@click.option("--to", "until", type=Moment(), metavar="MOMENT", help="End here (event time).")
@lake_option
@json_option
def command(
    *, path: Path, against: Path | None, since: datetime | None, until: datetime | None, root: str | None, as_json: bool
) -> None:
    """Run history through another gate file, minute by minute of event time: what would have differed, when and why.

    Both gate files look at every minute; so a difference is a difference of the files, not of when the judge ran.

    \b
    Examples:
      stagekeeper backtest --gates stricter.yaml
      stagekeeper backtest --gates stricter.yaml --from 2026-03-14T00:00:00Z
      stagekeeper backtest --gates stricter.yaml --json | jq '.differences[] | {tool, stage, since}'
    """
    if since is not None and until is not None and since >= until:
        raise click.UsageError(f"--from {iso(since)} must lie before --to {iso(until)}")
    lake, new = require_lake(root), GateFile.load(path)
    old = in_force(lake) if against is None else GateFile.load(against)
    history = History.from_lake(lake)
    if since is not None and since > history.last:
        raise click.UsageError(f"--from {iso(since)}: the history ends at {iso(history.last)}")
    if until is not None and until < history.first:
        raise click.UsageError(f"--to {iso(until)}: the history begins at {iso(history.first)}")
    comparison = backtest(history, old, new, since=since, until=until)
    if as_json:
        print_json(comparison.to_dict())
        return
    for difference in comparison.differences:
        click.echo(_in_words(difference))
    different = len({difference.cell for difference in comparison.differences})
    cells = len(comparison.old.keys() | comparison.new.keys())
    click.echo(
        f"{len(comparison.differences)} differences on {different} of {cells} cells, "
        f"from {iso(comparison.since)} to {iso(comparison.until)}."
    )


def _in_words(difference: Difference) -> str:
    cell = difference.cell
    until = "on" if difference.until is None else f"to {iso(difference.until)}"
    return (
        f"{cell.environment}/{cell.workflow}/{cell.tool} at {cell.stage} ({cell.cohort}), "
        f"from {iso(difference.since)} {until}\n"
        f"  old: {_said(difference.old)}\n  new: {_said(difference.new)}"
    )


def _said(turn: Turn | None) -> str:
    if turn is None:
        return "nothing yet"
    return f"{turn.verdict.result.verdict.value}: {VerdictDocument.from_verdict(turn.verdict).summary}"
