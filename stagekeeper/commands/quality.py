"""`stagekeeper quality`: validate fresh events, or show what the last validation found."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta

import click

from analytics.audit.quality import QualityRun, latest_quality, run_quality
from stagekeeper.commands import CommandGroup
from stagekeeper.commands.options import Duration, json_option, lake_option, print_json, require_lake


@click.group("quality", cls=CommandGroup)
def command() -> None:
    """Validate recent events, type by type, and keep the result in the lake.

    \b
    Examples:
      stagekeeper quality run --since 1h
      stagekeeper quality show --json

    \b
    Exit codes: 0 all critical expectations hold, or there was nothing to check · 1 some do not · 2 usage.
    """


@command.command("run")
@click.option("--since", type=Duration(), help="How far to look back, e.g. 1h; where the last run stopped by default.")
@json_option
@lake_option
def run(since: timedelta | None, root: str | None, *, as_json: bool) -> None:
    """Validate the fresh events now.

    \b
    Examples:
      stagekeeper quality run
      stagekeeper quality run --since 1h --json
    """
    result = run_quality(require_lake(root), now=datetime.now(UTC), window=since)
    nothing = f"No events since {result.since.isoformat()}: nothing was checked, and nothing is kept."
    _end(result, as_json=as_json, nothing=nothing)


@command.command("show")
@json_option
@lake_option
def show(root: str | None, *, as_json: bool) -> None:
    """Show the last run that is kept.

    \b
    Examples:
      stagekeeper quality show
      stagekeeper quality show --json
    """
    nothing = "No validation has run on this lake yet. Start one with `stagekeeper quality run`."
    _end(latest_quality(require_lake(root)), as_json=as_json, nothing=nothing)


def _end(result: QualityRun | None, *, as_json: bool, nothing: str) -> None:
    """Print a run, or that there is nothing to show, and exit with its code."""
    if as_json:
        print_json(None if result is None else result.to_dict())
    elif result is None or not result.types:
        click.echo(nothing)
    else:
        _print(result)
    if result is not None and not result.success:
        sys.exit(1)


def _print(result: QualityRun) -> None:
    click.echo(f"Run {result.run_id} at {result.run_at.isoformat()}: {'passed' if result.success else 'FAILED'}")
    for suite in result.types:
        state = "passed" if suite.success else "FAILED"
        click.echo(f"  {state}  {suite.event_type}: {suite.checked} of {_events(suite.events)} checked")
        for failure in suite.failed:
            click.echo(
                f"    {failure.severity}: {failure.meaning}: {_events(failure.unexpected)} "
                f"({failure.percent:g} %), {failure.column} {failure.expectation}"
            )
            for example in failure.examples:
                click.echo(f"      {example}")


def _events(count: int) -> str:
    return f"{count:,} event{'' if count == 1 else 's'}"
