"""`stagekeeper checklist`: ten points that must hold before an action reaches production."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click

from stagekeeper.checklist.configuration import authorization_point, flag_points
from stagekeeper.checklist.recorded_events import event_points, flow_point, recent_decisions
from stagekeeper.commands.options import Duration, existing_lake, json_option, print_json
from stagekeeper.doctor.check_result import exit_code
from stagekeeper.settings import Settings

if TYPE_CHECKING:
    from stagekeeper.checklist.point import Point

_SETTLED = timedelta(minutes=5)  # a permitted action has its result by then


@click.command()
@click.option("--since", type=Duration(), default="24h", show_default=True, help="How far back to look at events.")
@click.option("--workflow", help="Look at the events of this workflow only.")
@click.option("--tool", help="Look at the events of this tool only.")
@json_option
def command(since: timedelta, workflow: str | None, tool: str | None, *, as_json: bool) -> None:
    """Check the ten points against the configured files and the recent events in the lake.

    Exit code 0: all points pass. 1: at least one fails. 3: none fails, and at least one is unknown.

    \b
    Examples:
      stagekeeper checklist
      stagekeeper checklist --workflow refunds --tool issue_refund --since 7d --json
    """
    now = datetime.now(UTC)
    points = check(Settings.load(), now=now, since=since, workflow=workflow, tool=tool)
    if as_json:
        print_json([point._asdict() for point in points])
    else:
        for point in points:
            click.echo(f"{point.number:>2} {point.state.value:<8}{point.title}: {point.evidence}")
    sys.exit(exit_code(point.state for point in points))


def check(
    settings: Settings, *, now: datetime, since: timedelta, workflow: str | None = None, tool: str | None = None
) -> list[Point]:
    """Check all ten points, in order."""
    lake = existing_lake(settings.lake)
    recent = None if lake is None else recent_decisions(lake, since=now - since, workflow=workflow, tool=tool)
    points = [
        *flag_points(settings.flags, today=now.date()),
        authorization_point(settings.authorization, recent.environments if recent is not None else ()),
        *event_points(recent, now=now, settled_after=_SETTLED, protected=settings.signing_key is not None),
        flow_point(recent, now=now, settings=settings),
    ]
    return sorted(points)
