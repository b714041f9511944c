"""`stagekeeper verdicts`: the latest verdict on every cell, and the replay of past ones."""

from __future__ import annotations

import click

from analytics.audit.replay import RECORDED, replay
from analytics.report import build_report
from analytics.text import iso
from stagekeeper.commands import CommandGroup, tables
from stagekeeper.commands.options import existing_lake, json_option, lake_option, no_events, print_json, require_lake


@click.group("verdicts", cls=CommandGroup, invoke_without_command=True)
@lake_option
@json_option
@click.pass_context
def command(context: click.Context, root: str | None, *, as_json: bool) -> None:
    """Print the latest verdict on every cell, most urgent first, with its reasons in numbers.

    A star marks what to believe of the list as a whole; the line below it says at which rate of false marks.

    \b
    Examples:
      stagekeeper verdicts
      stagekeeper verdicts --json | jq '.verdicts[] | {tool, stage, verdict, summary}'
      stagekeeper verdicts replay --id 8d3f0a6c1e2b4f57
    """
    if context.invoked_subcommand is not None:
        context.obj = root
        return
    lake = existing_lake(root)
    report = build_report(lake)
    if as_json:
        print_json(report.to_dict())
        return
    if report.verdicts:
        click.echo(tables.show(tables.verdicts_table(report.verdicts, report.marks)))
        click.echo(report.marks.note)
    elif report.signals:
        click.echo(
            "Nothing was judged yet, although there are signals. Check that the worker runs, "
            "and that STAGEKEEPER_GATE_FILE names a gate file that it can read."
        )
    else:
        click.echo(no_events(lake, root))
    click.echo(tables.rejects_line(report.rejects))


@command.command("replay")
@click.option("--id", "verdict_id", required=True, help="The verdict, by its id.")
@lake_option
@json_option
@click.pass_context
def replay_command(context: click.Context, verdict_id: str, root: str | None, *, as_json: bool) -> None:
    """Reach a past verdict again, from the lake version and the gate file that it names.

    Everything must come out bit for bit as the ledger recorded it; only `judged_at` is merely recorded.

    \b
    Exit codes:
      0   the same verdict, to the last digit
      1   it differs, or what it rests on is gone or was changed; the message says what
      2   usage, or there is no such verdict

    \b
    Examples:
      stagekeeper verdicts replay --id 8d3f0a6c1e2b4f57
      stagekeeper verdicts replay --id 8d3f0a6c1e2b4f57 --json | jq .document.signals
    """
    replayed = replay(require_lake(root if root is not None else context.obj), verdict_id)
    document = replayed.document
    if as_json:
        answer = {
            "verdict_id": replayed.verdict_id,
            "matches": True,
            "recorded_only": list(RECORDED),
            "recorded": {"judged_at": iso(replayed.recorded_at)},
            "earlier": list(replayed.earlier),
            "believed": list(replayed.believed),
            "document": document.to_dict(),
        }
        print_json(answer)
        return
    click.echo(f"{document.verdict}: {document.summary}")
    click.echo(
        f"  reached again from lake version {document.lake_version}, gate file {document.gate_sha256[:12]} and "
        f"watermark {iso(document.watermark)}: identical to what was recorded at {iso(replayed.recorded_at)}"
    )
    if replayed.earlier:
        click.echo(f"  with what had crossed before: {', '.join(replayed.earlier)}")
    if replayed.believed:
        click.echo(f"  taken from the ledger, since their evidence is no longer kept: {', '.join(replayed.believed)}")
