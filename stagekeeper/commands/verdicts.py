"""`stagekeeper verdicts`: the latest verdict on every cell."""

from __future__ import annotations

import json

import click

from analytics.lake.tables import Lake
from analytics.report import build_report
from stagekeeper import tables
from stagekeeper.settings import Settings


@click.command("verdicts")
@click.option("--lake", "root", metavar="ROOT", help="Root of the lake; the configured one by default.")
@click.option("--json", "as_json", is_flag=True, help="Print signals, verdicts and rejects as one JSON object.")
def command(root: str | None, *, as_json: bool) -> None:
    """Print the latest verdict on every cell, most urgent first, with its reasons in numbers.

    \b
    Examples:
      stagekeeper verdicts
      stagekeeper verdicts --json | jq '.verdicts[] | {tool, stage, verdict, summary}'
    """
    where = root if root is not None else Settings.load().lake
    lake = Lake.existing(where)
    report = build_report(lake)
    if as_json:
        click.echo(json.dumps(report, indent=2, ensure_ascii=False))
        return
    if report["verdicts"]:
        click.echo(tables.show(tables.verdicts_table(report["verdicts"])))
    elif lake is None:
        click.echo(
            f"There is no lake at {where} yet. Start everything with `stagekeeper up`, "
            "or name another lake with --lake ROOT."
        )
    elif report["signals"]:
        click.echo(
            "Nothing was judged yet, although there are signals. Check that the worker runs, "
            "and that STAGEKEEPER_GATE_FILE names a gate file that it can read."
        )
    else:
        click.echo(f"The lake at {where} holds no events yet. Emit some, for example with `stagekeeper simulate`.")
    click.echo(tables.rejects_line(report["rejects"]))
