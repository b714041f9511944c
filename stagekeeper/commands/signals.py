"""`stagekeeper signals`: the numbers of every cell."""

from __future__ import annotations

import click

from analytics.report import build_report
from stagekeeper.commands import tables
from stagekeeper.commands.options import existing_lake, json_option, lake_option, no_events, print_json


@click.command("signals")
@lake_option
@json_option
def command(root: str | None, *, as_json: bool) -> None:
    """Print the signals of every cell: how much was seen, and the rates, latencies and costs.

    A rate without trials is shown as -, and is null in the JSON object.

    \b
    Examples:
      stagekeeper signals
      stagekeeper signals --lake ./lake
      stagekeeper signals --json | jq '.signals[] | {tool, stage, rates}'
    """
    lake = existing_lake(root)
    report = build_report(lake)
    if as_json:
        print_json(report.to_dict())
        return
    if report.signals:
        click.echo(tables.show(tables.signals_table(report.signals)))
    else:
        click.echo(no_events(lake, root))
    click.echo(tables.rejects_line(report.rejects))
