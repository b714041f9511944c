"""`stagekeeper signals`: the numbers of every cell."""

from __future__ import annotations

import json

import click

from analytics.report import build_report
from stagekeeper.commands import tables
from stagekeeper.commands.options import existing_lake
from stagekeeper.settings import Settings


@click.command("signals")
@click.option("--lake", "root", metavar="ROOT", help="Root of the lake; the configured one by default.")
@click.option("--json", "as_json", is_flag=True, help="Print signals, verdicts and rejects as one JSON object.")
def command(root: str | None, *, as_json: bool) -> None:
    """Print the signals of every cell: how much was seen, and the rates, latencies and costs.

    A rate without trials is shown as -, and is null in the JSON object.

    \b
    Examples:
      stagekeeper signals
      stagekeeper signals --lake ./lake
      stagekeeper signals --json | jq '.signals[] | {tool, stage, rates}'
    """
    where = root if root is not None else Settings.load().lake
    lake = existing_lake(where)
    report = build_report(lake)
    if as_json:
        click.echo(json.dumps(report, indent=2, ensure_ascii=False))
        return
    if report["signals"]:
        click.echo(tables.show(tables.signals_table(report["signals"])))
    elif lake is None:
        click.echo(tables.no_lake_line(where))
    else:
        click.echo(f"The lake at {where} holds no events yet. Emit some, for example with `stagekeeper simulate`.")
    click.echo(tables.rejects_line(report["rejects"]))
