"""`stagekeeper maintenance`: compact the lake, roll up, apply retention, vacuum."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click

from analytics.lake.leases import LEASE_S, MAINTENANCE, Lease, holders
from analytics.lake.table_schemas import EVENTS, QUALITY, REJECTS, SIGNALS, VERDICTS
from analytics.lake.tables import Lake
from analytics.maintenance import Maintenance, RetentionPolicy, Step, compact
from producers.errors import UsageError
from stagekeeper.commands.options import gates_option, json_option, lake_option, print_json, require_lake
from stagekeeper.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class MaintenanceElsewhereError(UsageError):
    """Another process maintains this lake at the moment."""


@click.command("maintenance")
@click.option("--dry-run", is_flag=True, help="Change nothing; say what would be done.")
@lake_option
@gates_option
@json_option
def command(root: str | None, gate_path: Path | None, *, dry_run: bool, as_json: bool) -> None:
    """Compact small files, roll old minutes up to hours, take out old rows, and vacuum.

    Workers do the same in the background. One process at a time does it; this command refuses while another one is at
    it, unless it is a dry run. What is kept for how long is said by the settings, see docs/operations.md.

    \b
    Exit codes: 0 done · 1 a step could not be done · 2 usage, or another process is at it.

    \b
    Examples:
      stagekeeper maintenance --dry-run
      stagekeeper maintenance --json
    """
    settings = Settings.load()
    lake = require_lake(root)
    with nullcontext() if dry_run else Lease(lake.root, MAINTENANCE) as lease:
        if lease is not None and not lease.held():
            record = holders(Lake.open(lake.root)).get(MAINTENANCE)
            holder = (record and record.holder) or "another process"
            raise MaintenanceElsewhereError(
                f"{holder} keeps the lake at {lake.root}. Leave it to that one, "
                f"or stop it; if it died, try again in {LEASE_S:.0f} s."
            )
        fence = None if lease is None else lease.fence
        if not dry_run:
            compact(lake, fence=fence)
        maintenance = Maintenance(
            lake, retention_policy(settings), gate_path or settings.gates, fence=fence, dry_run=dry_run
        )
        steps = maintenance.run(datetime.now(UTC))
    if as_json:
        print_json({"dry_run": dry_run, "steps": [step.to_dict() for step in steps]})
    else:
        _print(steps, dry_run=dry_run)
    if any(step.failed for step in steps):
        sys.exit(1)


def retention_policy(settings: Settings) -> RetentionPolicy:
    """The retention policy that is configured."""
    days = {
        EVENTS: settings.keep_events_days,
        REJECTS: settings.keep_rejects_days,
        QUALITY: settings.keep_quality_days,
        SIGNALS: settings.keep_signals_days,
        VERDICTS: settings.keep_verdicts_days,
    }
    return RetentionPolicy(
        roll_up_after=timedelta(days=settings.rollup_after_days) if settings.rollup_after_days else None,
        keep={table: timedelta(days=age) for table, age in days.items() if age},
        replay=timedelta(days=settings.replay_days),
        grace=timedelta(hours=settings.vacuum_grace_hours),
    )


def _print(steps: Sequence[Step], *, dry_run: bool) -> None:
    would = "would " if dry_run else ""
    for step in steps:
        if step.failed:
            click.echo(f"{step.table}: {step.what.replace('_', '-')} FAILED: {step.note}")
        elif step.what == "configure":
            click.echo(f"{step.table}: {step.note}")
        elif step.what == "roll_up":
            click.echo(f"{step.table}: {would}roll up: {step.rows:,} rows fewer ({step.note or 'nothing there'})")
        elif step.what == "retain":
            click.echo(f"{step.table}: {would}take out: {step.rows:,} rows in {step.files:,} files ({step.note})")
        else:
            click.echo(f"{step.table}: {would}delete: {step.files:,} files, {step.size:,} bytes ({step.note})")
